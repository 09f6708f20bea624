"""Common to all tests and, through nbval, to the notebooks: a clean place to write, no network, stderr not compared.

It lies at the root, so that a single notebook named to pytest, from whatever folder, finds it, too.
"""

import os
import shutil
import tempfile
from pathlib import Path

SANITIZE = Path(__file__).parent / "tests" / "nbval_sanitize.cfg"


def pytest_configure(config):
    # A live run resumes from what an earlier one left; a check must start from nothing.
    config.workbook_runs = os.environ["WORKBOOK_RUNS"] = tempfile.mkdtemp(prefix="workbook-tests-")
    os.environ.pop("WORKBOOK_RUN_FOLDER", None)
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")  # kernels inherit them
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads are slow on a busy machine
    config.option.nbval_sanitize_with = config.option.nbval_sanitize_with or str(SANITIZE)


def pytest_unconfigure(config):
    shutil.rmtree(config.workbook_runs, ignore_errors=True)


def pytest_collection_modifyitems(items):
    """nbval compares stderr too, where progress bars and warnings differ every time; committed notebooks hold none."""
    for notebook in {item.parent for item in items if hasattr(item.parent, "skip_compare")}:
        notebook.skip_compare += ("stderr",)
