"""Images as tensors, float32 RGB (N, 3, H, W) in [-1, 1], and their conversion from and to 8-bit arrays."""

import numpy as np
import torch
from PIL import Image

from lib.errors import PictureError, PictureSizeError

TOLERANCE = 1e-3  # how far a value may lie outside [-1, 1]


def to_tensor(pictures):
    """8-bit pictures as the workbook's tensors.

    Args: pictures, uint8 (N, H, W, 3) or (H, W, 3), a PIL image, or a list of either, of one size.
    Returns float32 (N, 3, H, W) in [-1, 1]. Raises PictureError for anything else.
    """
    if isinstance(pictures, Image.Image):
        pictures = pictures.convert("RGB")
    if isinstance(pictures, (list, tuple)):
        pictures = [np.asarray(each.convert("RGB") if isinstance(each, Image.Image) else each) for each in pictures]
        if len({each.shape for each in pictures}) != 1:
            raise PictureError(
                f"Not one size: {[each.shape for each in pictures]}. Remedy: resize or align the pictures first."
            )
    array = np.array(pictures)
    array = array[None] if array.ndim == 3 else array
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
        raise PictureError(f"Not 8-bit RGB: {array.dtype} {array.shape}. Remedy: give uint8 (N, H, W, 3).")
    return torch.from_numpy(array).permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1  # (N, 3, H, W)


def to_uint8(pictures):
    """The workbook's tensors as 8-bit pictures: the exact inverse of `to_tensor`; other values are rounded and clipped.

    Args: pictures, float (N, 3, H, W) or (3, H, W), [-1, 1]. Returns uint8 of shape (N, H, W, 3).
    Raises PictureError for another shape or a value that is not finite.
    """
    pictures = pictures[None] if pictures.ndim == 3 else pictures
    if pictures.ndim != 4 or pictures.shape[1] != 3 or not torch.isfinite(pictures).all():
        raise PictureError(
            f"Not pictures, or a value that is not finite: {tuple(pictures.shape)}. Remedy: give finite (N, 3, H, W)."
        )
    levels = ((pictures.detach().float() + 1) * 127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def check_pictures(pictures, size=None, where="pictures"):
    """Pictures as a float32 batch; a single picture (3, H, W) gains its axis.

    Args: pictures, float tensor (N, 3, H, W) or (3, H, W) in [-1, 1], N >= 1; size, the side that is wanted in pixels,
    or None for any; where, what errors call the pictures. An overshoot of up to TOLERANCE, as bicubic resizing makes,
    is clamped.
    Returns float32 (N, 3, H, W) in [-1, 1]. Raises PictureError (no tensor of floats, NaN, outside the range),
    PictureSizeError (another shape).
    """
    if not torch.is_tensor(pictures) or not pictures.is_floating_point():
        kind = getattr(pictures, "dtype", type(pictures).__name__)
        raise PictureError(
            f"{where}: {kind}, not a float tensor. Remedy: lib.images.to_tensor makes one of 8-bit pictures."
        )
    pictures = pictures[None] if pictures.ndim == 3 else pictures
    colour = pictures.ndim == 4 and len(pictures) > 0 and pictures.shape[1] == 3
    if not colour or (size and pictures.shape[2:] != (size, size)):
        wanted = f"(N, 3, {size}, {size})" if size else "(N, 3, H, W)"
        raise PictureSizeError(
            f"{where}: shape {tuple(pictures.shape)}, not {wanted}. Remedy: resize or align them first."
        )
    good = (pictures.isfinite() & (pictures.abs() <= 1 + TOLERANCE)).flatten(1).all(1)
    if not good.all():
        raise PictureError(
            f"{where}, picture {int((~good).nonzero()[0])}: values outside [-1, 1] or NaN. "
            "Remedy: lib.images.to_tensor makes tensors in that range; clamp(-1, 1) cuts them to it."
        )
    return pictures.float().clamp(-1, 1)
