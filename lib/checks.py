"""Range checks of the numbers a person types: each gives the value back or a named error."""

import math

from lib.errors import DeviceError, RangeError


def steps(n, name="steps", least=0, most=None):
    """A whole number from `least` to `most`. Raises RangeError."""
    if isinstance(n, bool) or not isinstance(n, int) or n < least or (most is not None and n > most):
        end = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise RangeError(f"{name} out of range: {n!r}. Remedy: give a whole number {end}.")
    return n


def finite(name, x):
    """A finite number, given back as a float. Raises RangeError for NaN, infinity and anything else."""
    if isinstance(x, bool) or not isinstance(x, (int, float)) or not math.isfinite(x):
        raise RangeError(f"{name} out of range: {x!r}. Remedy: give a finite number.")
    return float(x)


def positive(name, x):
    """A finite number above zero, given back as a float. Raises RangeError."""
    if finite(name, x) <= 0:
        raise RangeError(f"{name} out of range: {x!r}. Remedy: give a number above 0, such as 1.0e-4.")
    return float(x)


def filled(name, items):
    """A list that is not empty and names nothing twice. Raises RangeError."""
    if not items or len(set(map(str, items))) < len(items):
        raise RangeError(f"{name} out of range: {items!r}. Remedy: give at least one, each once.")
    return items


def fraction(name, x):
    """A number in [0, 1], given back as a float. Raises RangeError."""
    if not 0.0 <= finite(name, x) <= 1.0:
        raise RangeError(f"{name} out of range: {x!r}. Remedy: give a number from 0 to 1.")
    return float(x)


def device(name):
    """The name of a torch device that this machine has. Raises DeviceError naming those it has."""
    import torch  # two seconds that a run without a device parameter need not wait for

    here = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    here += ["cuda"] if torch.cuda.device_count() else []
    here += ["mps"] if torch.backends.mps.is_available() else []
    if name not in here:
        raise DeviceError(f"Unknown device: {name!r}. Remedy: use one that this machine has: {', '.join(here)}.")
    return name
