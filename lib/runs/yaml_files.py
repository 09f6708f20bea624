"""YAML files of parameters, or of a user study: read safely, and refused where they are no plain mapping."""

from pathlib import Path

import yaml

from lib import strict_yaml
from lib.errors import ParameterError

LARGEST = 2**20  # bytes


def _read(path):
    """The text of a params file. Raises ParameterError for a special file, a large one, and one that cannot be read."""
    try:
        if path.exists() and not path.is_file():
            raise ParameterError(f"Params file is no file: {path}. Remedy: give a YAML file; see params/.")
        if path.stat().st_size > LARGEST:
            raise ParameterError(f"Params file of more than 1 MB: {path}. Remedy: write lines of `NAME: value`.")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ParameterError(f"Cannot read the params file: {path}: {error.strerror}. Remedy: see params/.") from None
    except UnicodeDecodeError as error:
        raise ParameterError(f"Params file is not UTF-8: {path}: {error}. Remedy: save it as UTF-8 text.") from None


def mapping(path):
    """What a YAML file of parameters, or of a user study, holds: a dict. Raises ParameterError."""
    text = _read(Path(path))
    try:
        found = strict_yaml.load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ParameterError(
            f"Params file is not YAML: {path}: {error}. Remedy: write lines of `NAME: value`."
        ) from None
    if not isinstance(found, dict):
        raise ParameterError(f"Params file holds no parameters: {path}. Remedy: write lines of `NAME: value`.")
    return found
