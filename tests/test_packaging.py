"""Versions live once, every import is pinned, and the commands are what their help says."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires, version

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement

from lib import checks, paths
from lib.errors import DeviceError, NoSpaceError, RangeError, UnsafePathError

PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(pin.split("==") for pin in PROJECT["dependencies"])
NOT_PINNED = {"lib", "tests"}


def imports(source):
    """Top-level names that some Python source imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def sources():
    for folder in ("lib", "tests"):
        for path in (paths.ROOT / folder).rglob("*.py"):
            yield path.name, path.read_text()
    for path in paths.NOTEBOOKS.glob("*.ipynb"):
        code = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        yield path.name, "\n".join(re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.M) for source in code)


def test_installed_versions_are_the_pins():
    installed = {name: version(name).split("+")[0] for name in PINS}
    assert installed == PINS


def test_constraints_hold_the_pins_and_what_they_require():
    lines = [line for line in (paths.ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    held = {canonical(name): number for name, number in (line.split("==") for line in lines)}
    assert not [line for line in lines if "+" in line or "@" in line]
    assert {name: held.get(canonical(name)) for name in PINS} == PINS
    required = [Requirement(text) for name in PINS for text in requires(name) or []]
    wanted = {canonical(one.name) for one in required if not one.marker or one.marker.evaluate({"extra": ""})}
    assert not wanted - set(held)


def canonical(name):
    """The name of a distribution as an index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_citation_names_the_paper_and_this_version():
    citation = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]
    assert citation["preferred-citation"]["title"] == "Personalized Restoration via Dual-Pivot Tuning"


def test_pins_carry_no_local_build():
    assert not [
        pin for pin in PROJECT["dependencies"] if "+" in pin or not re.fullmatch(r"[A-Za-z0-9_-]+==[0-9.]+", pin)
    ]


def test_every_import_is_pinned():
    providers = packages_distributions()
    wanted = {
        (name, file)
        for file, source in sources()
        for name in imports(source)
        if name not in NOT_PINNED
        and name not in sys.stdlib_module_names
        and not (paths.ROOT / "tests" / f"{name}.py").exists()
    }
    pinned = {pin.lower() for pin in PINS}
    loose = {(name, file) for name, file in wanted if not pinned & {found.lower() for found in providers.get(name, [])}}
    assert not loose


def test_conda_environment_takes_its_versions_from_the_project():
    environment = yaml.safe_load((paths.ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["-e ."]}
    python = next(item for item in conda if item.startswith("python="))
    assert set(conda) == {python, "pip"}
    assert PROJECT["requires-python"].split(",")[0] == python.replace("python=", ">=")


def test_the_makefile_reads_the_torch_pin_from_the_project():
    text = (paths.ROOT / "Makefile").read_text()
    script = re.search(r"sed -nE '(.*?)' pyproject.toml", text)[1]
    found = subprocess.run(
        ["sed", "-nE", script, "pyproject.toml"], cwd=paths.ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [f"torch=={PINS['torch']}"]
    assert not [line for line in text.splitlines() if re.search(r"==\d", line)]


def test_help_lists_every_target():
    listed = subprocess.run(["make", "help"], cwd=paths.ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (paths.ROOT / "Makefile").read_text(), re.M)[1].split()
    assert re.findall(r"^make (\w+) +\S", listed, re.M) == phony


def test_a_wrong_python_is_refused_before_anything_is_made(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((paths.ROOT / name).read_text())
    false = tmp_path / "python"
    false.write_text("#!/bin/sh\nexit 1\n")
    false.chmod(0o755)
    done = subprocess.run(["make", "environment", f"PYTHON={false}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode and "Remedy: install Python 3.11 or 3.12" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_ci_runs_make_test():
    script = paths.ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) and script.read_text().splitlines()[-1] == "exec make test"


def test_folders_are_absolute_and_from_the_file():
    assert (paths.ROOT / "lib" / "paths.py").is_file()
    assert all(
        folder.is_absolute() for folder in (paths.NOTEBOOKS, paths.DATA, paths.PARAMS, paths.RESULTS, paths.SYSTEM)
    )
    assert paths.display_path(paths.DATA / "x.png") == "data/x.png"


@pytest.mark.parametrize("names", [("..", "x"), ("a/../../x",), ("/etc/passwd",), (".",), ("out", "x")])
def test_child_refuses_what_leaves_the_folder(tmp_path, names):
    base = tmp_path / "base"
    base.mkdir()
    (base / "out").symlink_to(tmp_path)
    assert paths.child(base, "in", "x") == base / "in" / "x"
    with pytest.raises(UnsafePathError):
        paths.child(base, *names)


def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("old")
    with pytest.raises(NoSpaceError), paths.atomic_write(target) as part:
        part.symlink_to("/dev/full")  # every write to it fails as on a full disk
        part.write_text("new")
    assert target.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["out.txt"]


def test_ctrl_c_while_writing_a_folder_leaves_the_old_one(tmp_path):
    target = tmp_path / "folder"
    for text in ("old", "new"):
        with paths.atomic_write(target) as part:
            part.mkdir()
            (part / "file").write_text(text)
    with pytest.raises(KeyboardInterrupt), paths.atomic_write(target) as part:
        part.mkdir()
        raise KeyboardInterrupt
    assert (target / "file").read_text() == "new" and len(list(tmp_path.iterdir())) == 1


def test_ranges():
    assert (checks.whole("steps", 5), checks.fraction("gamma", 1), checks.finite("w", 1.5), checks.device("cpu")) == (
        5,
        1.0,
        1.5,
        "cpu",
    )
    for refused in (-1, 2.0, True, "3"):
        with pytest.raises(RangeError):
            checks.whole("steps", refused)
    for refused in (-0.1, 1.1, float("nan"), "0.5", True):
        with pytest.raises(RangeError):
            checks.fraction("gamma", refused)
    with pytest.raises(RangeError, match="w out of range: inf"):
        checks.finite("w", float("inf"))
    with pytest.raises(DeviceError, match="this machine has: cpu"):
        checks.device("gpu")
