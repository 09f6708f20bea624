"""The table of answers: written as CSV, read back and checked, and the rule by which participants are left out."""

import csv
import io
import sqlite3
from contextlib import closing

import pandas as pd

from lib.errors import StoreError
from lib.paths import display_path, from_root
from lib.user_study.design import ATTENTION, TRIAL
from lib.user_study.store import FILE, QUERY

SEPARATOR, SPOILED, SIMULATED = "|", "(spoiled)", "simulated"
COLUMNS = {
    "origin": "browser, notebook, or simulated",
    "participant": "number, from 0",
    "trial": "place in that participant's order, from 0",
    "part": "name of the part",
    "kind": "practice, trial, repeat or attention",
    "item": "person and input",
    "options": "the arms from left to right",
    "position": "the chosen place, from 0",
    "chosen": "the chosen arm",
    "correct": "1 or 0 where there is a right answer",
    "seconds": "of the choice, by the participant's clock",
    "server_seconds": "by the server's clock",
    "width": "of an option on the screen, CSS pixels",
    "at": "UTC",
}
NEEDED = ("participant", "part", "kind", "item", "options", "chosen", "seconds")

FORMULA = tuple("=+-@\t\r")  # a spreadsheet runs a cell that begins so


def named(arm):
    """The name of an option in the table; the spoiled ones of practice and attention trials have none of their own."""
    return SPOILED if arm is None else arm


def joined(options):
    """The options of a trial as one text."""
    return SEPARATOR.join(map(named, options))


def to_csv(rows):
    """The CSV text of rows as of `Store.answers`."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)
    return stream.getvalue()


def _harmless(value):
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def read_csv(path):
    """The answers in a CSV as `python -m lib.userstudy` exports it, or one with at least the columns NEEDED.

    Returns a DataFrame, one row per answer; `options` holds tuples. Raises StoreError for a file that is missing, is no
    such table, has a trial of one participant twice, or a choice that was not among its options.
    """
    where = from_root(path)
    try:
        table = pd.read_csv(where, dtype={"options": str, "chosen": str, "item": str, "part": str})
    except (OSError, ValueError) as error:
        raise StoreError(
            f"Cannot read the answers: {display_path(where)}: {error}. Remedy: export them (see the page)."
        ) from None
    return checked(table, display_path(where))


def read(path):
    """The answers in a CSV, in a store's file or in its folder, also while a server writes there; as `read_csv`."""
    where = from_root(path)
    where = where / FILE if where.is_dir() else where
    if where.suffix != ".sqlite":
        return read_csv(where)
    try:
        with closing(sqlite3.connect(f"{where.as_uri()}?mode=ro", uri=True, timeout=20)) as db:
            table = pd.read_sql_query(QUERY, db)
    except (sqlite3.Error, pd.errors.DatabaseError) as error:
        raise StoreError(
            f"Cannot read the answers: {display_path(where)}: {error}. Remedy: serve the study first."
        ) from None
    return checked(table, display_path(where))


def label(table):
    """How these answers must be called in every figure: who gave them, and how many.

    Raises StoreError where simulated observers and people are mixed, and for an empty table.
    """
    kinds, count = {origin == SIMULATED for origin in table["origin"]}, table["participant"].nunique()
    if len(kinds) != 1:
        raise StoreError(
            "No answers, or simulated ones among people's. Remedy: wait for answers; keep simulated ones apart."
        )
    return f"{count} SIMULATED observers" if kinds == {True} else f"{count} participants"


def checked(table, where="answers"):
    """A table of answers with typed columns. Raises StoreError as `read_csv`."""
    if missing := [name for name in NEEDED if name not in table]:
        raise StoreError(f"Column missing: {', '.join(missing)} of {where}. Remedy: columns {', '.join(COLUMNS)}.")
    if bad := [name for name in NEEDED if table[name].isna().any()]:
        raise StoreError(f"Empty cells: {bad[0]} of {where}. Remedy: fill or remove these rows.")
    table = table.assign(origin=table["origin"] if "origin" in table else "unknown")
    table["options"] = [tuple(text.split(SEPARATOR)) for text in table["options"]]
    if wrong := [k for k, row in enumerate(table.itertuples()) if row.chosen not in row.options]:
        raise StoreError(f"Row {wrong[0] + 2} of {where}: chosen is none of its options. Remedy: correct it.")
    if not pd.api.types.is_numeric_dtype(table["seconds"]):
        raise StoreError(f"seconds of {where} holds text. Remedy: numbers of seconds.")
    main = table[table.kind == TRIAL]
    if main.duplicated(["participant", "part", "item"]).any():
        raise StoreError(f"One participant's trial twice in {where}. Remedy: remove one; repeats are kind repeat.")
    return table


def of_store(store):
    """The answers in an open Store as `read_csv` returns them."""
    return checked(pd.DataFrame(store.answers(), columns=list(COLUMNS)))


def excluded(table, rule):
    """Participants that a study's `exclusion` leaves out: a table of number -> failed checks, median seconds, why.

    Args: table of answers; rule, study_file.Exclusion. Only what was stated in the study file is asked.
    """
    checks = table[table.kind == ATTENTION]
    wrong = checks.assign(failed=checks.chosen == SPOILED).groupby("participant").failed.sum()
    median = table[table.kind == TRIAL].groupby("participant").seconds.median()
    found = pd.DataFrame({"failed": wrong, "median seconds": median}).reindex(sorted(set(table.participant)))
    found["failed"] = found.failed.fillna(0).astype(int)
    careless, hasty = found.failed > rule.failed, found["median seconds"] < rule.seconds
    found["why"] = careless.map({True: "attention checks", False: ""})
    found.loc[hasty, "why"] = (found.why + " and haste").str.removeprefix(" and ")
    return found[careless | hasty]


def kept(table, rule):
    """The answers of those whom `excluded` does not name. Raises StoreError where nobody is left."""
    found = table[~table.participant.isin(excluded(table, rule).index)]
    if found[found.kind == TRIAL].empty:
        raise StoreError(
            f"Nobody is left: the study's rule leaves out all {table.participant.nunique()} participants, who failed "
            f"more than {rule.failed} attention checks or chose within {rule.seconds:g} s. Remedy: wait for more."
        )
    return found
