"""Everything that restores without training: sampling, whole photographs, several people's adapters, baselines.

May import the leaves, people, models, and metrics.identity.
"""
