"""Everything with an optimiser: the training loop, both pivots, and the training of the tiny system, of
the evaluation networks and of the face detector. Imports `lib.people`, `lib.degradation`, `lib.models` and the leaves.
"""
