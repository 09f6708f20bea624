"""`python -m lib.batch NOTEBOOK PEOPLE`: many people, each a run of the strict runner, lib.runs.batch."""

import sys

from lib.errors import MissingPicturesError, PackError
from lib.runs.batch import main
from lib.runs.ranges import PROCEDURAL


def check_person(values):
    """Opens the person folder that a row names, as its run will. Raises the errors of `person.check_folder`."""
    name = values.get("PERSON", "people:0")
    if PROCEDURAL.fullmatch(name):
        return
    from lib.people.person import check_folder  # imports torch, which a batch of drawn people need not wait for

    card, files = check_folder(name, values.get("REFERENCES"), values.get("INPUTS"))
    if "SCORER" in values and card["real"] and not values["SCORER"]:
        raise PackError(f"A real person without a recogniser: {name}. Remedy: give SCORER, such as buffalo_l.")
    if "INPUTS" in values and not files.inputs:
        raise MissingPicturesError(f"No inputs to restore: {name}. Remedy: a folder inputs/ beside references/.")


if __name__ == "__main__":
    sys.exit(main(check_person=check_person))
