"""The parameters of a notebook: declared in its one tagged cell, and checked before anything runs."""
import ast
import difflib
import math
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml

from lib import checks, paths
from lib.errors import NotebookError, ParameterError

SCALARS = {"int": int, "float": (int, float), "str": str, "bool": bool}
HEADER = "notebook"  # the key of a params file that names the notebook it is for, or a list of several
# The last word of a parameter's name says its range, in every notebook alike.
LEAST = {"STEPS": 0, "SEED": 0, "PRIOR": 0, "LORA": 0, "INPUTS": 1, "SEEDS": 1, "BATCH": 1, "REFERENCES": 1, "DRAWS": 1, "CROWD": 1,
         "SHOTS": 1, "BATCHES": 1, "MEASURED": 1, "TEXTUAL_STEPS": 1, "MODEL_STEPS": 1, "SAMPLING_STEPS": 2}
MOST = {"SAMPLING_STEPS": 1000}  # what the schedule has


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
    for path in (Path(name), paths.NOTEBOOKS / f"{Path(name).stem}.ipynb"):
        if path.suffix == ".ipynb" and path.is_file():
            return path.resolve()
    known = ", ".join(sorted(path.stem for path in paths.NOTEBOOKS.glob("*.ipynb"))) or "none yet"
    raise NotebookError(f"No such notebook: {name}. Remedy: use one of these: {known}.")


def load(notebook):
    """The notebook as nbformat reads it. Raises NotebookError where it is no notebook."""
    try:
        return nbformat.read(notebook, as_version=4)
    except (ValueError, AttributeError, KeyError, nbformat.ValidationError) as error:  # what nbformat raises for other JSON, and for none
        raise NotebookError(f"Not a notebook: {paths.display_path(notebook)}: {error}. Remedy: restore the file from git.") from None


def declared(notebook):
    """The notebook's parameters, dict of name to Parameter, in order. Raises NotebookError where the cell breaks the contract."""
    cells = [cell for cell in load(notebook).cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise NotebookError(f"{len(cells)} cells are tagged 'parameters': {paths.display_path(notebook)}. Remedy: tag exactly one.")
    try:
        body = ast.parse(cells[0].source).body
    except SyntaxError as error:
        raise NotebookError(f"Parameters cell is not Python: {paths.display_path(notebook)}: {error}. Remedy: mend the cell.") from None
    lines = cells[0].source.encode().splitlines()  # ast counts columns in bytes
    found = [_parameter(node, lines[node.end_lineno - 1][node.end_col_offset:].decode(), notebook) for node in body]
    return {one.name: one for one in found}


def _parameter(node, tail, notebook):
    """One statement of the cell, held to the contract: a name, a type, a literal, a comment."""
    comment = tail.strip()
    try:
        name, kind = node.target.id, ast.unparse(node.annotation)
        required = node.value is None
        default = None if required else conform(ast.literal_eval(node.value), kind)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise NotebookError(f"Not a parameter: `{ast.unparse(node)}` in {paths.display_path(notebook)}: {error}. "
                            "Remedy: write `NAME: type = literal  # what it means`.") from None
    if not comment.startswith("#"):
        raise NotebookError(f"Parameter without a comment: {name} in {paths.display_path(notebook)}. Remedy: say on its line what it means.")
    return Parameter(name, kind, default, required, comment.lstrip("# "))


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


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, of which plain YAML keeps the last."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.YAMLError(f"given twice: {', '.join(sorted(twice))}")
        return super().construct_mapping(node, deep)


def from_file(path, notebook):
    """The parameters in a YAML file, without its header; of a file for several notebooks, without those of the others. Raises ParameterError."""
    try:
        found = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ParameterError(f"Cannot read the params file: {path}: {error.strerror}. Remedy: see params/.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"Params file is not YAML: {path}: {error}. Remedy: write lines of `NAME: value`.") from None
    if not isinstance(found, dict):
        raise ParameterError(f"Params file holds no parameters: {path}. Remedy: write lines of `NAME: value`.")
    meant = found.pop(HEADER, notebook.stem)
    meant = meant if isinstance(meant, list) else [meant]
    if notebook.stem not in meant:
        raise ParameterError(f"Params file is for {' and '.join(map(str, meant))}, not {notebook.stem}: {path}. Remedy: run that notebook with it.")
    own = declared(notebook)
    others = {name for other in meant if other != notebook.stem for name in declared(find(other))}
    return {name: value for name, value in found.items() if name in own or name not in others}  # `resolve` names what nobody has


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
    known = declared(notebook)
    given = {name: (value, str(path)) for path in files for name, value in from_file(path, notebook).items()}
    given |= {name: (text, "-p") for name, text in typed}
    if unknown := [name for name in given if name not in known]:
        near = difflib.get_close_matches(str(unknown[0]), known, n=1)
        raise ParameterError(f"Unknown parameter: {unknown[0]} from {given[unknown[0]][1]}. Remedy: {notebook.stem} has "
                             f"{', '.join(known) or 'none'}{f'; did you mean {near[0]}?' if near else '.'}")
    if missing := [one.name for one in known.values() if one.required and one.name not in given]:
        raise ParameterError(f"Missing parameter: {', '.join(missing)} of {notebook.stem}. Remedy: give it with -p or -f.")
    return {name: _checked(one, given.get(name, (one.default, "the notebook"))) for name, one in known.items()}


def _checked(one, given):
    value, where = given
    try:
        value = conform(from_text(value, one.kind) if where == "-p" else value, one.kind)
    except TypeError as error:
        raise ParameterError(f"Mistyped parameter: {one.name} from {where}: {error}. "
                             f"Remedy: give {one.kind} ({one.comment}).") from None
    return value if value is None else _in_range(one.name, value)


def _in_range(name, value):
    """The value, if its range allows it. Raises RangeError, DeviceError."""
    last = name.split("_")[-1]
    if last == "DEVICE":
        return checks.device(value)
    if last == "LEVERS":
        from lib.models import precision
        precision.parse(value)
    if last == "OTHERS":
        from lib.restoration import photographs
        photographs.check_others(value)
    if last == "GAMMA":
        return checks.fraction(name, value)
    if last == "RATE":
        return checks.positive(name, value)
    if isinstance(value, list):
        return checks.distinct(name, value)
    least = LEAST.get(name, LEAST.get(last))
    return value if least is None else checks.whole(name, value, least, MOST.get(name))


def is_default(notebook, variables):
    """Whether the running kernel has the committed notebook's own parameters; arguments as of `values`."""
    return all(variables[name] == one.default for name, one in declared(find(notebook)).items())


def values(notebook, variables):
    """The values that the notebook's parameters have in its running kernel, for its record.

    Args: `notebook` its name; `variables` its `globals()`.
    """
    return {name: variables[name] for name in declared(find(notebook))}
