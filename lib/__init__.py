"""The Dual-Pivot Workbook: a thin library behind the notebooks. FRONT_DOOR names what a first restoration needs."""

import importlib
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is local: a hub that cannot be reached costs 46 s of retries

FRONT_DOOR = {
    "load_system": "lib.models.system_folder",
    "open_person": "lib.studies.person",
    "degrade": "lib.degradation.degrade",
    "prepare": "lib.training.pivots",
    "textual_pivot": "lib.training.pivots",
    "model_pivot": "lib.training.pivots",
    "dual_pivot": "lib.training.pivots",
    "restore": "lib.restoration.sampling",
    "measure": "lib.metrics.headline",
    "load_personal": "lib.models.personal_weights",
}
__all__ = list(FRONT_DOOR)


def __getattr__(name):
    """Import a public name when it is first used: a command that needs none of them starts without torch."""
    if name not in FRONT_DOOR:
        raise AttributeError(f"module 'lib' has no attribute {name!r}")
    value = getattr(importlib.import_module(FRONT_DOOR[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *FRONT_DOOR])
