"""The packages of lib: each says what lives in it, and imports only what the arrows allow."""

import ast

import pytest

from lib import paths

LIB = paths.ROOT / "lib"
LEAVES = {"errors", "paths", "checks", "images", "strict_yaml"}
ARROWS = {
    "people": set(),
    "degradation": set(),
    "models": set(),
    "metrics": {"people"},
    "training": {"people", "degradation", "models", "metrics.landmark_distances"},
    "restoration": {"people", "models", "metrics.identity", "metrics.landmark_distances"},
    "studies": {"people", "degradation", "models", "metrics", "training", "restoration", "runs"},
    "user_study": {"people", "metrics", "runs"},
    "runs": set(),
}


def imported(path):
    """What a file imports of lib, without the `lib.` in front: "people.person", "errors"."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"a relative import in {path}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.removeprefix("lib.") for name in names if name.startswith("lib."))


def within(name, allowed):
    """Whether a module is one of the allowed ones, or inside one of them."""
    return any(f"{name}.".startswith(f"{one}.") for one in allowed)


def test_every_package_is_known():
    packages = {path.parent.name for path in LIB.glob("*/__init__.py")}
    assert packages == set(ARROWS)


@pytest.mark.parametrize("package", ARROWS)
def test_a_package_imports_only_what_the_arrows_allow(package):
    allowed = LEAVES | {package} | ARROWS[package]
    against = [
        f"{path.relative_to(LIB)} imports {name}"
        for path in sorted((LIB / package).rglob("*.py"))
        for name in imported(path)
        if not within(name, allowed)
    ]
    assert not against


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_a_leaf_imports_only_leaves(leaf):
    assert [name for name in imported(LIB / f"{leaf}.py") if not within(name, LEAVES)] == []


@pytest.mark.parametrize("package", ARROWS)
def test_a_package_says_what_lives_in_it(package):
    text = ast.get_docstring(ast.parse((LIB / package / "__init__.py").read_text()))
    assert text and "import" in text.lower()
