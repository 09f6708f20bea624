"""The user study: its file, balanced trials, answers kept and served, their analysis, simulated observers, power.

Imports: `people` (picture files), `metrics` (landmarks and the table of metrics) and `runs` (records, figures).
"""
