"""One person, opened for a study: references, degraded inputs, ground truth, and pictures for prior preservation."""

from dataclasses import replace
from urllib.parse import quote

from filelock import FileLock
from tqdm.auto import tqdm

from lib import paths
from lib.degradation.degrade import degrade
from lib.errors import PersonCardError
from lib.images import to_tensor
from lib.metrics import identity
from lib.models.precision import Precision, move_to_device
from lib.people import procedural
from lib.people.person import load_folder, procedural_person
from lib.people.person_card import read_card
from lib.people.picture_files import load_picture, save_picture
from lib.restoration.photographs import PersonFinder
from lib.restoration.sampling import generate
from lib.training.pivots import prepare


def open_person(name, recipe="tiny", size=128, *, references=10, inputs=4, aligner=None, scorer=None, **facts):
    """A person by name: procedural, such as "people:1009", or a folder of photographs.

    The test images of a procedural person are degraded here, each with its own seed. In a folder's whole photographs
    the person is found by the references.
    Args: name; recipe, of lib.degradation.recipes, for procedural people; size of the pictures, pixels; references and
    inputs, at most so many; aligner, the insightface pack that aligns whole photographs, or None for aligned crops;
    scorer, the recogniser of real faces, opened here because it is needed after the tuning; facts (class_noun, source,
    terms, real) about the person of a plain folder.
    Returns a Person. Raises SplitError for a person of the training split, and the errors of `load_folder`,
    `procedural_person`, `degrade` and `identity.recogniser`.
    """
    if scorer:
        identity.recogniser(scorer)
    if str(name).startswith("people:"):
        if given := [fact for fact, value in facts.items() if value is not None]:
            raise PersonCardError(
                f"Facts about a procedural person: {', '.join(given)} for {name}. Remedy: leave them out."
            )
        return _procedural(name, recipe, size, references, inputs)
    known = PersonFinder(aligner, scorer, size) if aligner or scorer else None
    limits = dict(references=references, inputs=inputs)
    checks = dict(find_person=known if aligner else None, check_references=known.check_references if known else None)
    person = load_folder(name, size, aligner or None, **limits, **checks, scorer=scorer or None, **facts)
    if known and not aligner and person.inputs is not None:  # in photographs, inputs are checked where they are found
        known.check_inputs(person.inputs, person.references, person.stems)
    return person


def _procedural(name, recipe, size, references, inputs):
    person = procedural.parse(name)
    procedural.require([person], person.split if person.split != "train" else "test")
    drawn = procedural_person(name, size, references, inputs)
    seeds = [person.seed * 100 + k for k in range(inputs)]
    return replace(drawn, inputs=degrade(drawn.targets, recipe, seeds))


def system_for(name, system=""):
    """The folder of the system that restores a person: the one given, else the shipped one of the person's kind.

    Args: name, as of `open_person`; system, a folder, or "" for data/photo_system where the person of a folder is real,
    data/system for drawn people. A plain folder shows a real person.
    Returns a path, seen from the repository. Raises PersonCardError where the card of the folder cannot be read.
    """
    if system:
        return system
    folder = None if str(name).startswith("people:") else paths.from_root(name)
    real = folder is not None and (not (folder / "person.yaml").is_file() or read_card(folder)["real"])
    return paths.display_path(paths.PHOTO_SYSTEM if real else paths.SYSTEM)


def system_for_all(names, system=""):
    """`system_for` of several people. Raises PersonCardError where they need different ones."""
    wanted = {system_for(name, system): str(name) for name in names}
    if len(wanted) > 1:
        raise PersonCardError(
            f"Drawn and real people in one study: {' and '.join(wanted.values())} have different systems. "
            "Remedy: name people of one kind, or SYSTEM."
        )
    return next(iter(wanted))


def check_scorer(person):
    """Raises PackError for a real person without a recogniser of real faces: people-r knows procedural people only."""
    identity.check_scorer(person.scorer, person.real)


def prior_pictures(count, size=128):
    """Pictures (count, 3, size, size) of training people, for prior preservation and generic model pivots."""
    people = procedural.people_of("train", count)
    return to_tensor(procedural.render([(person, person.shot(0)) for person in people], size).pictures)


def prior_data(B, person, count, recipe, steps=50, precision=Precision()):
    """`prepare`d pictures of other people for eq. 2's second term; None for a count of 0.

    They are drawn for a procedural person. For a real one G generates them from the class prompt, as in DreamBooth: the
    term preserves G's own distribution of the class.
    Args: B; person, a Person; count of pictures; recipe; steps and precision of the generation.
    """
    if not count:
        return None
    prompt = f"a photo of a {person.class_noun}"
    pictures = class_images(B, prompt, count, steps, precision) if person.real else prior_pictures(count, B.size)
    return prepare(B, pictures, recipe, degradations=1)  # there are many pictures


def class_images(B, prompt, count, steps=50, precision=Precision()):
    """Generated class images (count, 3, S, S), kept in `runs/class_images`: generated once for all people of a class.

    At full size 200 of them need twice the arithmetic of both pivots. An interruption keeps those that are finished; a
    batch's other workers wait for the one that generates.
    """
    folder = paths.RUNS / "class_images" / f"{B.fingerprint()} {quote(prompt, safe=' ')} {steps} {precision.dtype}"
    files = [folder / f"{seed}.png" for seed in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        _generate_missing(B, prompt, files, steps, precision)
    return to_tensor([load_picture(file) for file in files])


def _generate_missing(B, prompt, files, steps, precision):
    move_to_device(B)
    missing = [seed for seed, file in enumerate(files) if not file.is_file()]
    for seeds in tqdm([missing[i : i + 4] for i in range(0, len(missing), 4)], desc=prompt, disable=not missing):
        for seed, picture in zip(seeds, generate(B, prompt, seeds, steps, precision=precision)):
            save_picture(files[seed], picture)
