"""The Dual-Pivot Workbook: a thin library behind the notebooks."""

import os

os.environ.setdefault(
    "HF_HUB_OFFLINE", "1"
)  # everything is local: a hub that cannot be reached would cost 46 s of retries
