"""The Dual-Pivot Workbook: a thin library behind the notebooks."""
