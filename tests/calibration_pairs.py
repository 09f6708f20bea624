"""Fixed pairs of pictures whose metrics are known from other implementations (data/calibration/pairs.json)."""
import numpy as np
import skimage.data
from scipy.ndimage import gaussian_filter, shift

from lib import people


def pairs():
    """name -> two uint8 pictures (192, 192, 3): a photograph and a drawn person, each spoilt in known ways."""
    person = people.Person(9)
    found = {}
    for name, clean in {"astronaut": skimage.data.astronaut()[:192, 128:320], "person": people.render([(person, person.shot(0))], 192).pictures[0]}.items():
        x = clean.astype(float)
        noise = np.random.default_rng(5).normal(0, 12, x.shape)
        for how, spoilt in {"noise": x + noise, "blur": gaussian_filter(x, (2, 2, 0)), "shift": shift(x, (0, 1, 0), mode="nearest"),
                            "darker": 0.8 * x}.items():
            found[f"{name}, {how}"] = clean, spoilt.round().clip(0, 255).astype(np.uint8)
    return found
