"""`make lab`: after looking, running and saving in a real Jupyter server, git has nothing to say."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import nbformat
import pytest
from nbformat.v4 import new_output

from lib import paths
from lib.runs import lab

BOOK = "01_degradation_synthesis.ipynb"
TOKEN = "for-this-test"


def git(root, *words):
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A small repository with two of our notebooks, as it is committed."""
    root = tmp_path_factory.mktemp("lab") / "repository"
    (root / "notebooks").mkdir(parents=True)
    for name in (BOOK, lab.FIRST):
        shutil.copy(paths.NOTEBOOKS / name, root / "notebooks")
    shutil.copy(paths.ROOT / ".gitignore", root)
    (root / "README.md").write_text("# Read me")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "one")
    return root


@pytest.fixture(scope="module")
def server(root):
    """The address of JupyterLab as `make lab` starts it, on the small repository."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lab.refresh_copies(root)
    words = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", f"--IdentityProvider.token={TOKEN}"]
    environment = lab.environment() | {"JUPYTER_CONFIG_DIR": str(root.parent / "config")}
    log = (root.parent / "log").open("w")
    process = subprocess.Popen(lab.command(root, words), cwd=root, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                call(f"http://127.0.0.1:{port}", "")
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def call(server, path, model=None):
    """The contents API that JupyterLab uses: GET a file, or PUT a model."""
    request = urllib.request.Request(
        f"{server}/api/contents/{path}",
        data=None if model is None else json.dumps(model).encode(),
        headers={"Authorization": f"token {TOKEN}", "Content-Type": "application/json"},
        method="GET" if model is None else "PUT",
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def looked_at(content):
    """What JupyterLab makes of a notebook that is only opened: its kernel's own names."""
    content["metadata"]["kernelspec"]["display_name"] = "Python 3 (ipykernel)"
    content["metadata"]["language_info"] |= {"version": "3.11.7", "file_extension": ".py"}
    content["cells"][0]["metadata"]["trusted"] = True
    return {"type": "notebook", "format": "json", "content": content}


def test_the_whole_repository_is_shown(server):
    assert {"notebooks", "README.md", "runs"} <= {item["name"] for item in call(server, "")["content"]}


def test_looking_at_a_committed_notebook_leaves_git_clean(server, root):
    call(server, f"notebooks/{BOOK}", looked_at(call(server, f"notebooks/{BOOK}")["content"]))
    assert git(root, "status", "--porcelain") == ""


def test_running_and_saving_a_copy_leaves_git_clean(server, root):
    model = looked_at(call(server, f"runs/lab/{BOOK}")["content"])
    code = next(cell for cell in model["content"]["cells"] if cell["cell_type"] == "code")
    code["outputs"] = [new_output("stream", name="stdout", text="took 7.1 s\n")]
    call(server, f"runs/lab/{BOOK}", model)
    assert git(root, "status", "--porcelain") == ""
    assert "took 7.1 s" in (root / "runs" / "lab" / BOOK).read_text()


def test_copies_follow_the_committed_notebooks_and_edits_are_kept(root, capsys):
    folder = root / "runs" / "lab"
    lab.refresh_copies(root)
    (copy, path), (first, own) = ((folder / name, root / "notebooks" / name) for name in (BOOK, lab.FIRST))
    for file, source in ((copy, "# mine"), (path, "# theirs"), (own, "# theirs")):
        nb = nbformat.read(file, 4)
        nb.cells[1].source = source
        nbformat.write(nb, file)
    lab.refresh_copies(root)
    assert nbformat.read(copy, 4).cells[1].source == nbformat.read(first, 4).cells[1].source == "# theirs"
    assert nbformat.read(folder / BOOK.replace(".ipynb", ".mine.ipynb"), 4).cells[1].source == "# mine"
    assert (
        not (folder / lab.FIRST.replace(".ipynb", ".mine.ipynb")).exists()
        and "your edited copy" in capsys.readouterr().out
    )
    git(root, "checkout", "-q", "--", "notebooks")


def test_a_copy_links_to_what_the_notebook_links_to(root):
    (root / "notebooks" / "x.ipynb").write_text(
        nbformat.writes(
            nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"[a]({BOOK}) [b](../README.md)")])
        )
    )
    lab.refresh_copies(root)
    (root / "notebooks" / "x.ipynb").unlink()
    (cell,) = nbformat.read(root / "runs" / "lab" / "x.ipynb", 4).cells
    assert cell.source == f"[a]({BOOK}) [b](../../README.md)"


def test_make_lab_takes_options():
    words = ["make", "-n", "-o", "environment", "lab", "ARGS=--allow-root --no-browser --ip 0.0.0.0"]
    said = subprocess.run(words, cwd=paths.ROOT, capture_output=True, text=True, check=True).stdout
    assert "lib.runs.lab --allow-root --no-browser --ip 0.0.0.0" in said


def test_a_users_own_configuration_is_read_too(monkeypatch):
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "/theirs")
    assert lab.environment()["JUPYTER_CONFIG_PATH"].split(os.pathsep) == [str(paths.ROOT / "lib" / "runs"), "/theirs"]
    assert sys.executable == lab.command(paths.ROOT)[0]
