"""Range checks of typed values: each returns the value or raises a named error."""

import math
from numbers import Integral, Real

from lib.errors import DeviceError, RangeError


def whole(name, n, least=0, most=None):
    """A whole number from `least` to `most`, returned as an int. Raises RangeError."""
    if isinstance(n, bool) or not isinstance(n, Integral) or n < least or (most is not None and n > most):
        end = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise RangeError(f"{name} out of range: {n!r}. Remedy: give a whole number {end}.")
    return int(n)


def finite(name, x):
    """A finite number, returned as a float. Raises RangeError for NaN, infinity and anything else."""
    if isinstance(x, bool) or not isinstance(x, Real) or not math.isfinite(x):
        raise RangeError(f"{name} out of range: {x!r}. Remedy: give a finite number.")
    return float(x)


def positive(name, x):
    """A finite number above zero, returned as a float. Raises RangeError."""
    if finite(name, x) <= 0:
        raise RangeError(f"{name} out of range: {x!r}. Remedy: give a number above 0, such as 1.0e-4.")
    return float(x)


def fraction(name, x):
    """A number in [0, 1], returned as a float. Raises RangeError."""
    if not 0.0 <= finite(name, x) <= 1.0:
        raise RangeError(f"{name} out of range: {x!r}. Remedy: give a number from 0 to 1.")
    return float(x)


def distinct(name, items):
    """A list that is not empty and has no item twice, returned unchanged. Raises RangeError."""
    if not items or len(set(map(str, items))) < len(items):
        raise RangeError(f"{name} out of range: {items!r}. Remedy: give at least one, each once.")
    return items


def choice(name, value, options):
    """One of `options`, returned unchanged. Raises RangeError naming them."""
    if value not in options:
        raise RangeError(f"{name} out of range: {value!r}. Remedy: give one of {', '.join(map(str, options))}.")
    return value


def device(name):
    """The name of a torch device that this machine has. Raises DeviceError naming those it has."""
    import torch  # two seconds that a run without a device parameter need not wait for

    here = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    here += ["cuda"] if torch.cuda.device_count() else []
    here += ["mps"] if torch.backends.mps.is_available() else []
    if name not in here:
        raise DeviceError(f"Unknown device: {name!r}. Remedy: use one that this machine has: {', '.join(here)}.")
    return name
