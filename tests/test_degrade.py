"""Degradation: identity limits, closed forms, an independent composition, replay, ranges of recipes, named errors."""

import dataclasses
import io
import json
import math

import cv2
import numpy as np
import pytest
import scipy.special
import skimage.data
import torch
from PIL import Image

from lib.degradation import operators, recipes
from lib.degradation.degrade import apply, apply_stage, degrade
from lib.degradation.operators import KINDS, kernel
from lib.degradation.settings import Degradation, compose, sample
from lib.errors import DegradationError, PictureError, PictureSizeError, RecipeError, SeedError

SECOND_ORDER = ("realesrgan", "tiny", "tiny-heavy")


@pytest.fixture(scope="module")
def face():
    return cv2.resize(skimage.data.astronaut()[:256, 96:352], (128, 128), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def batch(face):
    pictures = np.stack([face, face[:, ::-1], face[::-1], 255 - face])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def samples_of(recipe, count=600, size=128):
    return [sample(recipe, np.random.default_rng(seed), size) for seed in range(count)]


def steps_of(samples, kind, stage):
    return [step for one in samples for step in one.stages[stage] if isinstance(step, kind)]


def psnr(one, other):
    return -10 * math.log10(np.mean((one.astype(float) - other) ** 2) / 255**2)


# ---- limits ----


def test_none_is_exact(face, batch):
    assert np.array_equal(apply(face, sample("none", np.random.default_rng(0), 128)), face)
    assert torch.allclose(degrade(batch, "none", range(4)), batch, atol=1e-6)


@pytest.mark.parametrize(
    "step",
    [
        operators.Blur("iso", 41, 0.0, 0.0),
        operators.Blur("aniso", 13, 1e-6, 1e-9, 1.0),
        operators.Resize(1.0, "area"),
        operators.Noise(0.0, 7),
        operators.Noise(0.0, 7, "poisson"),
    ],
)
def test_each_operator_has_an_identity(face, step):
    assert np.array_equal(apply(face, compose(128, [step])), face)


def test_all_limits_together_are_nearly_the_picture(face):
    limit = [operators.Blur("iso", 41, 0.01, 0.01), operators.Resize(1.0), operators.Noise(0.0, 1), operators.Jpeg(100)]
    assert psnr(apply(face, compose(128, limit)), face) > 38  # 4:2:0 chroma is all that is lost
    assert psnr(apply(face, compose(128, limit[:3] + [operators.Jpeg(30)])), face) < 34


def test_stronger_is_worse(face):
    for weak, strong in [
        (operators.Blur("iso", 41, 1.0, 1.0), operators.Blur("iso", 41, 4.0, 4.0)),
        (operators.Resize(2.0), operators.Resize(8.0)),
        (operators.Noise(5.0, 1), operators.Noise(20.0, 1)),
        (operators.Noise(0.5, 1, "poisson"), operators.Noise(2.0, 1, "poisson")),
        (operators.Jpeg(80), operators.Jpeg(20)),
    ]:
        assert psnr(apply(face, compose(128, [weak])), face) > psnr(apply(face, compose(128, [strong])), face) + 1


# ---- kernels ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [7, 21, 41])
def test_kernels_sum_to_one_and_are_centred(kind, size):
    values = kernel(kind, size, 2.0, 0.7, 0.5, 1.3, 1.2)
    assert values.shape == (size, size) and values.dtype == np.float32
    assert values.sum() == pytest.approx(1, abs=1e-5)
    assert np.allclose(values, values[::-1, ::-1], atol=1e-7)  # point symmetry: nothing moves
    assert values.argmax() == size * size // 2


def test_isotropic_kernel_is_the_closed_form():
    line = cv2.getGaussianKernel(41, 3.3, cv2.CV_64F)
    assert np.allclose(kernel("iso", 41, 3.3), line @ line.T, atol=1e-7)


def test_blur_is_opencvs_gaussian_blur(face):
    ours = operators.Blur("iso", 41, 3.3, 3.3)(face.astype(np.float32))
    assert np.allclose(ours, cv2.GaussianBlur(face.astype(np.float32), (41, 41), 3.3), atol=1e-2)


@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 2, -2.0])
def test_rotated_kernel_has_the_second_moments(angle):
    values = kernel("aniso", 61, 5.0, 2.0, angle).astype(float)
    y, x = np.mgrid[-30:31, -30:31]
    found = np.array(
        [[(values * x * x).sum(), (values * x * y).sum()], [(values * x * y).sum(), (values * y * y).sum()]]
    )
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    assert np.allclose(found, turn @ np.diag([25.0, 4.0]) @ turn.T, atol=0.02)


def test_generalised_with_beta_one_is_gaussian_and_plateau_is_flat():
    assert np.allclose(
        kernel("generalised_aniso", 21, 3.0, 1.5, 0.7, beta=1.0), kernel("aniso", 21, 3.0, 1.5, 0.7), atol=1e-7
    )
    plateau, gaussian = kernel("plateau_iso", 21, 3.0, beta=2.0), kernel("iso", 21, 3.0)
    assert plateau[10, 11] / plateau[10, 10] == pytest.approx(1 / (1 + 3.0**-4), rel=1e-5)
    assert plateau[10, 12] / plateau[10, 10] > gaussian[10, 12] / gaussian[10, 10]


def test_the_sinc_kernel_is_its_closed_form():
    y, x = np.mgrid[-10:11, -10:11]
    radius = np.hypot(x, y)
    radius[10, 10] = 1e-9
    expected = 1.1 * scipy.special.j1(1.1 * radius) / (2 * math.pi * radius)
    assert np.allclose(kernel("sinc", 21, omega=1.1), expected / expected.sum(), atol=1e-7)


def test_sinc_passes_below_and_stops_above_its_cut_off():
    response = np.abs(np.fft.fft2(np.pad(kernel("sinc", 41, omega=math.pi / 2), 44)))  # 129 frequencies
    assert response[0, 16] == pytest.approx(1, abs=0.12) and response[0, 60] < 0.05


# ---- noise and JPEG ----


@pytest.mark.parametrize("delta", [1.0, 8.0, 20.0])
def test_gaussian_noise_has_its_standard_deviation(delta):
    level = np.full((256, 256, 3), 127.0, np.float32)
    noise = operators.Noise(delta, 5)(level) - level
    assert noise.std() == pytest.approx(delta, rel=0.01) and abs(noise.mean()) < delta / 50
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("kind", ["gaussian", "poisson"])
def test_grey_noise_is_the_same_in_every_channel(kind):
    level = np.full((64, 64, 3), 127.0, np.float32) + np.arange(64, dtype=np.float32)[:, None, None] / 2
    noise = operators.Noise(2.0, 5, kind, grey=True)(level) - level
    assert noise.std() > 0.5 and np.allclose(noise[..., 0], noise[..., 2], atol=1e-3)


def test_shot_noise_grows_with_the_square_root_of_light():
    levels = np.repeat(np.arange(256, dtype=np.float32)[:, None, None], 600, 1).repeat(
        3, 2
    )  # 256 levels: 256 photons at white
    noise = operators.Noise(1.0, 5, "poisson")(levels) - levels
    for level in (16, 64, 140):
        assert noise[level].std() == pytest.approx(255 * math.sqrt(level / 255 / 256), rel=0.06)


def test_noise_stays_in_range():
    noisy = operators.Noise(60.0, 1)(np.full((64, 64, 3), 250.0, np.float32))
    assert noisy.max() <= 255 and noisy.min() >= 0


@pytest.mark.parametrize("quality", [15, 50, 95])
def test_jpeg_is_pillows_at_the_same_quality(face, quality):
    buffer = io.BytesIO()
    Image.fromarray(face).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    ours = apply_stage(face, (operators.Jpeg(quality),)).astype(int)
    difference = np.abs(ours - np.asarray(Image.open(buffer)))
    assert difference.mean() < 0.5 and np.percentile(difference, 99) <= 3  # two builds of libjpeg may round apart


def test_jpeg_keeps_the_order_of_colours():
    red = np.zeros((32, 32, 3), np.uint8) + np.array([220, 30, 10], np.uint8)
    assert np.abs(apply_stage(red, (operators.Jpeg(95),)).astype(int) - red).max() <= 4


# ---- sampled settings ----


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_settings_replay_to_the_same_pixels_from_json(face, recipe):
    for one in samples_of(recipe, 12):
        again = Degradation.from_json(one.to_json())
        assert again == one and np.array_equal(apply(face, again), apply(face, one))


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_recipes_survive_json(recipe):
    again = recipes.Recipe.from_dict(json.loads(json.dumps(recipes.RECIPES[recipe].to_dict())))
    assert again == recipes.RECIPES[recipe]
    assert sample(again, np.random.default_rng(3), 64) == sample(recipe, np.random.default_rng(3), 64)


@pytest.mark.parametrize("recipe", ["codeformer", "realesrgan", "tiny"])
def test_a_seed_means_the_same_picture_whatever_the_batch(batch, recipe):
    together, settings = degrade(batch, recipe, [5, 6, 7, 8], return_settings=True)
    alone, [own] = degrade(batch[2], recipe, [7], return_settings=True)  # a single picture gains its axis
    assert torch.equal(together[2:3], alone) and settings[2] == own
    assert torch.equal(degrade(batch, recipe, 5), together)  # a single seed counts on
    assert together.shape == batch.shape and together.dtype == torch.float32 and together.abs().max() <= 1


def test_other_seeds_other_pictures_and_the_input_is_left_alone(batch):
    before = batch.clone()
    same = batch[:1].expand(8, -1, -1, -1)
    pictures = degrade(same, "tiny", range(8))
    assert len({picture.numpy().tobytes() for picture in pictures}) == 8 and torch.equal(batch, before)


def test_degrade_samples_and_applies(face, batch):
    pictures, [settings] = degrade(batch[:1], "tiny", [11], return_settings=True)
    expected = apply(face, sample("tiny", np.random.default_rng(11), 128))
    assert np.array_equal(((pictures[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy(), expected)
    assert settings.made_for == 128 and settings.size == (128, 128)


@pytest.mark.parametrize("recipe", SECOND_ORDER)
def test_second_order_is_first_order_twice(face, recipe):
    for one in samples_of(recipe, 15):
        first, second = one.stages
        small = apply_stage(apply_stage(face, first), second)
        assert np.array_equal(
            apply(face, one), cv2.resize(small, (128, 128), interpolation=operators.INTERPOLATIONS[one.resize_back])
        )


def test_eq_9_is_an_independent_composition(face):
    """[(x * k) down_r + n]_JPEG written out with OpenCV and numpy alone."""
    one = sample("dpt", np.random.default_rng(4), 128)
    blur, resize, noise, jpeg = one.stages[0]
    x = cv2.filter2D(face.astype(np.float32), -1, kernel(blur.kind, blur.size, blur.sigma_x, blur.sigma_y, blur.angle))
    side = round(128 / resize.down)
    x = cv2.resize(x, (side, side), interpolation=cv2.INTER_LINEAR)
    x = np.clip(x + noise.delta * np.random.default_rng(noise.seed).standard_normal(x.shape, np.float32), 0, 255)
    _, file = cv2.imencode(".jpg", x.round().astype(np.uint8)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, jpeg.quality])
    expected = cv2.resize(cv2.imdecode(file, 1)[..., ::-1], (128, 128), interpolation=cv2.INTER_LINEAR)
    assert np.abs(apply(face, one).astype(int) - expected).max() <= 1


# ---- the public recipes, against what their sources say ----

HALF = {"iso": 0.5, "aniso": 0.5}
KERNEL_ODDS = {
    "iso": 0.9 * 0.45,
    "aniso": 0.9 * 0.25,
    "generalised_iso": 0.9 * 0.12,
    "generalised_aniso": 0.9 * 0.03,
    "plateau_iso": 0.9 * 0.12,
    "plateau_aniso": 0.9 * 0.03,
    "sinc": 0.1,
}
FIRST_ORDER = {
    "kinds": HALF,
    "kernel": (41, 41),
    "blur": 1.0,
    "interpolations": ("bilinear",),
    "gaussian": 1.0,
    "grey": 0.0,
    "of_original": 0.0,
}
REAL_ESRGAN = {
    "kinds": KERNEL_ODDS,
    "kernel": (7, 21),
    "beta_generalised": (0.5, 4),
    "beta_plateau": (1, 2),
    "down": None,
    "interpolations": ("area", "bilinear", "bicubic"),
    "gaussian": 0.5,
    "grey": 0.4,
    "jpeg": (30, 95),
}
PUBLISHED = {  # name: side, stages, probability of the last sinc, interpolation back
    "codeformer": (
        512,
        [FIRST_ORDER | dict(sigma=(0.1, 12), down=(1, 12), noise=(0, 15), jpeg=(30, 99))],
        0,
        "bilinear",
    ),
    "dpt": (512, [FIRST_ORDER | dict(sigma=(0.1, 10), down=(0.8, 8), noise=(0, 20), jpeg=(60, 99))], 0, "bilinear"),
    "realesrgan": (
        512,
        [
            REAL_ESRGAN
            | dict(blur=1, sigma=(0.2, 3), scale=(0.15, 1.5), scale_odds=(0.2, 0.7, 0.1), of_original=0)
            | dict(noise=(1, 30), poisson=(0.05, 3)),
            REAL_ESRGAN
            | dict(blur=0.8, sigma=(0.2, 1.5), scale=(0.3, 1.2), scale_odds=(0.3, 0.4, 0.3), of_original=4)
            | dict(noise=(1, 25), poisson=(0.05, 2.5)),
        ],
        0.8,
        "bicubic",
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_public_recipe_has_the_published_numbers(name):
    side, stages, final_sinc, resize_back = PUBLISHED[name]
    recipe = recipes.RECIPES[name]
    assert (recipe.made_for, recipe.final_sinc, recipe.resize_back) == (side, final_sinc, resize_back)
    assert len(recipe.stages) == len(stages)
    for stage, expected in zip(recipe.stages, stages):
        found = {key: getattr(stage, key) for key in expected}
        assert found.pop("kinds") == pytest.approx(expected["kinds"])
        assert found == {key: value for key, value in expected.items() if key != "kinds"}


@pytest.mark.parametrize("name", ["codeformer", "dpt"])
def test_a_first_order_recipe_samples_and_applies_what_it_says(face, name):
    """Blur of side 41, bilinear resize, Gaussian colour noise, JPEG, in this order; then bilinear back."""
    for one in samples_of(name, 40):
        blur, resize, noise, jpeg = one.stages[0]
        assert [type(step).__name__ for step in one.stages[0]] == ["Blur", "Resize", "Noise", "Jpeg"]
        assert blur.size == 41 and blur.kind in HALF and resize.interpolation == "bilinear"
        assert (noise.kind, noise.grey) == ("gaussian", False) and one.resize_back == "bilinear"
    small = apply_stage(face, one.stages[0])
    assert np.array_equal(apply(face, one), cv2.resize(small, (128, 128), interpolation=cv2.INTER_LINEAR))


def test_realesrgan_orders_its_operators_and_is_resized_back_bicubically(face):
    for one in samples_of("realesrgan", 40):
        assert [type(step).__name__ for step in one.stages[0]] == ["Blur", "Resize", "Noise", "Jpeg"]
        names = [type(step).__name__ for step in one.stages[1]]
        assert names[names.index("Noise") - 1] == "Resize" and names.count("Jpeg") == 1 and names.count("Resize") == 2
        small = apply_stage(apply_stage(face, one.stages[0]), one.stages[1])
        assert np.array_equal(apply(face, one), cv2.resize(small, (128, 128), interpolation=cv2.INTER_CUBIC))


TINY = {  # sigma_x, down, delta, quality of both stages with seed 0
    "tiny": [(0.273752, 3.281889, 6.5235, 55), (0.226868, 1.517907, 2.397695, 63)],
    "tiny-heavy": [(0.869655, 4.869133, 10.5235, 44), (0.226868, 1.57674, 2.997119, 51)],
    "tiny-extreme": [(0.869655, 7.738267, 10.5235, 44), (0.226868, 1.772636, 2.997119, 51)],
}


@pytest.mark.parametrize("name", TINY)
def test_a_seed_gives_the_settings_of_the_recorded_studies(name):
    for (blur, resize, noise, jpeg), expected in zip(sample(name, np.random.default_rng(0), 128).stages, TINY[name]):
        assert (blur.sigma_x, resize.down, noise.delta, jpeg.quality) == pytest.approx(expected, abs=1e-5)
        assert resize.interpolation == "bilinear" and noise.seed in (2605480817, 2066142961)


def covers(values, low, high, slack=0.03):
    """Inside the range, and reaching both of its ends."""
    room = slack * (high - low)
    return low <= min(values) <= low + room and high - room <= max(values) <= high


@pytest.mark.parametrize(
    "recipe, stage, sigma, down, noise, jpeg",
    [
        ("codeformer", 0, (0.1, 12), (1, 12), (0, 15), (30, 99)),
        ("dpt", 0, (0.1, 10), (0.8, 8), (0, 20), (60, 99)),
        ("tiny", 0, (0.2, 2.0), (1, 3.5), (0, 12), (40, 95)),
        ("tiny", 1, (0.2, 1.0), (1, 1.6), (0, 8), (40, 95)),
    ],
)
def test_settings_cover_the_published_ranges(recipe, stage, sigma, down, noise, jpeg):
    samples = samples_of(recipe)
    blurs = steps_of(samples, operators.Blur, stage)
    assert covers([b.sigma_x for b in blurs], *sigma) and covers([b.sigma_y for b in blurs], *sigma)
    assert covers([step.down for step in steps_of(samples, operators.Resize, stage)], *down)
    assert covers([step.delta for step in steps_of(samples, operators.Noise, stage)], *noise)
    assert covers([step.quality for step in steps_of(samples, operators.Jpeg, stage)], *jpeg)
    assert np.mean([b.kind == "iso" for b in blurs]) == pytest.approx(0.5, abs=0.07)
    assert np.mean([step.down for step in steps_of(samples, operators.Resize, stage)]) == pytest.approx(
        sum(down) / 2, rel=0.06
    )


def test_realesrgan_has_the_published_probabilities():
    samples = samples_of("realesrgan", 3000)
    blurs = steps_of(samples, operators.Blur, 0)
    odds = {kind: np.mean([b.kind == kind for b in blurs]) for kind in KINDS}
    expected = {
        "iso": 0.405,
        "aniso": 0.225,
        "generalised_iso": 0.108,
        "generalised_aniso": 0.027,
        "plateau_iso": 0.108,
        "plateau_aniso": 0.027,
        "sinc": 0.1,
    }
    assert all(odds[kind] == pytest.approx(expected[kind], abs=0.03) for kind in KINDS)
    assert {b.size for b in blurs} == set(range(7, 22, 2))
    scales = np.array([1 / step.down for step in steps_of(samples, operators.Resize, 0)])
    assert [np.mean(scales > 1), np.mean(scales < 1), np.mean(scales == 1)] == pytest.approx([0.2, 0.7, 0.1], abs=0.03)
    assert covers(scales, 0.15, 1.5)
    first = steps_of(samples, operators.Noise, 0)
    assert np.mean([n.kind == "gaussian" for n in first]) == pytest.approx(0.5, abs=0.03)
    assert covers([n.delta for n in first if n.kind == "gaussian"], 1, 30) and covers(
        [n.delta for n in first if n.kind == "poisson"], 0.05, 3
    )
    assert np.mean([n.grey for n in first]) == pytest.approx(0.4, abs=0.03)
    assert covers([j.quality for stage in (0, 1) for j in steps_of(samples, operators.Jpeg, stage)], 30, 95)


def test_realesrgan_second_stage_ends_in_either_order_at_a_quarter():
    samples = samples_of("realesrgan", 2000)
    seconds = [one.stages[1] for one in samples]
    assert np.mean([isinstance(s[0], operators.Blur) for s in seconds]) == pytest.approx(0.8, abs=0.03)
    final = [[b for b in s[1:] if isinstance(b, operators.Blur)] for s in seconds]
    assert np.mean([len(f) == 1 for f in final]) == pytest.approx(0.8, abs=0.03)
    assert all(f[0].kind == "sinc" and f[0].omega >= math.pi / 3 for f in final if f)
    assert np.mean([isinstance(s[-1], operators.Jpeg) for s in seconds]) == pytest.approx(0.5, abs=0.04)
    totals = [
        math.prod(step.down for stage in one.stages for step in stage if isinstance(step, operators.Resize))
        for one in samples
    ]
    assert totals == pytest.approx([4.0] * len(totals))
    inner = [
        one.stages[0][1].down * next(step for step in one.stages[1] if isinstance(step, operators.Resize)).down
        for one in samples
    ]
    assert covers([4 / total for total in inner], 0.3, 1.2)


def test_heavier_than_tiny(face):
    total = [
        math.prod(step.down for stage in one.stages for step in stage if isinstance(step, operators.Resize))
        for one in samples_of("tiny-heavy")
    ]
    assert 5 <= min(total) and max(total) <= 8
    quality = {
        name: np.median([psnr(apply(face, one), face) for one in samples_of(name, 60)])
        for name in ("tiny", "tiny-heavy")
    }
    assert quality["tiny"] > quality["tiny-heavy"] + 1.5


def test_sigma_is_scaled_only_when_asked():
    plain, scaled = (sample("codeformer", np.random.default_rng(2), 128, scale_sigma=ask) for ask in (False, True))
    assert plain.made_for == 512 and plain.sigma_scale == 1 and scaled.sigma_scale == 0.25
    assert scaled.stages[0][0].sigma_x == pytest.approx(plain.stages[0][0].sigma_x / 4)
    assert scaled.stages[0][1:] == plain.stages[0][1:]
    larger = sample("tiny", np.random.default_rng(2), 512, scale_sigma=True).stages[0][0]
    assert larger.size >= 41 and larger.size % 2 == 1


def test_any_shape_from_16_pixels_on():
    for shape in [(16, 16), (17, 90), (301, 200)]:
        picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        for recipe in recipes.RECIPES:
            result = apply(picture, sample(recipe, np.random.default_rng(1), shape))
            assert result.shape == picture.shape and result.dtype == np.uint8


# ---- bad input ----


def test_an_unknown_recipe_names_those_there_are():
    with pytest.raises(RecipeError, match="tiny.*none.*codeformer|none.*codeformer.*tiny"):
        sample("codefromer", np.random.default_rng(0), 128)
    with pytest.raises(RecipeError):
        recipes.Recipe.from_dict({"name": "mine", "made_for": 128, "stages": [{"blurr": 1}]})


@pytest.mark.parametrize(
    "picture, error",
    [
        (np.zeros((128, 128, 3), np.float32), PictureError),
        (np.zeros((128, 128), np.uint8), PictureError),
        (np.zeros((128, 128, 4), np.uint8), PictureError),
        (None, PictureError),
        (np.zeros((64, 64, 3), np.uint8), PictureSizeError),
        (np.zeros((8, 8, 3), np.uint8), PictureSizeError),
    ],
)
def test_a_bad_picture_is_refused(picture, error):
    with pytest.raises(error, match="Remedy"):
        apply(picture, sample("tiny", np.random.default_rng(0), 128))


def test_a_bad_batch_is_refused(batch):
    nan = batch.clone()
    nan[1, 0, 3, 3] = float("nan")
    for bad in (
        nan,
        batch / 0,
        (batch + 1) * 127.5,
        batch[:0],
        batch[:, :1],
        batch.byte(),
        batch.numpy(),
        batch[..., :8, :8],
    ):
        with pytest.raises(PictureError, match="Remedy"):
            degrade(bad, "tiny", range(len(bad)))
    with pytest.raises(PictureSizeError):
        sample("tiny", np.random.default_rng(0), 15)


@pytest.mark.parametrize("seeds", [[1, 2, 3], [1, 2, 3, -4], [1, 2, 3, 4.0], [1, 2, 3, True], -5, 5.0, True, "1234"])
def test_bad_seeds_are_refused(batch, seeds):
    with pytest.raises(SeedError, match="Remedy"):
        degrade(batch, "tiny", seeds)


def test_seeds_may_be_a_tensor_or_an_array(batch):
    expected = degrade(batch, "tiny", [1, 2, 3, 4])
    assert torch.equal(degrade(batch, "tiny", torch.arange(1, 5)), expected)
    assert torch.equal(degrade(batch, "tiny", np.arange(1, 5)), expected)


def broken(**changes):
    return {**sample("tiny", np.random.default_rng(0), 128).to_dict(), **changes}


@pytest.mark.parametrize(
    "saved",
    [
        broken(version=1),
        {k: v for k, v in broken().items() if k != "version"},
        {k: v for k, v in broken().items() if k != "stages"},
        broken(colour="blue"),
        broken(stages=[[{"op": "smudge"}]]),
        broken(stages=[[{"op": "jpeg"}]]),
        broken(stages=[[{"op": "jpeg", "quality": 300}]]),
        broken(stages=[[{"op": "noise", "delta": -1.0, "seed": 1}]]),
        broken(stages=[[{"op": "noise", "delta": 5.0}]]),
        broken(stages=3),
        broken(size=7),
        broken(stages=[[{"op": "blur", "kind": "box", "size": 7}]]),
        broken(stages=[[{"op": "blur", "kind": "iso", "size": 8}]]),
        broken(stages=[[{"op": "blur", "kind": "iso", "size": "7"}]]),
        broken(stages=[[{"op": "resize", "down": 0}]]),
        broken(stages=[[{"op": "resize", "down": 2, "interpolation": "lanczos"}]]),
        broken(resize_back="lanczos"),
        broken(size=[128]),
        broken(stages=[[{"op": "blur", "kind": "aniso", "size": 7, "sigma_x": 1.0, "sigma_y": float("nan")}]]),
        [],
        None,
    ],
)
def test_bad_saved_settings_are_refused(saved):
    with pytest.raises(DegradationError, match="Remedy"):
        Degradation.from_json(json.dumps(saved))


def test_text_that_is_not_json_is_refused():
    with pytest.raises(DegradationError, match="not JSON"):
        Degradation.from_json("{version: 1")


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample("tiny", np.random.default_rng(0), 128).version = 2
