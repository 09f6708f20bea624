"""A user study of drawn squares: folders of pictures as notebook 00 leaves them, and a study file about them."""

import numpy as np
import yaml
from PIL import Image, PngImagePlugin

ARMS = ("blind", "swap", "dual pivot")


def picture(seed, size=48):
    """A picture of its own for each seed: soft blobs."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
    return small.resize((size, size), Image.Resampling.BICUBIC)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    note = PngImagePlugin.PngInfo()
    note.add_text("Arm", path.stem)  # what must not reach a participant
    image.save(path, pnginfo=note)


def folder(root, person, items=3, arms=ARMS, references=3):
    """One person's folder."""
    for k in range(items):
        save(root / person / "inputs" / f"i{k}.png", picture([k, *person.encode()]))
        for arm in arms:
            seed = [k, *f"{person}{arm}".encode()]
            name = f"{arm}/i{k}" if arm == "swap" else f"i{k}-{arm.replace(' ', '-')}"  # both ways that are read
            save(root / person / "restored" / f"{name}.png", picture(seed))
    for k in range(references):
        save(root / person / "references" / f"{k}.png", picture([9, k, *person.encode()]))
    return root / person


def described(pictures, **changes):
    """The mapping of a study file about those folders."""
    common = {"practice": 1, "attention": 1, "repeats": 1}
    quality = {
        "kind": "quality",
        "question": "Which is better?",
        "guidelines": "Look.",
        "arms": ["blind", "dual pivot"],
    }
    identity = {"kind": "identity", "question": "Who is it?", "guidelines": "Look at the references.", "references": 2}
    return {
        "user_study": 1,
        "title": "A tiny study",
        "consent": "You will see blobs.",
        "contact": "nobody",
        "pictures": [str(one) for one in pictures],
        "participants": 40,
        "exclusion": {"failed": 0, "seconds": 0.2},
        "least_seconds": 0.0,
        "parts": {
            "quality": {**quality, "trials": 5, **common},
            "identity": {**identity, "arms": list(ARMS), "trials": 4, **common},
        },
    } | changes


def write(root, **changes):
    """The path of a study file about two people."""
    pictures = [folder(root, "ada"), folder(root, "bo")]
    file = root / "tiny.yaml"
    file.write_text(yaml.safe_dump(described(pictures, **changes), sort_keys=False))
    return file
