"""People with a few good photographs: some are held out, degraded and restored by what was tuned on the others."""

import json
import time
from dataclasses import replace

import torch

from lib.degradation.degrade import degrade
from lib.errors import MissingPicturesError, PairingError
from lib.images import to_tensor
from lib.metrics import identity
from lib.metrics.image import psnr
from lib.metrics.registry import TABLE, compute, metric_inputs
from lib.models.personal_weights import picture_hash
from lib.paths import from_root
from lib.people import alignment, picture_folders
from lib.people.person import Person
from lib.people.picture_files import load_picture
from lib.studies import arms, kept
from lib.studies.study import rows_of


def hold_out(person, places, recipe, seed=0, most=None):
    """The person with some references as ground truth, degraded into inputs, and the others to tune on.

    Args: person, a Person; places, indices of the references held out; recipe; seed, of the degradations; most, of the
    other references, the first ones, None for all. Returns a Person. Raises MissingPicturesError if none is left.
    """
    others = [k for k in range(len(person.references)) if k not in set(places)][:most]
    if not others:
        raise MissingPicturesError(f"No reference is left: {person.name}. Remedy: hold fewer of them out.")
    targets = person.references[list(places)]
    seeds = [1000 * seed + place for place in places]
    stems = [f"reference{place + 1}" for place in places]
    inputs = degrade(targets, recipe, seeds)
    return replace(person, references=person.references[others], targets=targets, inputs=inputs, stems=stems)


def folds(count, size):
    """Indices 0 to count - 1 in lists of at most `size`: each is held out once."""
    return [list(range(count))[k : k + size] for k in range(0, count, size)]


def cases(person, recipe, size, count, references=None, seed=0):
    """The folds of one person: label -> Person.

    Args: person; recipe; size, of a fold; count, of folds at most; references, tuned on at most; seed.
    """
    lists = folds(len(person.references), size)[:count]
    return {f"{person.name} {k}": hold_out(person, out, recipe, seed, references) for k, out in enumerate(lists)}


def further(person, recipe, size, fewer=0, seed=0):
    """Further cases of one person: the first fold with 1, 2, 4, ... references, and the person's own inputs.

    Args: person; recipe; size, of a fold; fewer, references at most; seed. The inputs of a real person without ground
    truth are restored after tuning on all references. Returns label -> Person.
    """
    name, found = person.name, {}
    for few in [2**k for k in range(fewer.bit_length()) if 2**k <= len(person.references) - size]:
        one, label = hold_out(person, range(size), recipe, seed, few), f"{few} reference{'s' * (few > 1)}"
        found[f"{name} {label}"] = replace(one, name=f"{name}, {label}")
    if person.real and person.inputs is not None and person.targets is None:
        found[f"{name} inputs"] = replace(person, name=f"{name}, own inputs")
    return found


def longer(cases, times):
    """The first fold and the own inputs of each person in `cases` and `further`, to be tuned for `times` the steps."""
    found = {label: one for label, one in cases.items() if label.endswith((" 0", " inputs"))}
    name = f"{times} times the steps"
    return {f"{label} {name}": replace(one, name=f"{one.name}, {name}") for label, one in found.items()}


def run(B, plan, wanted, people, scorers, folder, distance=None, record=None):
    """Tune, restore and score people that `hold_out` made, or people with inputs and no ground truth.

    Each is kept in a file of `folder`, so that an interrupted study continues; the seconds of all, also of kept ones,
    go to the record.
    Args: B; plan, of lib.studies.arms; wanted, the arms; people, label -> Person; scorers, name -> recogniser, as of
    `identity.embed`; folder; distance, a function of two batches (N, 3, S, S) -> (N,), or None; record, or None.
    Returns rows (person, fold, arm, image, seed, metric, value), and label -> {arm: restorations (K, N, 3, S, S)}, as
    they are kept, in 8 bits. Raises PackError where a scorer does not know the people, and as `tune_arms`.
    """
    for person in people.values():
        for scorer in scorers.values():
            identity.check_scorer(scorer, person.real)
    rows, pictures = [], {}
    for label, person in people.items():
        file, key = kept.file_of(folder, label), _key(B, plan, wanted, person, scorers, distance)
        found = kept.read(file, key, pictures=True)
        if found is None:
            restored, seconds = _restored(B, plan, wanted, person)
            found = {"key": key, "seconds": seconds, "rows": score(person, label, restored, scorers, distance)}
            kept.write(file, found, restored)
        rows, pictures[label] = rows + found["rows"], kept.load_pictures(file)
        if record is not None:
            record.took(found["seconds"])
    return rows, pictures


def _restored(B, plan, wanted, person):
    """arm -> restorations of one person, and the seconds of tuning and restoring."""
    start = time.perf_counter()
    tuned = arms.tune_arms(B, person, plan, wanted)
    middle = time.perf_counter()
    restored = arms.restore_arms(tuned, person.inputs, plan, [B])
    return restored, {"tuning": middle - start, "restoring": time.perf_counter() - middle}


def _key(B, plan, wanted, person, scorers, distance):
    """What a kept result must agree with, as text."""
    pictures = [picture_hash(x) for x in (person.references, person.inputs, person.targets) if x is not None]
    names = [f"{name} {scorer}" for name, scorer in scorers.items()]
    return json.dumps([B.fingerprint(), plan.key(), list(wanted), pictures, names, distance is not None])


def score(person, label, restored, scorers, distance=None):
    """Rows of every arm and of the input: PSNR, the distance, and identity by every scorer; arguments as of `run`."""
    rows = []
    for arm, batches in {"input": person.inputs[None], **restored}.items():
        for seed, batch in enumerate(batches):
            values = _values(person, batch, scorers, distance)
            rows += rows_of(values, person=person.name, fold=label, arm=arm, seed=seed)
    return rows


def _values(person, batch, scorers, distance):
    """metric -> (N,) of one batch of restorations."""
    values = {}
    if person.targets is not None:
        values["psnr"] = psnr(batch, person.targets)
        if distance is not None:
            values["distance"] = distance(batch, person.targets)
    for name, scorer in scorers.items():
        inputs = metric_inputs(batch, person.targets, None, person.references, scorer)
        known = ("identity", "to_references") if person.targets is not None else ("to_references",)
        values |= {f"{metric} {name}": compute(TABLE[metric], inputs) for metric in known}
    return values


def ceiling(B, person, scorers):
    """Rows (person, scorer, what, value): the same photographs against the others' mean, and through the autoencoder.

    "photograph" is what a perfect restoration would score, "autoencoder" what the decoder lets through.
    """
    rows = []
    for name, scorer in scorers.items():
        good = identity.embed(person.references, scorer)  # (R, D)
        decoded = identity.embed(B.decode(B.encode(person.references)).cpu(), scorer)
        for what, embedded in (("photograph", good), ("autoencoder", decoded)):
            for k in range(len(good)):
                others = torch.cat([good[:k], good[k + 1 :]])
                value = float(identity.to_references(embedded[k : k + 1], others))
                rows.append({"person": person.name, "scorer": name, "what": what, "value": value})
    return rows


def pairs(folder, count, recipe, size, seed=0):
    """People of a folder with two photographs each, named NNN_a and NNN_b: tuned on the first, restored in the second.

    Args: folder; count, people at most; recipe; size, pixels; seed. Returns label -> Person. Raises PairingError where
    a person has one photograph alone, and as `load_picture`.
    """
    people = {}
    for file in picture_folders.list_pictures(from_root(folder)):
        people.setdefault(file.stem.split("_")[0], []).append(file)
    facts = dict(class_noun="person", source=str(folder), terms="see its folder", real=True)
    found, people = {}, dict(list(people.items())[:count])
    if alone := [name for name, files in people.items() if len(files) < 2]:
        raise PairingError(f"Only one photograph of {alone[0]} in {folder}. Remedy: two of each, NNN_a and NNN_b.")
    for name, files in people.items():
        crops = to_tensor([alignment.resize(load_picture(file), size) for file in files[:2]])
        found[f"{name} pair"] = hold_out(
            Person(name="pairs, 1 reference", references=crops, **facts), [1], recipe, seed
        )
    return found
