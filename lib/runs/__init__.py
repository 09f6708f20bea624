"""Running a notebook and keeping what it found: parameters, the strict runner, batches, records, pages, site, figures.

Imports: the leaves alone. What a figure must know of metrics (labels, which way is better) it is given.
"""
