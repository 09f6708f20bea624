"""A user's own pictures, restored: what is given is opened and checked, then tuned or loaded, restored and saved."""

import hashlib
import math

from tqdm.auto import tqdm

from lib import paths
from lib.errors import MissingPicturesError
from lib.models.personal_weights import load_personal, picture_hash
from lib.models.system_folder import load_system
from lib.people.person import with_inputs
from lib.people.picture_files import save_picture
from lib.people.picture_folders import list_pictures
from lib.restoration.photographs import PersonFinder
from lib.restoration.sampling import restore
from lib.studies import arms
from lib.studies.person import open_person, system_for


def open_own(references, pictures="", *, system="", recipe="", aligner=None, **facts):
    """The system, the recipe and the Person with inputs; every picture is read and aligned.

    Args: references, a folder of photographs or a person folder, or a procedural person's name; pictures, a file or a
    folder, "" for the inputs that the person has; system, a folder, "" for `system_for`; recipe, "" for the system's
    own; aligner, the insightface pack for whole photographs, None for aligned crops; facts, as of `open_person`.
    Returns (B, recipe, person). Raises MissingPicturesError and the errors of `open_person`, `with_inputs` and
    `load_system`.
    """
    if not references:
        raise MissingPicturesError("No references. Remedy: give a folder of photographs, or upload some.")
    system = system_for(references, system or (paths.display_path(paths.SYSTEM) if facts.get("real") is False else ""))
    B = load_system(system)
    recipe = recipe or B.recipe
    all_of_them = {} if references.startswith("people:") else dict(references=None, inputs=None)
    person = open_person(references, recipe, B.size, aligner=aligner, **all_of_them, **facts)
    if pictures:
        finder = PersonFinder(aligner, size=B.size) if aligner else None
        person = with_inputs(person, _files(paths.from_root(pictures)), aligner, finder)
    if person.inputs is None:
        raise MissingPicturesError("No picture to restore. Remedy: give a picture or a folder, or upload some.")
    return B, recipe, person


def _files(path):
    return list_pictures(path) if path.is_dir() else [path]


def own_folder(home, B, person, plan):
    """The folder below `home` of a person's weights: another one for other references, another system or another plan.

    Args: home; B; person; plan, an arms.Plan. Returns a Path, not made yet.
    """
    known_by = [picture_hash(person.references), B.fingerprint(), person.class_noun, plan.key()]
    digest = hashlib.sha256("\0".join(known_by).encode()).hexdigest()[:12]
    return paths.child(home, f"{person.name.replace(':', '-')}-{digest}")


def personalise(B, person, plan, folder):
    """The person's system: loaded from `folder`, or tuned by the dual pivot and saved there, whole or not at all.

    An interrupted tuning goes on. Returns the System. Raises the errors of the pivots and of `load_personal`.
    """
    if (folder / "personal").is_dir():
        return load_personal(folder / "personal", B)
    B_p = arms.tune_arms(B, person, plan, (arms.DUAL,), folder=folder / "tuning")[arms.DUAL]
    B_p.save_personal(folder / "personal")
    paths.remove(folder / "tuning")
    return B_p


def restore_own(B_p, person, plan, seed, folder):
    """Restores a person's inputs, each with the same seed, and saves them in `folder`, marked as synthetic.

    A file's name holds a hash of its input, so that no other picture is replaced. Whole photographs are saved with the
    restored face pasted in.
    Args: B_p, of `personalise`; person; plan; seed; folder. Returns restored crops (N, 3, S, S) in [-1, 1], on the CPU.
    Raises the errors of `restore` and `save_picture`.
    """
    count, batch = len(person.inputs), arms.batch_size(B_p)
    with tqdm(total=plan.steps * math.ceil(count / batch), desc="restoring") as bar:
        how = dict(seeds=[seed] * count, steps=plan.steps, batch=batch, callback=lambda _: bar.update())
        restored = restore(B_p, person.inputs, **how)
    photographs = arms.restored_photographs(B_p.base, person, restored, plan)
    for stem, degraded, picture in zip(person.stems, person.inputs, restored):
        name = f"{stem[:60]}-{picture_hash(degraded[None])[:8]}"
        save_picture(folder / f"{name}.png", picture)
        if stem in photographs:
            save_picture(folder / f"{name}-photograph.png", photographs[stem])
    return restored
