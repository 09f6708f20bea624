"""Metrics: the table of all metrics, the headline metrics, identity by recognisers, landmarks, and sets of pictures.

Imports: the leaves and lib.people. Nothing here is trained, and no metric needs the system that restored a picture.
"""
