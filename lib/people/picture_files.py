"""Picture files: read in any common mode and orientation, and written with a mark that says they are synthetic."""

import struct
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from lib.errors import NoSpaceError, PictureSizeError, SaveError, UnreadablePictureError, UnsafePathError
from lib.images import to_uint8
from lib.paths import atomic_write

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")  # JPEG includes the phones' MPO
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif")
SMALLEST = 32  # pixels of the shorter side: fewer show no face
LARGEST = 64_000_000  # pixels in all: more are a mistake or a decompression bomb
LARGEST_FILE = 500_000_000  # bytes: LARGEST pixels of 16-bit RGB without compression, and some room
SYNTHETIC = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    f'Iptc4xmpExt:DigitalSourceType="{SYNTHETIC}"/></rdf:RDF></x:xmpmeta>'
)


def unreadable(path, why):
    """The UnreadablePictureError of one file, to be raised."""
    return UnreadablePictureError(
        f"{why}: {path}. Remedy: put a whole PNG, JPEG or WebP in its place, or take it away."
    )


def _rgb(image):
    icc = image.info.get("icc_profile")  # some of the conversions below forget it
    if image.mode.startswith("I;16"):  # Pillow's own conversion would clip at 255
        image = Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"numbers of unknown range, mode {image.mode}")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image if image.mode in ("RGB", "L", "CMYK") else image.convert("RGB")
    return (_to_srgb(image, icc) if icc else image).convert("RGB")


def _to_srgb(image, icc):
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(icc))
        space, name = profile.profile.xcolor_space.strip(), profile.profile.profile_description or ""
        if {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space) != image.mode or "sRGB" in name:
            return image
        return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (OSError, ImageCms.PyCMSError):  # a damaged profile: every viewer then takes the picture for sRGB
        return image


def _too_large(path, how):
    return PictureSizeError(
        f"Picture too large: {path}, {how}. Remedy: shrink it below {LARGEST // 10**6} megapixels "
        f"and {LARGEST_FILE // 10**6} MB."
    )


def _check_size(path, width, height):
    if width * height > LARGEST:
        raise _too_large(path, f"{width}x{height}")
    if min(width, height) < SMALLEST:
        raise PictureSizeError(
            f"Picture too small: {path}, {width}x{height}. Remedy: use one with a shorter side of at "
            f"least {SMALLEST} pixels."
        )


def load_picture(path):
    """One picture file as a viewer shows it: turned by its EXIF orientation, converted to sRGB by its colour profile.

    Greyscale, palette, CMYK and 16-bit files are converted (16 bits are scaled, not clipped). Transparency is laid on
    white. The first frame of an animated file is read.
    Args: path of a PNG, JPEG, WebP, TIFF, BMP or GIF.
    Returns uint8 RGB (H, W, 3).
    Raises UnreadablePictureError (missing, empty, truncated, corrupt, no picture), PictureSizeError (a side below
    SMALLEST, more than LARGEST pixels or LARGEST_FILE bytes).
    """
    path = Path(path)
    if not path.is_file():  # before opening: a pipe would wait for ever
        raise unreadable(path, "No such picture file")
    size = path.stat().st_size
    if size == 0:
        raise unreadable(path, "Picture file is empty (0 bytes)")
    if size > LARGEST_FILE:  # some decoders read a file whole before they look at it
        raise _too_large(path, f"{size / 1e9:.1f} GB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # LARGEST is stricter
            with Image.open(path, formats=FORMATS) as image:
                _check_size(path, *image.size)
                return np.array(_rgb(ImageOps.exif_transpose(image)))
    except PictureSizeError:  # a ValueError, too
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(path, error) from error
    except Image.UnidentifiedImageError as error:
        raise unreadable(path, "Not a picture, whatever its name says") from error
    except (OSError, ValueError, SyntaxError, EOFError, struct.error) as error:  # what Pillow's decoders raise
        raise unreadable(path, f"Picture is truncated, corrupt or unsupported ({error})") from error


def safe_name(name):
    """`name` unchanged, if it is the name of one file or folder and no path. Raises UnsafePathError."""
    if (
        not isinstance(name, str)
        or not 0 < len(name) <= 100
        or not name.isprintable()
        or set(name) & set('/\\*?"<>|')
        or name[0] in ". "
        or name[-1] in ". "
    ):
        raise UnsafePathError(
            f"Not a plain name: {str(name)[:80]!r}. Remedy: use at most 100 letters, digits, spaces and "
            f'signs without / \\ * ? " < > |, with no dot or space at its ends.'
        )
    return name


def save_picture(path, picture, synthetic=True):
    """Write one PNG completely or not at all, marked as synthetic (PNG text and IPTC DigitalSourceType in XMP).

    Args: path, *.png, whose folder is made; picture, float (3, H, W) or (1, 3, H, W) in [-1, 1], or uint8 (H, W, 3);
    synthetic, False only for a picture that no model has changed.
    Returns the Path. Raises UnsafePathError, PictureError, SaveError, NoSpaceError.
    """
    path = Path(path)
    safe_name(path.name)
    # leading .. are the caller's own folder; one further on climbs out of it
    if path.suffix != ".png" or ".." in path.parts[path.parts.count("..") :]:
        raise UnsafePathError(
            f"Not a .png file, or a way back up within the path: {path}. Remedy: name the file plainly."
        )
    array = to_uint8(picture) if torch.is_tensor(picture) else np.asarray(picture)[None]
    image, notes = Image.fromarray(array[0]), PngImagePlugin.PngInfo()
    if synthetic:
        notes.add_text("Synthetic", "yes: restored or edited by a generative model (Dual-Pivot Workbook)")
        notes.add_itxt("XML:com.adobe.xmp", XMP)
    try:
        with atomic_write(path) as aside:
            image.save(aside, format="PNG", pnginfo=notes)
    except NoSpaceError:  # an OSError, too
        raise
    except OSError as error:
        raise SaveError(f"Could not write {path} ({error}). Remedy: choose a folder that you may write to.") from error
    return path
