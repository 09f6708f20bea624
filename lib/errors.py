"""Named errors of the workbook: each says what is wrong, where, and how to mend it."""


class WorkbookError(Exception):
    """Base of every error that the workbook raises on purpose."""
