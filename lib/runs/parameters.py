"""The parameters of a notebook: declared in its one tagged cell, and checked before anything runs."""

import ast
import copy
import difflib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from lib import paths
from lib.errors import NotebookError, ParameterError
from lib.runs import ranges
from lib.runs.yaml_files import mapping

SCALARS = {"int": int, "float": (int, float), "str": str, "bool": bool}
ROW = "the table"  # where a value comes from that is a cell of a row
HEADER = "notebook"  # the key of a params file that names the notebook it is for, or a list of several


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell: `NAME: kind = default  # comment`; without a value it is required."""

    name: str
    kind: str
    default: object
    required: bool
    comment: str


def find(name):
    """The path of a notebook, given as a path or by its name. Raises NotebookError naming those there are."""
    try:
        os.fspath(name).encode()
    except UnicodeEncodeError:
        raise NotebookError(f"Name is not UTF-8: {name!a}. Remedy: rename the notebook.") from None
    for path in (Path(name), paths.NOTEBOOKS / f"{Path(name).stem}.ipynb"):
        if path.suffix == ".ipynb" and path.is_file():
            return path.resolve()
    known = ", ".join(sorted(path.stem for path in paths.NOTEBOOKS.glob("*.ipynb")))
    if not known:
        raise NotebookError(
            f"No notebooks in {paths.NOTEBOOKS}. Remedy: clone the repository and install it in place "
            "(pip install --editable .); an installed copy of lib has neither notebooks nor data."
        )
    raise NotebookError(f"No such notebook: {name}. Remedy: use one of these: {known}.")


def load(notebook):
    """The notebook as nbformat reads it. Raises NotebookError where it is no notebook."""
    import nbformat  # takes more than a second, which a kernel that only asks for `declared` need not wait

    try:
        return nbformat.read(notebook, as_version=4)
    except (ValueError, AttributeError, KeyError, nbformat.ValidationError) as error:  # for other JSON, and for none
        raise _not_a_notebook(notebook, error) from None


def _not_a_notebook(notebook, error):
    return NotebookError(f"Not a notebook: {paths.display_path(notebook)}: {error}. Remedy: restore the file from git.")


def _parameters_cells(notebook):
    """The sources of the cells that are tagged as parameters."""
    try:
        cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
        tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
        return ["".join(cell["source"]) for cell in tagged]
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # for other JSON, and for none
        raise _not_a_notebook(notebook, error) from None


def declared(notebook):
    """The notebook's parameters, dict of name to Parameter, in order; comment lines between them group them.

    Raises NotebookError where the cell breaks the contract.
    """
    cells = _parameters_cells(notebook)
    if len(cells) != 1:
        raise NotebookError(
            f"{len(cells)} cells are tagged 'parameters': {paths.display_path(notebook)}. Remedy: tag exactly one."
        )
    try:
        body = ast.parse(cells[0]).body
    except SyntaxError as error:
        raise NotebookError(
            f"Parameters cell is not Python: {paths.display_path(notebook)}: {error}. Remedy: correct the cell."
        ) from None
    lines = cells[0].encode().splitlines()  # ast counts columns in bytes
    found = [_parameter(node, lines[node.end_lineno - 1][node.end_col_offset :].decode(), notebook) for node in body]
    return {one.name: one for one in found}


def _parameter(node, tail, notebook):
    """One statement of the cell, held to the contract: a name, a type, a literal, a comment."""
    comment = tail.strip()
    try:
        name, kind = node.target.id, ast.unparse(node.annotation)
        required = node.value is None
        default = None if required else conform(ast.literal_eval(node.value), kind)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise NotebookError(
            f"Not a parameter: `{ast.unparse(node)}` in {paths.display_path(notebook)}: {error}. "
            "Remedy: write `NAME: type = literal  # what it means`."
        ) from None
    if not comment.startswith("#"):
        raise NotebookError(
            f"Parameter without a comment: {name} in {paths.display_path(notebook)}. "
            "Remedy: say on its line what it means."
        )
    return Parameter(name, kind, default, required, comment.lstrip("# "))


def with_values(nb, values):
    """A copy of a notebook whose parameters cell has these values in place of its defaults.

    So the executed notebook shows each parameter once, and gives the same results when it is run by hand.
    """
    nb = copy.deepcopy(nb)
    cell = next(cell for cell in nb.cells if "parameters" in cell.metadata.get("tags", []))
    lines = [line.encode() for line in cell.source.split("\n")]  # ast counts columns in bytes
    for node in reversed(ast.parse(cell.source).body):
        if node.target.id in values and not _holds(node, values[node.target.id]):
            head = lines[node.target.lineno - 1][: node.annotation.end_col_offset]
            tail = lines[node.end_lineno - 1][node.end_col_offset :]
            literal = f" = {values[node.target.id]!r}".encode()
            lines[node.lineno - 1 : node.end_lineno] = [head + literal + tail]
    cell.source = b"\n".join(lines).decode()
    return nb


def _holds(node, value):
    """Whether a line of the cell has this very value as it stands."""
    return node.value is not None and ast.literal_eval(node.value) == value


def conform(value, kind):
    """The value as its kind wants it: `int`, `float`, `str`, `bool`, `list[...]`, `... | None`.

    An int is taken where a float is meant; a bool is no number. Raises TypeError, KeyError for an unknown kind.
    """
    if kind.endswith(" | None"):
        return None if value is None else conform(value, kind.removesuffix(" | None"))
    if kind.startswith("list[") and kind.endswith("]"):
        if not isinstance(value, list):
            raise TypeError(f"{value!r} is no list")
        return [conform(item, kind[5:-1]) for item in value]
    if not isinstance(value, SCALARS[kind]) or isinstance(value, bool) != (kind == "bool"):
        raise TypeError(f"{value!r} is {type(value).__name__}, not {kind}{_hint(value, kind)}")
    if kind == "float" and not math.isfinite(value):
        raise TypeError(f"{value!r} is not finite")
    return float(value) if kind == "float" else value


def _hint(value, kind):
    """Why a number in a params file has become text, and how to write it."""
    try:
        mantissa, exponent = f"{float(value):.15e}".split("e")
    except (TypeError, ValueError):
        return ""
    if kind != "float" or not isinstance(value, str):
        return ""
    return f" (YAML reads it as text: write {float(mantissa)}e{int(exponent):+d})"


def from_file(path, notebook):
    """The parameters in a YAML file, without its header; of a file for several notebooks, without those of the others.

    Raises ParameterError.
    """
    found = mapping(path)
    meant = found.pop(HEADER, notebook.stem)
    meant = meant if isinstance(meant, list) else [meant]
    if notebook.stem not in meant:
        raise ParameterError(
            f"Params file is for {' and '.join(map(str, meant))}, not {notebook.stem}: {path}. "
            "Remedy: run that notebook with it."
        )
    own = declared(notebook)
    others = {name for other in meant if other != notebook.stem for name in declared(find(other))}
    return {
        name: value for name, value in found.items() if name in own or name not in others
    }  # `resolve` names what nobody has


def from_text(text, kind):
    """What was typed after `-p NAME`, read by the kind the notebook declares (so 1e-4 is a number here)."""
    if kind.endswith(" | None"):
        return None if text == "null" else from_text(text, kind.removesuffix(" | None"))
    if kind == "str":
        return text
    try:
        return {"int": int, "float": float}.get(kind, yaml.safe_load)(text)
    except (ValueError, yaml.YAMLError):
        return text  # `conform` names it


def resolve(notebook, files=(), typed=()):
    """Every parameter of a run, defaults included: dict of name to value, in the notebook's order.

    Args: `files` paths of YAML files, a later one wins; `typed` pairs (name, text), which win over files.
    Raises NotebookError, ParameterError, and the errors of lib.checks.
    """
    return resolve_rows(notebook, files, typed)({})


def resolve_rows(notebook, files=(), typed=(), here=True):
    """A function from what a row of a table adds (dict of name to text) to every parameter, as `resolve` gives them.

    The notebook and the files are read once. here: whether the runs will have this machine's devices.
    """
    known = declared(notebook)
    given = {name: (value, str(path)) for path in files for name, value in from_file(path, notebook).items()}
    given |= {name: (text, "-p") for name, text in typed}
    return lambda row: _resolved(notebook, known, given | {name: (text, ROW) for name, text in row.items()}, here)


def _resolved(notebook, known, given, here):
    if unknown := [name for name in given if name not in known]:
        near = difflib.get_close_matches(str(unknown[0]), known, n=1)
        raise ParameterError(
            f"Unknown parameter: {unknown[0]} from {given[unknown[0]][1]}. Remedy: {notebook.stem} has "
            f"{', '.join(known) or 'none'}{f'; did you mean {near[0]}?' if near else '.'}"
        )
    if missing := [one.name for one in known.values() if one.required and one.name not in given]:
        raise ParameterError(
            f"Missing parameter: {', '.join(missing)} of {notebook.stem}. Remedy: give it with -p or -f."
        )
    return {name: _checked(one, given.get(name, (one.default, "the notebook")), here) for name, one in known.items()}


def _checked(one, given, here=True):
    value, where = given
    try:
        value = conform(from_text(value, one.kind) if where in ("-p", ROW) else value, one.kind)
    except TypeError as error:
        raise ParameterError(
            f"Mistyped parameter: {one.name} from {where}: {error}. Remedy: give {one.kind} ({one.comment})."
        ) from None
    if value is None or value == one.default == "" or (one.name == "DEVICE" and not here):
        return value  # where it is the default, "" stands for a choice that the notebook makes
    return ranges.check(one.name, value)


def is_default(notebook, variables):
    """Whether the running kernel has the committed notebook's own parameters; arguments as of `values`."""
    return all(variables[name] == one.default for name, one in declared(find(notebook)).items())


def values(notebook, variables):
    """The values that the notebook's parameters have in its running kernel, for its record.

    Args: `notebook` its name; `variables` its `globals()`.
    """
    return {name: variables[name] for name in declared(find(notebook))}
