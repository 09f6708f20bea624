"""Degradation of pictures by eq. 9: operators, recipes (the public ones and this workbook's), and settings that are
sampled from a recipe, saved and replayed. Imports only the leaves (`lib.errors`, `lib.paths`, `lib.checks`,
`lib.images`).
"""
