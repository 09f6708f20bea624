"""A folder of degraded pictures, restored in one step each, with or without references of the person."""

import argparse
from pathlib import Path

from lib import paths
from lib.errors import PictureSizeError, RangeError, SaveError, exit_status
from lib.images import to_tensor
from lib.metrics.identity import RECOGNISER
from lib.models.one_step_folder import load_one_step, merged
from lib.models.personal_one_step import load_personal_one_step
from lib.models.system_folder import load_system
from lib.people import alignment
from lib.people.picture_files import load_picture, save_picture
from lib.people.picture_folders import list_pictures
from lib.restoration.one_step import describe, restore_one_step
from lib.restoration.person_identity import PersonIdentity


def restore_folder(
    folder,
    references=None,
    output=None,
    *,
    personal=None,
    scorer=None,
    system="data/system",
    restorer="data/onestep",
    device="cpu",
):
    """Restore every picture of a folder in one step; every file is read before the first is restored.

    Args: folder, of degraded pictures, aligned square crops (`paths.from_root`); references, a folder of good pictures
    of the same person, or None; output, a folder that does not exist yet, None for `<folder>-restored`; personal,
    the folder of a personal one-step restorer, which has its own references; scorer, the recogniser that compares
    references, people-r by default; system, the base; restorer; device.
    Returns the output folder, which holds PNG files of the inputs' stems, marked as synthetic.
    Raises SaveError (the output exists or cannot be made), RangeError (references of two kinds), PictureSizeError (not
    square), the errors of `list_pictures`, `load_picture`, `load_system`, `load_one_step` and
    `load_personal_one_step`; NotThePersonError or IdentityWarning for references of two people.
    """
    folder = paths.from_root(folder)
    output = paths.from_root(output) if output else folder.with_name(f"{folder.name}-restored")
    if references and personal:
        raise RangeError("--references and --personal: a personal restorer has its own. Remedy: give one of them.")
    for given in [folder] + ([paths.from_root(references)] if references else []):
        list_pictures(given)
    check_output(output)
    B = load_system(system, device)
    files, pictures = read_crops(folder, B.size)
    one, described = load_one_step(restorer, B), None
    if personal:
        one, described = load_personal_one_step(personal, one)
    if references:
        names, known = read_crops(paths.from_root(references), B.size)
        check_one_person(names, known, pictures, files, scorer)
        described = describe(one, known)
    restored = restore_one_step(merged(one), pictures, described)
    with paths.atomic_write(output) as aside:
        for file, picture in zip(files, restored):
            save_picture(aside / f"{file.stem}.png", picture)
    return output


def check_output(output):
    """Raises SaveError for an output folder that exists or could not be made."""
    if output.exists():
        raise SaveError(
            f"The output exists: {paths.display_path(output)}. Remedy: give another --output, or delete it."
        )
    try:
        output.mkdir(parents=True)
        output.rmdir()
    except OSError as error:
        raise SaveError(f"Could not make {output} ({error}). Remedy: choose a folder that you may write to.") from error


def read_crops(folder, size):
    """The picture files of a folder, and their pictures (N, 3, size, size) in [-1, 1].

    Raises PictureSizeError for a picture that is not square, and the errors of `list_pictures` and `load_picture`.
    """
    files, crops = list_pictures(folder), []
    for file in files:
        picture = load_picture(file)
        if picture.shape[0] != picture.shape[1]:
            raise PictureSizeError(
                f"Not an aligned square crop: {file}, {picture.shape[1]}x{picture.shape[0]}. "
                "Remedy: align it first; notebook 20 with -p ALIGNER restores whole photographs."
            )
        crops.append(alignment.resize(picture, size))
    return files, to_tensor(crops)


def check_one_person(names, references, inputs, files, scorer=None):
    """Compare references with each other and inputs with them; args as of PersonIdentity's checks."""
    person = PersonIdentity(scorer=str(scorer or RECOGNISER), size=references.shape[-1])
    if len(references) > 1:
        person.check_references(references, [file.name for file in names])
    person.check_inputs(inputs, references, [file.name for file in files])


def main(arguments=None):
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.onestep", description=__doc__)
    parser.add_argument("folder", type=Path, help="degraded pictures: aligned square crops")
    parser.add_argument("--references", type=Path, help="a folder of good pictures of the same person")
    parser.add_argument("--personal", help="a personal one-step restorer, which notebook 06 saves")
    parser.add_argument("--output", type=Path, help="where restored pictures go; FOLDER-restored by default")
    parser.add_argument("--scorer", help="recogniser of real people (.onnx or pack); people-r by default")
    parser.add_argument("--system", default="data/system", help="the base")
    parser.add_argument("--restorer", default="data/onestep", help="the one-step restorer")
    parser.add_argument("--device", default="cpu", help="or cuda")
    options = vars(parser.parse_args(arguments))
    return exit_status(lambda: print("restored:", paths.display_path(restore_folder(**options))))
