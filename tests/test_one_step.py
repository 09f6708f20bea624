"""The one-step restorer: eq. 3, the prompt of the identity embedder, its weights on disk, and what it refuses."""

import json

import pytest
import tiny_one_step
import tiny_system
import torch
from safetensors.torch import load_file, save_file

from lib import paths
from lib.errors import PackError, PictureError, PictureSizeError, RangeError, WeightsError
from lib.images import to_tensor
from lib.models import landmark_heatmaps as heatmaps
from lib.models.identity_embedder import PAPER, PARTS, IdentityEmbedder, Shape, eye_patches, nearest_codes
from lib.models.one_step import clean_latent
from lib.models.one_step_folder import ADAPTERS, CARD, ENCODER, load_adapters, load_one_step, merged, save_one_step
from lib.people import procedural
from lib.restoration.one_step import describe, prompt_of, restore_one_step


@pytest.fixture(scope="module")
def one(B):
    return tiny_one_step.build(B)


@pytest.fixture(scope="module")
def pictures():
    return tiny_system.pictures(3, 5), tiny_system.pictures(4, 6)


@pytest.fixture(scope="module")
def faces():
    people = procedural.people_of("test", 6)
    drawn = procedural.render([(person, person.shot(2)) for person in people], 128)
    return to_tensor(drawn.pictures), torch.from_numpy(drawn.landmarks) / 64 - 1


def test_one_step_is_equation_3_by_hand(B, one, pictures):
    degraded, _ = pictures
    z_L, p = B.encode(degraded), prompt_of(one, degraded)
    with torch.no_grad():
        eps = one.G(z_L, torch.full((3,), 399), p).sample
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    abar = float((1 - betas).cumprod(0)[399])
    z_H = (z_L - (1 - abar) ** 0.5 * eps) / abar**0.5
    torch.testing.assert_close(restore_one_step(one, degraded), B.decode(z_H), atol=1e-4, rtol=0)


def test_the_clean_latent_undoes_the_forward_process(B):
    z, eps = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    x_t = B.scheduler.add_noise(z, eps, torch.tensor([600]))
    torch.testing.assert_close(clean_latent(B, x_t, 600, eps), z, atol=1e-4, rtol=0)


def test_the_order_of_references_and_the_batch_do_not_matter(one, pictures):
    degraded, references = pictures
    restored = restore_one_step(one, degraded, references)
    for other in (
        restore_one_step(one, degraded, references[[2, 0, 3, 1]]),
        restore_one_step(one, degraded, describe(one, references), batch=1),
    ):
        torch.testing.assert_close(restored, other, atol=2e-5, rtol=0)


def test_one_reference_works_and_every_part_changes_the_picture(one, pictures):
    degraded, references = pictures
    alone = restore_one_step(one, degraded, references[0])
    assert alone.shape == degraded.shape and not torch.allclose(alone, restore_one_step(one, degraded, references))
    whole = restore_one_step(one, degraded, references)
    for part in PARTS:
        without = restore_one_step(one, degraded, references, parts=[p for p in PARTS if p != part])
        assert not torch.allclose(without, whole, atol=1e-5), part


def test_without_references_only_the_degraded_picture_speaks(one, pictures):
    degraded, references = pictures
    expected = restore_one_step(one, degraded, references, parts=["VRE"])
    torch.testing.assert_close(restore_one_step(one, degraded), expected)


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        (lambda x, r: (x[..., :32], r), PictureSizeError, "degraded pictures"),
        (lambda x, r: (x, r[..., :32]), PictureSizeError, "references"),
        (lambda x, r: (x, r[:0]), PictureError, "at least one"),
        (lambda x, r: (x * 3, r), PictureError, "outside"),
    ],
)
def test_bad_pictures_have_named_errors(one, pictures, arguments, error, words):
    with pytest.raises(error, match=words):
        restore_one_step(one, *arguments(*pictures))


def test_a_method_that_needs_references_says_so_and_an_unknown_part_is_named(one, pictures):
    with pytest.raises(PictureError, match="at least one"):
        describe(one, None)
    with pytest.raises(PictureError, match="at least one"):
        restore_one_step(one, pictures[0], parts=["FFE"])
    with pytest.raises(PictureError, match="nearest"):
        one.prompt(one.codes(pictures[0]), describe(one, pictures[1]))
    with pytest.raises(RangeError, match="T_L"):
        one.with_(T_L=1000)
    with pytest.raises(RangeError, match="FFE, FIE, VRE"):
        restore_one_step(one, pictures[0], parts=["VGG"])


# the identity embedder


def test_tokens_before_training_are_the_empty_prompt(B):
    fresh = tiny_one_step.build(B, stir=False)
    degraded, references = tiny_system.pictures(2, 5), tiny_system.pictures(2, 6)
    p = prompt_of(fresh, degraded, describe(fresh, references))
    torch.testing.assert_close(p, B.embed([""]).expand(2, -1, -1))
    with torch.no_grad():
        torch.testing.assert_close(
            fresh.G(degraded.new_zeros(1, 4, 8, 8), 5, p[:1]).sample,
            B.G(degraded.new_zeros(1, 4, 8, 8), 5, p[:1]).sample,
        )


def test_the_prompt_has_the_lengths_of_the_paper():
    with torch.device("meta"):
        embedder = IdentityEmbedder(PAPER)
    assert (PAPER.eyes, PAPER.identity, PAPER.visual) == (4, 7, 66) and tuple(embedder.null.shape) == (77, 1024)
    assert Shape().visual == 40 - 11


def test_nearest_codes_are_distinct_and_in_order_of_distance():
    codebook = torch.tensor([[0.0, 0], [1, 0], [0, 5], [9, 9]])
    features = torch.tensor([[[0.9, 0.1], [0.95, 0.0], [0.0, 4.0]]])
    assert nearest_codes(features, codebook, 3).tolist() == [[1, 0, 2]]  # 0.05, 0.906 and 1.0 away


def test_a_picture_gets_the_eyes_of_its_nearest_reference(one):
    """Eq. 6: a reference among others that is the picture itself has distance 0."""
    references = tiny_system.pictures(4, 9)
    known = describe(one, references)
    for k in range(4):
        alone = describe(one, references[k])
        picked = prompt_of(one, references[k : k + 1], known)[:, :4]
        torch.testing.assert_close(picked, prompt_of(one, references[k : k + 1], alone)[:, :4])


def test_eye_patches_are_windows_about_the_eyes(faces):
    """On pictures whose colours are their coordinates, a patch shows where it lies."""
    _, landmarks = faces
    side = (torch.arange(128) + 0.5) / 64 - 1
    x, y = torch.meshgrid(side, side, indexing="xy")
    patches = eye_patches(torch.stack([x, y, 0 * x]).expand(6, -1, -1, -1), landmarks)
    assert patches.shape == (6, 2, 3, 32, 32)
    for eye, points in enumerate((slice(36, 42), slice(42, 48))):
        torch.testing.assert_close(patches[:, eye, :2].mean((2, 3)), landmarks[:, points].mean(1), atol=1e-4, rtol=0)
        assert (patches[:, eye, 0].amax((1, 2)) - patches[:, eye, 0].amin((1, 2))).mean() == pytest.approx(
            0.34 * 31 / 32, abs=1e-3
        )


# heatmaps and the mask of masked face alignment


def test_heatmaps_are_the_shipped_landmarkers_and_find_the_landmarks(faces):
    pictures, landmarks = faces
    maps, points = heatmaps.landmark_heatmaps(pictures, batch=4)
    assert maps.shape == (6, 68, 48, 48) and (maps.amax((2, 3)) == 1).all() and (maps >= 0).all()
    assert ((points - landmarks).norm(dim=2).mean() * 64) < 1.6  # pixels
    torch.testing.assert_close(heatmaps.landmark_heatmaps(pictures[3:4])[1], points[3:4], atol=1e-4, rtol=0)


def test_the_mask_is_equations_10_and_11_by_hand():
    maps = torch.rand(2, 68, 48, 48, generator=torch.Generator().manual_seed(0))
    raw = heatmaps._resampled(maps.mean(1, keepdim=True), 1 / 0.8, -0.25, 40)
    for k in (1.0, 10.0):
        e = 1 - torch.exp(-k * raw)
        expected = [(one - one.min()) / (one.max() - one.min()) for one in e]
        torch.testing.assert_close(heatmaps.attention_mask(maps, 40, k), torch.stack(expected))


def test_the_mask_lies_over_the_landmarks(faces):
    pictures, landmarks = faces
    mask = heatmaps.attention_mask(heatmaps.landmark_heatmaps(pictures)[0], 128)
    at = torch.nn.functional.grid_sample(mask, landmarks[:, None].float(), align_corners=False)[:, 0, 0]  # (6, 68)
    assert at.mean() > 0.4 and mask[..., :10, :].mean() < 0.05 and mask.mean() < 0.25


def test_a_missing_or_another_landmarker_is_an_error(tmp_path):
    other = heatmaps.LANDMARKER.with_name("people-r.onnx")
    with pytest.raises(PackError, match="No landmark network"):
        heatmaps._network(tmp_path / "none.onnx")
    for name, content in (("cut", heatmaps.LANDMARKER.read_bytes()[:900]), ("other", other.read_bytes())):
        (tmp_path / f"{name}.onnx").write_bytes(content)
        with pytest.raises(PackError, match="Not the landmark network"):
            heatmaps._network(tmp_path / f"{name}.onnx")


# on disk


def test_a_folder_gives_the_restorer_back(B, one, pictures, tmp_path):
    save_one_step(tmp_path / "one", one)
    again = load_one_step(tmp_path / "one", B)
    degraded, references = pictures
    assert again.T_L == one.T_L and not any(w.requires_grad for m in (again.G, again.embedder) for w in m.parameters())
    for known in (None, references):  # kept in half precision
        torch.testing.assert_close(
            restore_one_step(again, degraded, known), restore_one_step(one, degraded, known), atol=2e-2, rtol=0
        )


def test_merged_adapters_predict_the_same_without_adapters(one, pictures):
    degraded, references = pictures
    quick = merged(one)
    assert not any("lora" in name for name, _ in quick.G.named_parameters())
    torch.testing.assert_close(
        restore_one_step(quick, degraded, references), restore_one_step(one, degraded, references), atol=1e-4, rtol=0
    )


def test_another_base_is_refused(one, tmp_path):
    save_one_step(tmp_path / "one", one)
    with pytest.raises(WeightsError, match="weights of another base"):
        load_one_step(tmp_path / "one", tiny_system.build(seed=3))


@pytest.mark.parametrize(
    "file", [CARD, ADAPTERS, "embedder.safetensors", "tokenizer.safetensors", "networks.safetensors"]
)
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_missing_and_damaged_files_are_named(B, one, tmp_path, file, damage):
    folder = tmp_path / "one"
    save_one_step(folder, one)
    if damage == "missing":
        (folder / file).unlink()
    else:
        (folder / file).write_bytes((folder / file).read_bytes()[:40])
    with pytest.raises(WeightsError, match=file):
        load_one_step(folder, B)


LAYOUTS = {
    "OSDFace": lambda key: f"unet.{key}",
    "without a prefix": lambda key: key,
    "older diffusers": lambda key: (
        "unet." + key.replace("lora_A.weight", "lora.down.weight").replace("lora_B.weight", "lora.up.weight")
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_adapters_open_in_every_published_layout(B, one, tmp_path, layout):
    """Of rank 16 and alpha 16, with linear layers and convolutions; which layers have one is read from the file."""
    save_one_step(tmp_path / "one", one)
    state = {k.removeprefix("unet."): v for k, v in load_file(tmp_path / "one" / ADAPTERS).items()}
    state = {k: v for k, v in state.items() if "to_v" in k or "conv1" in k}
    assert {v.dim() for v in state.values()} == {2, 4} and all(16 in v.shape[:2] for v in state.values())
    save_file({LAYOUTS[layout](k): v for k, v in state.items()}, tmp_path / ADAPTERS)
    G = load_adapters(B.G, tmp_path / ADAPTERS)
    x, p = torch.randn(1, 4, 8, 8), B.embed(["a photo"])
    expected = tiny_one_step.added(B.G, state)  # W + B A, by hand
    with torch.no_grad():
        found, plain = G(x, 9, p).sample, B.G(x, 9, p).sample
        torch.testing.assert_close(found, expected(x, 9, p).sample, atol=1e-4, rtol=0)
    assert (found - plain).abs().max() > 1e-3


def test_adapters_of_the_encoder_and_the_recogniser_of_the_card_come_back(B, tmp_path):
    one = tiny_one_step.build(B, encoder_rank=2, recogniser=1)
    for name, weight in one.vae.named_parameters():
        weight.data += 0.05 * ("lora_B" in name)
    save_one_step(tmp_path / "one", one)
    again, x = load_one_step(tmp_path / "one", B), tiny_system.pictures(2, 1)
    restored = restore_one_step(one, x, x)
    for other in (again, merged(again)):
        torch.testing.assert_close(restore_one_step(other, x, x), restored, atol=2e-2, rtol=0)
    assert (restore_one_step(one.with_(vae=None), x, x) - restored).abs().max() > 0.05
    assert (restore_one_step(one.with_(recogniser=0), x, x) - restored).abs().max() > 1e-3
    (tmp_path / "one" / ENCODER).unlink()
    with pytest.raises(WeightsError, match="encoder_lora_weights"):
        load_one_step(tmp_path / "one", B)
    with pytest.raises(RangeError, match="recogniser"):
        one.with_(recogniser=2)


def test_adapters_of_another_architecture_are_refused(B, tmp_path):
    cases = {"layer": {"unet.mid.lora_A.weight": torch.zeros(16, 4)}, "no adapter": {"conv_in.weight": torch.zeros(3)}}
    cases["pair"] = {"down_blocks.0.resnets.0.conv1.lora_A.weight": torch.zeros(16, 32, 3, 3)}
    cases["finite"] = {"down_blocks.0.resnets.0.conv1.lora_A.weight": torch.full((16, 32, 3, 3), torch.nan)}
    cases["shape"] = {f"down_blocks.0.resnets.0.conv1.lora_{s}.weight": torch.zeros(16, 16, 1, 1) for s in "AB"}
    for name, state in cases.items():
        save_file(state, tmp_path / f"{name}.safetensors")
        with pytest.raises(WeightsError, match="not adapters of this network"):
            load_adapters(B.G, tmp_path / f"{name}.safetensors")


def test_the_shipped_restorer_is_small_and_of_the_shipped_base():
    folder = paths.DATA / "onestep"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6e6
    card = json.loads((folder / CARD).read_text())
    assert card["provenance"]["trained on"] and len(card["base"]) == 16
