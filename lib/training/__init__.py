"""Everything with an optimiser: the training loop, the two pivots, and the pre-training of the tiny system.

May import the leaves, people, degradation and models.
"""
