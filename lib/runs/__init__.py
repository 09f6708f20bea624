"""Running a notebook and keeping what it found: parameters, the strict runner, run folders, records, pages, figures.

Imports: the leaves, and of `lib.metrics` its labels alone.
"""
