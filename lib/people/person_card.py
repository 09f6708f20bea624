"""`person.yaml`: who a person folder shows, where the pictures come from, and on what terms they may be used."""

import re
from pathlib import Path

import yaml

from lib import strict_yaml
from lib.errors import PersonCardError

CARD = {"name": str, "class_noun": str, "source": str, "terms": str, "real": bool}
LARGEST_CARD = 64_000  # bytes
REMEDY = f"Remedy: write the fields {', '.join(CARD)} (real: true or false)."


def read_card(folder):
    """The `person.yaml` of a person folder.

    Args: folder.
    Returns a dict with the fields of CARD; `source` and `terms` are "" where an invented person gives none.
    Raises PersonCardError: the file is missing, too large or not YAML; a field is missing, unknown, mistyped or given
    twice; a real person has no source or terms.
    """
    file = Path(folder, "person.yaml")
    if not file.is_file():
        raise PersonCardError(f"No person.yaml: {file}. {REMEDY}")
    try:
        size = file.stat().st_size
        if size > LARGEST_CARD:
            raise ValueError(f"{size} bytes, at most {LARGEST_CARD} are read")
        card = strict_yaml.load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, TypeError, ValueError, OSError, RecursionError) as error:
        raise PersonCardError(f"Not YAML: {file} ({error}). {REMEDY}") from error
    return _checked(card, file, REMEDY)


def card_of_plain_folder(folder, class_noun=None, source=None, terms=None, real=True):
    """The same facts for a plain folder of photographs, which has no `person.yaml`.

    Args: folder, whose name becomes the person's; the others as in CARD. A real person needs a source and terms.
    Returns a dict as `read_card` does. Raises PersonCardError.
    """
    given = {"source": source, "terms": terms, "class_noun": class_noun or "person", "real": real}
    card = {"name": Path(folder).name, **{key: value for key, value in given.items() if value is not None}}
    remedy = (
        "Remedy: give source= (where the photographs come from) and terms= (what allows their use), or real=False for "
        "an invented person; or keep both in a person.yaml beside a folder references/."
    )
    return _checked(card, Path(folder, "person.yaml"), remedy, "a folder of photographs without a person.yaml")


def _checked(card, file, remedy, what=""):
    fault = _fault(card)
    if fault:
        raise PersonCardError(f"{fault}: {what + ', ' if what else ''}{file}. {remedy}")
    return {"source": "", "terms": "", **card}


def _fault(card):
    """What is wrong with the fields of a card, or None."""
    if not isinstance(card, dict):
        return "Not a list of fields"
    unknown = sorted(map(str, set(card) - set(CARD)))
    if unknown:
        return f"Unknown fields {unknown}"
    wanted = [key for key in CARD if key not in ("source", "terms") or card.get("real", True)]
    missing = [key for key in wanted if key not in card]
    if missing:
        return "Missing: " + ", ".join(f"field {key!r}" for key in missing)
    for key, value in card.items():
        if not isinstance(value, CARD[key]):
            return f"Field {key!r} is {type(value).__name__}, not {CARD[key].__name__} (quote texts)"
    if card["real"] and not (card["source"].strip() and card["terms"].strip()):
        return "A real person needs a source and terms"
    if not re.fullmatch(r"[^\W_][\w '-]{0,39}", card["class_noun"]):
        return "Field 'class_noun' is not a plain noun of at most 40 letters"
    return None
