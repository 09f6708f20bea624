"""Common to all tests and, through nbval, to the notebooks: a clean place to write, no network, stderr not compared.

It lies at the root, so that a single notebook named to pytest, from whatever folder, finds it, too.

The tiny system and what is tuned on it are made once. A test that changes a network builds its own.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

SANITIZE = Path(__file__).parent / "tests" / "nbval_sanitize.cfg"


LONGEST = "test_full_size.py", ".ipynb"  # started first, so that no worker is left with one of them at the end


def pytest_configure(config):
    workers = getattr(config, "workerinput", {}).get("workercount")
    if workers:  # of pytest-xdist; threads of several processes on the same cores wait for one another
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // workers)))
    # A live run resumes from what an earlier one left; a check must start from nothing.
    config.workbook_runs = os.environ["WORKBOOK_RUNS"] = tempfile.mkdtemp(prefix="workbook-tests-")
    os.environ.pop("WORKBOOK_RUN_FOLDER", None)
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")  # kernels inherit them
    config.option.nbval_sanitize_with = config.option.nbval_sanitize_with or str(SANITIZE)


def pytest_unconfigure(config):
    shutil.rmtree(config.workbook_runs, ignore_errors=True)


def pytest_collection_modifyitems(items):
    """Longest files first. nbval compares stderr, too, which progress bars make different every time: left out."""
    for notebook in {item.parent for item in items if hasattr(item.parent, "skip_compare")}:
        notebook.skip_compare += ("stderr",)
    items.sort(key=lambda item: next((k for k, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST)))


@pytest.fixture(scope="session")
def shared_system():
    """The tiny system of all tests; a session that changed it fails at its end."""
    import tiny_system  # imports torch, which nbval's sessions need not wait for

    B = tiny_system.build()
    before = tiny_system.everything(B)
    yield B
    for was, now in zip(before, tiny_system.everything(B), strict=True):
        assert was == now, "a test changed the shared system"


@pytest.fixture(scope="module")
def B(shared_system):
    """The tiny system, `tiny_system.build()`, not to be changed."""
    return shared_system


@pytest.fixture(scope="session")
def data(shared_system):
    """Three pictures prepared for tuning, with two degradations each."""
    import tiny_system

    from lib.training.pivots import prepare

    return prepare(shared_system, tiny_system.pictures(3), degradations=2)


@pytest.fixture(scope="session")
def dual(shared_system, data):
    """A system after both pivots, full weights."""
    return tuned_twice(shared_system, data, 0)


@pytest.fixture(scope="session")
def adapted(shared_system, data):
    """A system after both pivots, adapters of rank 2."""
    return tuned_twice(shared_system, data, 2)


def tuned_twice(B, data, lora):
    from lib.training.pivots import model_pivot, textual_pivot
    from lib.training.trainer import Training

    quick = Training(steps=3, batch=2, lr=1e-2, lora=lora, quiet=True)
    return model_pivot(textual_pivot(B, data, training=quick, gamma=0.3), data, quick)
