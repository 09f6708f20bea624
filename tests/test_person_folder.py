"""Photographs in: every legal mode reads right, every bad file is a named error, folders pair and align."""

import errno
import io
import os
import re
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from tiny_pack import POINTS, write_detector

from lib import errors, images
from lib.people import alignment, picture_files, procedural
from lib.people import person as persons

COLOURS = np.array(
    [[[200, 40, 30], [20, 180, 60]], [[30, 60, 210], [240, 230, 90]]], np.uint8
)  # no two alike, no symmetry
QUARTERS = COLOURS.repeat(32, 0).repeat(48, 1)  # (64, 96, 3)
CARD = "name: Ada\nclass_noun: woman\nsource: own photographs\nterms: consent on file\nreal: true\n"


def quarters(picture):
    """Colours at the centres of the four quarters, float (2, 2, 3)."""
    height, width = picture.shape[:2]
    return picture[[height // 4, 3 * height // 4]][:, [width // 4, 3 * width // 4]].astype(float)


def saved(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def square(seed, size=64):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """A person folder whose i-th picture is filled with the level that its name says."""
    for part, names in {"references": (1, 2, 10), "inputs": (2, 10, 1), "targets": (1, 2, 10)}.items():
        for number in names:
            saved(tmp_path / "ada" / part / f"i{number}.png", np.full((64, 64, 3), number * 10, np.uint8))
    (tmp_path / "ada" / "person.yaml").write_text(CARD)
    return tmp_path / "ada"


def png(width, height, raw, bits=8, kind=2):
    """A PNG written by hand: for depths and lies that Pillow would not write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


# --- legal but odd files just work ---


@pytest.mark.parametrize(
    "suffix, options, tolerance",
    [
        ("png", {}, 0),
        ("webp", {"lossless": True}, 0),
        ("bmp", {}, 0),
        ("tif", {}, 0),
        ("jpg", {"quality": 95}, 6),
        ("webp", {"quality": 95}, 12),
    ],
)
def test_formats_keep_colours_and_place(tmp_path, suffix, options, tolerance):
    got = picture_files.load_picture(saved(tmp_path / f"a.{suffix}", QUARTERS, **options))
    assert got.shape == (64, 96, 3) and got.dtype == np.uint8 and got.flags.writeable
    assert np.abs(quarters(got) - COLOURS).max() <= tolerance


@pytest.mark.parametrize(
    "mode, suffix", [("RGBA", "png"), ("RGBA", "webp"), ("P", "png"), ("P", "gif"), ("CMYK", "jpg"), ("CMYK", "tif")]
)
def test_modes_keep_colours(tmp_path, mode, suffix):
    image = Image.fromarray(QUARTERS)
    image = image.quantize(8) if mode == "P" else image.convert(mode)
    image.save(
        tmp_path / f"a.{suffix}",
        **({"quality": 95} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}),
    )
    assert np.abs(quarters(picture_files.load_picture(tmp_path / f"a.{suffix}")) - COLOURS).max() <= 8


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_greyscale_becomes_three_equal_channels(tmp_path, mode):
    levels = np.array([[0, 255], [255, 0]], np.uint8).repeat(20, 0).repeat(20, 1)
    Image.fromarray(levels).convert(mode).save(tmp_path / "a.png")
    assert np.array_equal(picture_files.load_picture(tmp_path / "a.png"), levels[..., None].repeat(3, 2))


@pytest.mark.parametrize("kind, channels", [(0, 1), (2, 3)])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, kind, channels):
    levels = np.array([0, 257, 1000, 20000, 40000, 65535]).repeat(8)  # 48 columns
    rows = np.repeat(levels[:, None], channels, 1).astype(">u2")
    (tmp_path / "a.png").write_bytes(png(48, 32, (b"\0" + rows.tobytes()) * 32, 16, kind))
    assert np.abs(picture_files.load_picture(tmp_path / "a.png")[5, :, 1] - levels / 257).max() <= 1


def test_transparency_lies_on_white(tmp_path):
    clear = np.dstack([QUARTERS, np.array([[0, 128], [255, 255]], np.uint8).repeat(32, 0).repeat(48, 1)])
    got = quarters(picture_files.load_picture(saved(tmp_path / "a.png", clear)))
    assert np.array_equal(got[0, 0], [255, 255, 255]) and np.array_equal(got[1], COLOURS[1])
    assert np.abs(got[0, 1] - (COLOURS[0, 1] * (128 / 255) + 127)).max() <= 1


SHOWN = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}  # EXIF 3.0, 4.6.5: how a viewer turns what is stored


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_every_exif_orientation_is_upright(tmp_path, suffix):
    for orientation, turn in SHOWN.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        got = picture_files.load_picture(saved(tmp_path / f"{orientation}.{suffix}", QUARTERS, exif=exif, quality=95))
        assert got.shape == turn(QUARTERS).shape
        assert np.abs(quarters(got) - quarters(turn(QUARTERS))).max() <= 12


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_animations_give_their_first_frame(tmp_path, suffix):
    frames = [Image.fromarray(np.full((40, 40, 3), level, np.uint8)) for level in (200, 100, 0)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    assert Image.open(tmp_path / f"a.{suffix}").n_frames == 3
    assert np.abs(picture_files.load_picture(tmp_path / f"a.{suffix}") - 200.0).max() <= 3


def test_a_phones_two_picture_jpeg_gives_the_photograph(tmp_path):
    Image.fromarray(QUARTERS).save(
        tmp_path / "a.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (96, 64))], quality=95
    )
    assert np.abs(quarters(picture_files.load_picture(tmp_path / "a.jpg")) - COLOURS).max() <= 6


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colour_profile_is_turned_into_srgb(tmp_path, mode):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    gamma_one = _with_linear_curve(lab)
    level = Image.new(mode, (40, 40), (55, 55, 55, 255)[: len(mode)])
    level.save(tmp_path / "linear.png", icc_profile=gamma_one)
    level.save(tmp_path / "srgb.png", icc_profile=lab)
    level.save(tmp_path / "broken.png", icc_profile=b"nonsense")
    linear, srgb, broken = (
        picture_files.load_picture(tmp_path / f"{name}.png")[9, 9, 0] for name in ("linear", "srgb", "broken")
    )
    encoded = 255 * (1.055 * (55 / 255) ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    assert srgb == broken == 55 and abs(linear - encoded) <= 2


def _with_linear_curve(profile):
    """An sRGB profile renamed, its tone curves replaced by the identity (ICC.1, curveType of count 0)."""
    data = bytearray(profile.replace("sRGB".encode("utf-16-be"), "line".encode("utf-16-be")))
    for i in range(struct.unpack(">I", data[128:132])[0]):
        name, offset, _ = struct.unpack(">4sII", data[132 + 12 * i : 144 + 12 * i])
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            data[offset : offset + 12] = b"curv" + bytes(8)
    return bytes(data)


# --- bad files are named errors ---


def _bad_files(tmp_path):
    buffer, whole = io.BytesIO(), square(0, 200)
    Image.fromarray(whole).save(buffer, "JPEG")
    contents = {
        "zero.png": b"",
        "text.png": b"this is no picture\n" * 9,
        "cut.jpg": buffer.getvalue()[:2000],
        "cut.png": saved(tmp_path / "w.png", whole).read_bytes()[:9000],
        "cut.webp": saved(tmp_path / "w.webp", whole).read_bytes()[:3000],
        "rot.png": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9,
        "crc.png": png(40, 40, bytes(121) * 40)[:-40] + bytes(40),
        "page.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    Image.fromarray(np.ones((40, 40), np.float32)).save(tmp_path / "float.tif")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    return [*contents, "float.tif", "folder.png", "pipe.png", "absent.png"]


def test_unreadable_files_are_named_with_a_remedy(tmp_path):
    for name in _bad_files(tmp_path):
        with pytest.raises(errors.UnreadablePictureError, match="Remedy") as caught:
            picture_files.load_picture(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_sizes_out_of_range_are_refused_by_their_header(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png(60000, 60000, b""))  # beyond Pillow's own limit
    (tmp_path / "huge.png").write_bytes(png(10000, 6401, b""))  # below it, above ours
    saved(tmp_path / "tiny.png", square(0, 8))
    saved(tmp_path / "thin.png", QUARTERS[:31])
    for name in ("bomb", "huge", "tiny", "thin"):
        with pytest.raises(errors.PictureSizeError, match=f"{name}.png.*Remedy"):
            picture_files.load_picture(tmp_path / f"{name}.png")
    assert picture_files.load_picture(saved(tmp_path / "just.png", QUARTERS[:32])).shape == (32, 96, 3)


def test_a_file_of_many_gigabytes_is_refused_before_it_is_read(tmp_path, monkeypatch):
    with open(tmp_path / "large.png", "wb") as file:
        file.write(png(64, 64, bytes(64 * 193)))
        file.truncate(40_000_000_000)  # a hole: no disk space is used
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("the file was opened"))
    with pytest.raises(errors.PictureSizeError, match="40.0 GB.*Remedy"):
        picture_files.load_picture(tmp_path / "large.png")


# --- tensors and saved pictures ---


def test_tensors_round_trip_every_level_exactly():
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    tensor = images.to_tensor(every)
    assert tensor.dtype == torch.float32 and tensor.shape == (1, 3, 16, 16) and tensor.is_contiguous()
    assert tensor.min() == -1 and tensor.max() == 1 and np.array_equal(images.to_uint8(tensor), every)
    assert torch.equal(images.to_tensor(Image.fromarray(every[0])), tensor) and torch.equal(
        images.to_tensor([every[0]]), tensor
    )
    assert (
        images.to_uint8(torch.full((3, 1, 1), 9.0)).max() == 255
        and images.to_uint8(torch.full((3, 1, 1), -9.0)).max() == 0
    )


def test_tensors_keep_channels_and_rows_apart():
    tensor = images.to_tensor(QUARTERS)  # (1, 3, 64, 96)
    assert torch.allclose(tensor[0, :, 0, 0], torch.tensor(COLOURS[0, 0] / 127.5 - 1).float())
    assert torch.allclose(tensor[0, :, 0, -1], torch.tensor(COLOURS[0, 1] / 127.5 - 1).float())


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), [np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)]],
)
def test_tensors_refuse_what_is_not_8_bit_rgb(wrong):
    with pytest.raises(errors.PictureError, match="Remedy"):
        images.to_tensor(wrong)


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(errors.PictureError, match="finite"):
        images.to_uint8(torch.full((1, 3, 4, 4), float("nan")))


def test_saved_pictures_come_back_marked_and_alone(tmp_path):
    tensor = images.to_tensor(square(1))
    path = picture_files.save_picture(tmp_path / "new" / "a.png", tensor)
    plain = picture_files.save_picture(tmp_path / "new" / "b.png", square(2), synthetic=False)
    assert torch.equal(images.to_tensor(picture_files.load_picture(path)), tensor)
    assert "compositeWithTrainedAlgorithmicMedia" in Image.open(path).text["XML:com.adobe.xmp"]
    source = Image.open(path).getxmp()["xmpmeta"]["RDF"]["Description"]["DigitalSourceType"]
    assert source == picture_files.SYNTHETIC and "Synthetic" in Image.open(path).text and not Image.open(plain).text
    assert sorted(os.listdir(tmp_path / "new")) == ["a.png", "b.png"]


def test_a_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    path = picture_files.save_picture(tmp_path / "a.png", square(1))
    before = path.read_bytes()

    def fail(self, name, **options):
        name.write_bytes(b"half")
        raise OSError("the cable came out")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(errors.SaveError, match="a.png.*cable.*Remedy"):
        picture_files.save_picture(path, square(2))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.png"]


def test_a_full_disk_is_named_as_such(tmp_path, monkeypatch):
    def fail(self, name, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(errors.NoSpaceError, match="a.png.*Remedy"):
        picture_files.save_picture(tmp_path / "a.png", square(2))


@pytest.mark.parametrize(
    "name", ["runs/../../a.png", "a/..", "a\nb.png", ".a.png", "a.jpg", "a*.png", "x" * 101 + ".png"]
)
def test_unsafe_output_names_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for path in (name, tmp_path / name):
        with pytest.raises(errors.UnsafePathError, match="Remedy"):
            picture_files.save_picture(path, square(0))
    assert not any(tmp_path.iterdir())


def test_a_path_may_begin_above(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    picture_files.save_picture("../runs/Ada – 2 (b).png", square(0))
    assert (tmp_path / "runs" / "Ada – 2 (b).png").is_file()


# --- person folders ---


def test_a_folder_loads_in_natural_order_with_targets_beside_inputs(folder):
    (folder / "inputs" / ".DS_Store").write_bytes(b"clutter")
    person = persons.load_folder(folder, size=32)
    levels = [10, 20, 100]
    for part in (person.references, person.inputs, person.targets):
        assert part.shape == (3, 3, 32, 32) and images.to_uint8(part)[:, 0, 0, 0].tolist() == levels
    assert person.stems == ["i1", "i2", "i10"] and person.photographs is None
    assert (person.name, person.class_noun, person.real) == ("Ada", "woman", True)


def test_at_most_so_many_references_and_inputs_are_read_in_natural_order(folder):
    saved(folder / "references" / "i3.png", square(0))
    person = persons.load_folder(folder, 32, references=3, inputs=2)
    assert images.to_uint8(person.references)[:2, 0, 0, 0].tolist() == [10, 20] and len(person.references) == 3
    assert person.stems == ["i1", "i2"] and images.to_uint8(person.targets)[:, 0, 0, 0].tolist() == [10, 20]
    assert len(persons.load_folder(folder, 32, references=99, inputs=99).inputs) == 3
    with pytest.raises(errors.MissingPicturesError, match="Too few references: 2"):
        persons.load_folder(folder, 32, references=2)
    with pytest.raises(errors.RangeError, match="Remedy"):
        persons.load_folder(folder, 32, inputs=0)


@pytest.fixture
def plain(tmp_path):
    """A plain folder of four photographs, with a subfolder and a hidden file."""
    for number in (1, 2, 3, 10):
        saved(tmp_path / "ada" / f"i{number}.png", np.full((64, 64, 3), number * 10, np.uint8))
    saved(tmp_path / "ada" / "old" / "other.png", square(0))
    (tmp_path / "ada" / ".DS_Store").write_bytes(b"clutter")
    return tmp_path / "ada"


def test_a_plain_folder_of_photographs_gives_references_only(plain):
    person = persons.load_folder(plain, 32, source="own photographs", terms="consent on file", class_noun="woman")
    assert images.to_uint8(person.references)[:, 0, 0, 0].tolist() == [10, 20, 30, 100]
    assert person.inputs is None and person.targets is None and person.stems == [] and person.photographs is None
    assert (person.name, person.class_noun, person.real) == ("ada", "woman", True)
    assert (person.source, person.terms) == ("own photographs", "consent on file")
    invented = persons.load_folder(plain, 32, references=3, real=False)
    assert not invented.real and invented.class_noun == "person" and len(invented.references) == 3


@pytest.mark.parametrize(
    "facts", [{}, {"source": "a friend"}, {"source": "", "terms": " "}, {"source": 3, "terms": "x"}]
)
def test_a_plain_folder_of_a_real_person_needs_a_source_and_terms(plain, facts):
    with pytest.raises(errors.PersonCardError, match="(?s)ada.*Remedy: give source=.*terms=.*real=False"):
        persons.load_folder(plain, 32, **facts)


def test_facts_are_given_by_the_card_or_by_arguments_not_by_both(folder):
    with pytest.raises(errors.PersonCardError, match="source.*person.yaml"):
        persons.load_folder(folder, 32, source="elsewhere")


def test_a_person_folder_may_hold_references_only(folder):
    for part in ("inputs", "targets"):
        _drop(folder / part)
        (folder / part).rmdir()
    person = persons.load_folder(folder, 32)
    assert len(person.references) == 3 and person.inputs is None and person.targets is None and person.name == "Ada"


def test_references_are_checked_by_their_file_names_before_an_input_is_aligned(folder):
    seen = []

    def check(references, names):
        seen.append((tuple(references.shape), names))
        raise errors.NotThePersonError("somebody else")

    with pytest.raises(errors.NotThePersonError):
        persons.load_folder(folder, 32, check_references=check)
    assert seen == [((3, 3, 32, 32), ["i1.png", "i2.png", "i10.png"])]


@pytest.mark.parametrize("name", ["x" * 300, "~nosuchuser/ada", "a\0b"])
def test_names_that_no_file_system_takes_are_refused(name):
    with pytest.raises(errors.UnsafePathError, match="Remedy"):
        persons.load_folder(name)


def test_the_root_folder_is_not_walked_through():
    with pytest.raises(errors.WorkbookError, match="Remedy"):
        persons.load_folder("/", source="x", terms="y")


def test_crops_are_area_averaged(folder):
    check = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    saved(folder / "references" / "i1.png", check)
    assert np.abs(images.to_uint8(persons.load_folder(folder, 32).references)[0] - 127.5).max() <= 0.5


def _drop(path):
    (path.unlink if path.is_file() else lambda: [file.unlink() for file in path.iterdir()])()


def _second(folder):
    saved(folder / "inputs" / "I1.webp", square(0))


def _link(goal):
    return lambda folder: (folder / "references" / "out.png").symlink_to(goal(folder))


FOLDER_FAULTS = {
    "no references": (errors.MissingPicturesError, "references", lambda f: _drop(f / "references")),
    "empty inputs": (errors.MissingPicturesError, "inputs", lambda f: _drop(f / "inputs")),
    "empty targets": (errors.MissingPicturesError, "targets", lambda f: _drop(f / "targets")),
    "two references": (errors.MissingPicturesError, "at least 3", lambda f: _drop(f / "references" / "i1.png")),
    "no card": (errors.PersonCardError, "person.yaml", lambda f: _drop(f / "person.yaml")),
    "target without input": (errors.PairingError, "i10", lambda f: _drop(f / "inputs" / "i10.png")),
    "input without target": (errors.PairingError, "i10", lambda f: _drop(f / "targets" / "i10.png")),
    "stem twice": (errors.PairingError, "I1.webp|i1.png", _second),
    "other size": (errors.PictureSizeError, "96.*64", lambda f: saved(f / "targets" / "i2.png", square(0, 96))),
    "not square": (
        errors.PictureSizeError,
        "Not an aligned square crop.*96x64",
        lambda f: saved(f / "references" / "i2.png", QUARTERS),
    ),
    "truncated": (
        errors.UnreadablePictureError,
        "i2.png",
        lambda f: (f / "targets" / "i2.png").write_bytes(png(64, 64, b"\0" * 99)),
    ),
    "text file": (
        errors.UnreadablePictureError,
        "notes.txt",
        lambda f: (f / "references" / "notes.txt").write_text("x"),
    ),
    "heic": (errors.UnreadablePictureError, "a.heic", lambda f: (f / "references" / "a.heic").write_bytes(b"x")),
    "link out": (errors.UnsafePathError, "out.png", _link(lambda f: saved(f.parent / "secret.png", square(0)))),
    "broken link": (errors.UnreadablePictureError, "out.png", _link(lambda f: f / "references" / "nowhere.png")),
    "link to itself": (errors.UnreadablePictureError, "out.png", _link(lambda f: f / "references" / "out.png")),
    "unusable name": (
        errors.UnsafePathError,
        "Not a plain name",
        lambda f: saved(f / "inputs" / "a\nb.png", square(0)),
    ),
}


@pytest.mark.parametrize("fault", FOLDER_FAULTS)
def test_folder_faults_are_named(folder, fault):
    kind, said, spoil = FOLDER_FAULTS[fault]
    spoil(folder)
    with pytest.raises(kind, match=f"(?s)({said}).*Remedy"):
        persons.load_folder(folder, 32)


def test_a_missing_folder_and_a_link_within_the_folder(folder, tmp_path):
    with pytest.raises(errors.MissingPicturesError, match="nobody.*Remedy"):
        persons.load_folder(tmp_path / "nobody")
    (folder / "references" / "i11.png").symlink_to(folder / "targets" / "i1.png")
    assert len(persons.load_folder(folder, 32).references) == 4


CARD_FAULTS = {
    "not yaml": ("name: [", "Not YAML"),
    "not utf-8": (b"name: \xff\xfe", "Not YAML"),
    "deep": ("[" * 5000, "Not YAML"),
    "a list": ("- name", "Not a list of fields"),
    "empty": ("", "Not a list of fields"),
    "code": ("name: !!python/object/apply:os.getcwd []", "Not YAML"),
    "missing": (CARD.replace("class_noun: woman\n", ""), "Missing.*'class_noun'"),
    "no real": (CARD.replace("real: true\n", ""), "Missing.*'real'"),
    "unknown": (CARD + "nmae: Eve\n", "Unknown.*nmae"),
    "number": (CARD.replace("Ada", "12"), "'name' is int"),
    "text for bool": (CARD.replace("true", '"true"'), "'real' is str"),
    "no terms": (CARD.replace("terms: consent on file\n", ""), "Missing.*'terms'"),
    "neither real nor source": ("name: Ada\nclass_noun: woman\n", "Missing.*'source'.*'terms'.*'real'"),
    "real twice": (CARD + "real: false\n", "given twice: real"),
    "a key that is a list": (CARD + "? [a]\n: b\n", "Not YAML"),
    "too long": (CARD + "#" * 70_000, "at most"),
    "blank source": (CARD.replace("own photographs", '" "'), "needs a source and terms"),
    "odd noun": (CARD.replace("woman", '"woman, sks"'), "class_noun"),
}


@pytest.mark.parametrize("fault", CARD_FAULTS)
def test_card_faults_are_named(folder, fault):
    text, said = CARD_FAULTS[fault]
    (folder / "person.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(errors.PersonCardError, match="(?s)person.yaml.*Remedy") as caught:
        persons.load_folder(folder, 32)
    assert re.search(said, str(caught.value), re.DOTALL)


def test_a_name_that_is_a_path_is_refused_and_an_invented_person_needs_no_terms(folder):
    (folder / "person.yaml").write_text(CARD.replace("Ada", "../../etc/ada"))
    with pytest.raises(errors.UnsafePathError, match="etc/ada.*Remedy"):
        persons.load_folder(folder, 32)
    (folder / "person.yaml").write_text("name: Mona\nclass_noun: person\nreal: false\n")
    assert persons.load_folder(folder, 32).terms == ""


# --- alignment ---


def photograph(*places, size=640):
    """Grey, with a red marker that the tiny detector takes for a face, and white discs where its points then are."""
    picture = np.full((size, size, 3), 90, np.uint8)
    y, x = np.indices((size, size))
    for place in places:
        picture[place[1] : place[1] + 16, place[0] : place[0] + 16] = (255, 0, 0)
        for point in np.array(place) + POINTS:
            picture[(x - point[0]) ** 2 + (y - point[1]) ** 2 <= 25] = 255
    return picture


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return write_detector(tmp_path_factory.mktemp("pack"))


def centres(crop, goal):
    """Centre of brightness near each of five places, (5, 2)."""
    y, x = np.indices(crop.shape[:2])
    light = np.clip(crop.min(axis=2).astype(float) - 110, 0, None)
    near = [light * ((x - place[0]) ** 2 + (y - place[1]) ** 2 <= (crop.shape[0] / 12) ** 2) for place in goal]
    return np.array([[(one * x).sum(), (one * y).sum()] / one.sum() for one in near])


@pytest.mark.parametrize("size", [64, 128, 512])
def test_alignment_puts_the_points_on_the_template(pack, size):
    crop, matrix = alignment.align(photograph((240, 320)), pack, size)
    goal = np.array([[193, 240], [319, 240], [257, 314], [201, 371], [313, 371]]) * size / 512  # shared/real/README.md
    assert crop.shape == (size, size, 3) and np.abs(centres(crop, goal) - goal).max() < 2 * size / 512 + 0.5
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    found = alignment.template(size) @ back[:, :2].T + back[:, 2]
    assert np.abs(found - (np.array((240, 320)) + POINTS)).max() < 1  # so a result can be pasted back


def test_small_crop_equals_large_crop_averaged(pack):
    rng = np.random.default_rng(0)
    picture = np.clip(photograph((240, 320)) + rng.normal(0, 9, (640, 640, 1)), 0, 255).astype(np.uint8)
    picture[320:336, 240:256] = (255, 0, 0)
    small, large = alignment.align(picture, pack, 64)[0], alignment.align(picture, pack, 512)[0]
    assert np.abs(small - large.reshape(64, 8, 64, 8, 3).mean((1, 3))).mean() < 1.5


def test_similarity_recovers_a_known_one():
    angle, scale, shift = 0.3, 1.7, np.array([4.0, -9.0])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = alignment.template(100)
    assert np.allclose(alignment.similarity(points, points @ turn.T + shift), np.column_stack([turn, shift]))
    with pytest.raises(errors.FaceError, match="coincide"):
        alignment.similarity(np.ones((5, 2)), points)


def test_none_and_several_faces_are_named(pack):
    with pytest.raises(errors.NoFaceError, match="ada.png.*Remedy"):
        alignment.align(photograph(), pack, where="ada.png")
    two = photograph((96, 160), (400, 320))
    with pytest.raises(errors.SeveralFacesError, match="2 faces.*ada.png.*largest"):
        alignment.align(two, pack, where="ada.png")
    with pytest.raises(errors.FaceError, match="smallest"):
        alignment.align(two, pack, choose="smallest")


def test_the_largest_face_is_taken_only_when_asked_for(pack):
    for small, large in (((96, 160), (384, 320)), ((480, 480), (192, 192))):
        picture = photograph(small)
        picture[large[1] : large[1] + 32, large[0] : large[0] + 32] = (0, 255, 0)
        assert [face.box[2] - face.box[0] for face in alignment.find_faces(picture, pack)] == [360, 180]
        matrix = alignment.align(picture, pack, choose="largest")[1]
        assert np.allclose(
            (np.array(large) + 2 * POINTS).mean(0) @ matrix[:, :2].T + matrix[:, 2],
            alignment.template(128).mean(0),
            atol=0.1,
        )
        with pytest.raises(errors.SeveralFacesError):
            alignment.align(picture, pack)


def test_a_face_of_a_few_pixels_is_refused(monkeypatch):
    """Found in the picture of 32 px that a person of the shipped detector fills."""
    person = procedural.ProceduralPerson(9)
    small = procedural.render([(person, person.shot(0))], 32).pictures[0]
    assert len(alignment.find_faces(small, "people")) == 1
    with pytest.raises(errors.PictureSizeError, match="ada.png.*px.*Remedy"):
        alignment.align(small, "people", where="ada.png")


def test_a_folder_of_whole_photographs_is_aligned_with_its_targets(folder, pack):
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    for part in ("references", "inputs", "targets"):
        for number, place in ((1, (240, 320)), (2, (192, 256)), (10, (304, 288))):
            saved(folder / part / f"i{number}.png", photograph(place)[::-1, ::-1], exif=exif)
    saved(folder / "targets" / "i2.png", 255 - photograph((192, 256)))  # another face's worth of pixels, no marker
    person = persons.load_folder(folder, 128, pack)
    goal = alignment.template(128)
    for crop in (*images.to_uint8(person.references), *images.to_uint8(person.inputs)):
        assert np.abs(centres(crop, goal) - goal).max() < 1
    bare = np.abs(images.to_uint8(person.targets)[1].astype(int) + images.to_uint8(person.inputs)[1] - 255)[32:, 32:96]
    assert bare.max() <= 1 and len(person.photographs) == 3  # the negative target went through its input's own matrix


@pytest.mark.parametrize("name", ["buffalo_l", "/no/such/pack"])
def test_a_missing_pack_is_an_error_not_a_download(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_detector(tmp_path / "buffalo_l")  # a folder of that name here must not stand in for the user's own
    monkeypatch.setattr("socket.socket", lambda *_: pytest.fail("a download was tried"))
    with pytest.raises(errors.PackError, match="No insightface pack.*Remedy"):
        alignment.align(photograph(), name, root=tmp_path / "home")


def test_an_empty_or_damaged_pack_is_an_error(tmp_path):
    with pytest.raises(errors.PackError, match="Remedy"):
        alignment.find_faces(photograph(), tmp_path)
    (tmp_path / "det.onnx").write_bytes(b"not a model")
    with pytest.raises(errors.PackError, match="Pack cannot be opened.*Remedy"):
        alignment.find_faces(photograph(), tmp_path)


def test_a_named_pack_is_found_under_its_root(tmp_path, pack):
    write_detector(tmp_path / "models" / "mine")
    assert len(alignment.find_faces(photograph((240, 320)), "mine", root=tmp_path)) == 1


# --- people by name ---


def test_a_procedural_person_opens_by_name():
    person = persons.procedural_person("people:1009", size=64, references=3, inputs=2)
    drawn = procedural.render(
        [(procedural.ProceduralPerson(1009), procedural.ProceduralPerson(1009).shot(k)) for k in (0, 1, 2, 100, 101)],
        64,
    )
    assert np.array_equal(images.to_uint8(person.references), drawn.pictures[:3])
    assert np.array_equal(images.to_uint8(person.targets), drawn.pictures[3:])
    assert person.inputs is None and not person.real and person.captions == drawn.captions[3:]
    assert person.reference_captions == drawn.captions[:3] and person.stems == ["image100", "image101"]
    assert repr(person) == "Person('people:1009', 3 references, 2 targets, 64 px)" and person == person


def test_a_procedural_person_has_the_same_minimum():
    with pytest.raises(errors.MissingPicturesError, match="at least 3"):
        persons.procedural_person("people:1009", references=2)
    with pytest.raises(errors.WorkbookError, match="people:../../x"):
        persons.procedural_person("people:../../x")
    with pytest.raises(errors.RangeError, match="inputs.*Remedy"):
        persons.procedural_person("people:1009", inputs=0)
