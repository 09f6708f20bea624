"""Losses of the one-step restorer against closed forms, its training, and the distillation to one person."""

import math

import pytest
import tiny_one_step
import tiny_system
import torch
import torch.nn.functional as F

from lib.errors import (
    CheckpointError,
    MissingPicturesError,
    PersonalWeightsError,
    PictureError,
    PictureSizeError,
    RangeError,
)
from lib.images import to_uint8
from lib.metrics.landmark_distances import affine_landmark_distance
from lib.models import discriminator
from lib.models.landmark_heatmaps import landmark_heatmaps
from lib.models.loss_networks import LossNetworks
from lib.models.one_step_folder import merged
from lib.models.personal_one_step import load_personal_one_step, save_personal_one_step
from lib.restoration.one_step import describe, restore_one_step
from lib.training import distillation, restoration_losses
from lib.training import one_step_training as training
from lib.training.one_step_training import OneStepLoss, Weights, fit_one_step
from lib.training.trainer import Training

QUICK = Training(steps=3, lr=1e-3, batch=2, quiet=True)
OFF = Weights(0, 0, 0, 0, 0, 0)


def whole(pictures):
    return torch.from_numpy(to_uint8(pictures)).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return LossNetworks().requires_grad_(False)


@pytest.fixture
def one(B):
    return tiny_one_step.build(B)


@pytest.fixture(scope="module")
def data(B):
    clean = whole(tiny_system.pictures(6, 1))
    return training.examples(tiny_one_step.build(B), clean, clean.flip(3), torch.tensor([0, 0, 0, 1, 1, 1]))


# eq. 5


def test_the_losses_of_the_gan_by_hand():
    logits, real = torch.tensor([[-1.0, 2.0]]), torch.tensor([[0.5, 3.0]])
    D = torch.sigmoid
    torch.testing.assert_close(discriminator.generator_loss(logits), -D(logits).log().mean())
    expected = -(1 - D(logits)).log().mean() - D(real).log().mean()
    torch.testing.assert_close(discriminator.discriminator_loss(logits, real), expected)
    undecided = torch.zeros(3)
    assert float(discriminator.discriminator_loss(undecided, undecided)) == pytest.approx(2 * math.log(2))


def test_features_are_those_of_g_before_its_decoder(B):
    """An independent way to them: what G hands to its middle block's successor, caught by a hook."""
    x, t, eps, caught = torch.randn(2, 4, 8, 8), torch.tensor([10, 700]), torch.randn(2, 4, 8, 8), []
    null = B.embed([""]).expand(2, -1, -1)
    handle = B.G.mid_block.register_forward_hook(lambda *hooked: caught.append(hooked[2]))
    B.G(B.scheduler.add_noise(x, eps, t), t, null)
    handle.remove()
    torch.testing.assert_close(discriminator.noised_features(B, x, t, eps), caught[0])


def test_each_player_of_the_gan_moves_only_itself(one, data):
    D = discriminator.Discriminator(one.B.G.config.block_out_channels[-1])
    loss = OneStepLoss(one, D, data, Weights(0, 0, 0, 0, 0, 1.0), 2)
    for weight in one.embedder.parameters():
        weight.requires_grad_(True)
    terms = loss(torch.Generator().manual_seed(0))
    next(terms).backward()
    assert one.embedder.null.grad.abs().sum() > 0 and all(w.grad is None for w in D.parameters())
    one.embedder.zero_grad()
    next(terms).backward()
    assert one.embedder.null.grad is None and any(w.grad.abs().sum() > 0 for w in D.parameters())


# eqs 8, 9, 12, 13


def test_the_identity_loss_by_hand(networks):
    a, b = tiny_system.pictures(3, 1), tiny_system.pictures(3, 2)
    expected = 0
    for f in networks.recognisers:
        u, v = (F.normalize(f(F.interpolate(x, (112, 112), mode="bilinear"))) for x in (a, b))
        expected += (1 - (u * v).sum(1)).mean()
    torch.testing.assert_close(restoration_losses.identity_loss(networks, a, b), expected)


@pytest.mark.parametrize("name", restoration_losses.DISTANCES)
def test_a_distance_is_zero_for_the_same_picture_and_grows_with_damage(networks, name):
    distance, x = restoration_losses.distance_of(name), tiny_system.pictures(3, 1)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    values = [float(distance(networks, x + s * noise, x)) for s in (0, 0.05, 0.3)]
    assert values[0] == pytest.approx(0, abs=1e-6) and values[0] < values[1] < values[2]


def test_texture_and_structure_of_dists():
    """Structure ignores a shift of the mean and is -1 for the negative; texture is 2ab / (a^2 + b^2)."""
    f = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    structure = restoration_losses._structure
    torch.testing.assert_close(structure(f, f + 3), torch.ones(1, 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(structure(f, -f), -torch.ones(1, 2), atol=1e-4, rtol=0)
    one, three = torch.ones(1, 1, 4, 4), 3 * torch.ones(1, 1, 4, 4)
    assert float(restoration_losses._texture(one, three)) == pytest.approx(6 / 10)


def test_sobel_of_a_ramp_is_its_slope():
    ramp = (torch.linspace(-1, 1, 21).expand(1, 3, 16, 21)).clone()
    slope = restoration_losses.sobel(ramp)[..., 1:-1, 1:-1]
    torch.testing.assert_close(slope, torch.full_like(slope, 0.2), atol=1e-3, rtol=0)  # two pixels apart, 0.1 each
    assert restoration_losses.sobel(ramp.mT)[..., 1:-1, 1:-1].mean() == pytest.approx(0.2, abs=1e-3)


def test_eq_9_is_the_distance_of_pictures_plus_that_of_edges(networks):
    a, b = tiny_system.pictures(2, 1), tiny_system.pictures(2, 2)
    distance, S = restoration_losses.dists_like, restoration_losses.sobel
    expected = distance(networks, a, b) + distance(networks, S(a), S(b))
    torch.testing.assert_close(restoration_losses.edge_aware(distance, networks, a, b), expected)


def test_the_mask_blends_with_the_background():
    x, mask = tiny_system.pictures(1, 1), torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1.0
    blended = restoration_losses.masked(x, mask, 0.25)
    assert torch.equal(blended[..., :32], x[..., :32]) and (blended[..., 32:] == 0.25).all()


def test_an_unknown_distance_is_named():
    with pytest.raises(RangeError, match="lpips, dists, mse"):
        restoration_losses.distance_of("ssim")


# examples and evidence


def test_references_are_other_pictures_of_the_same_person(data):
    assert data.others.tolist() == [[1, 2], [0, 2], [0, 1], [4, 5], [3, 5], [3, 4]]


def test_people_may_come_in_any_order_but_everybody_needs_as_many_pictures():
    assert training._others(torch.tensor([0, 1, 0, 1])).tolist() == [[2], [3], [0], [1]]
    for person in ([0, 0, 1], [0, 1]):
        with pytest.raises(MissingPicturesError, match="as many"):
            training._others(torch.tensor(person))


def test_weights_that_cannot_be_are_named_before_anything_is_read(one, data):
    for wrong in (dict(pixels=-1.0), dict(identity=math.nan), dict(aligned_by="ssim")):
        with pytest.raises(RangeError):
            Weights(**wrong)
    with pytest.raises(RangeError, match="without a discriminator"):
        OneStepLoss(one, None, data, Weights(), 2)


def test_distances_are_equation_6(data):
    clean = tiny_system.pictures(6, 1)
    found = [landmark_heatmaps(whole(x).float() / 127.5 - 1)[1] for x in (clean, clean.flip(3))]
    expected = affine_landmark_distance(found[0][data.others[2, 1]], found[1][2])
    assert float(data.distances[2, 1]) == pytest.approx(float(expected), rel=1e-3)


def test_evidence_is_the_generators_and_has_as_many_references_as_drawn(one, data):
    loss = OneStepLoss(one, None, data, OFF, 4, most=1)
    i = torch.tensor([0, 1, 2, 3])
    evidence, keep = loss.evidence(i, torch.Generator().manual_seed(3))
    again, kept = loss.evidence(i, torch.Generator().manual_seed(3))
    assert torch.equal(evidence.present, again.present) and torch.equal(keep, kept)
    assert evidence.present.sum(1).tolist() == [1] * 4
    chosen = data.others[i][evidence.present]
    assert torch.equal(evidence.early, data.described.early[chosen])


def test_without_references_neither_eyes_nor_identity_are_kept(one, data):
    loss = OneStepLoss(one, None, data, OFF, 4, absent=(1, 0, 0, 0))
    _, keep = loss.evidence(torch.arange(4), torch.Generator())
    assert keep.tolist() == [[False, False, True]] * 4


# training


def test_only_adapters_embedder_and_discriminator_are_trained(one, data):
    before = {k: v.clone() for k, v in one.G.state_dict().items()}
    tokens, base = tiny_system.state(one.embedder), tiny_system.state(one.B.G)
    losses, D = fit_one_step(one, data, Weights(), QUICK)
    moved = {k for k, v in one.G.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all("lora_" in k for k in moved) and tiny_system.same(base, one.B.G.state_dict())
    after = one.embedder.state_dict()
    assert torch.equal(after["VRE.codebook"], tokens["VRE.codebook"])
    assert not torch.equal(after["FFE.out.0.weight"], tokens["FFE.out.0.weight"])
    assert len(losses) == 3 and not any(w.requires_grad for m in (one.G, one.embedder, D) for w in m.parameters())


def test_training_lowers_the_latent_error(one, data):
    losses, _ = fit_one_step(one, data, Weights(1, 0, 0, 0, 0, 0), Training(steps=40, lr=3e-3, batch=4, quiet=True))
    assert sum(losses[-8:]) < 0.7 * sum(losses[:8])


@pytest.mark.parametrize("name", ["latent", "pixels", "perceptual", "identity", "aligned", "adversarial"])
def test_each_loss_can_be_switched_on_alone_and_counts_with_its_weight(one, data, name):
    D = discriminator.Discriminator(one.B.G.config.block_out_channels[-1])
    values = []
    for weight in (0.5, 1.0):
        switched = Weights(**{**vars(OFF), name: weight})
        with torch.no_grad():
            values.append(float(next(OneStepLoss(one, D, data, switched, 2)(torch.Generator().manual_seed(1)))))
    assert values[0] > 0 and values[1] == pytest.approx(2 * values[0], rel=1e-4)


def test_an_interrupted_training_ends_as_an_uninterrupted_one(B, data, tmp_path):
    ends = []
    for folder, stop in ((tmp_path / "a", 0), (tmp_path / "b", 2)):
        where = dict(lr=1e-3, batch=2, quiet=True, folder=str(folder), every=1)
        for steps in (stop, 4):
            one = tiny_one_step.build(B)
            if steps:
                fit_one_step(one, data, Weights(), Training(steps=steps, **where))
        ends.append(one.embedder.null)
    assert torch.equal(*ends)
    with pytest.raises(CheckpointError):
        fit_one_step(tiny_one_step.build(B), data, Weights(pixels=2.0), Training(steps=4, **where))


def test_adapters_in_the_encoder_learn_and_nothing_else_of_the_autoencoder_does(B):
    clean = whole(tiny_system.pictures(6, 1))
    one, plain = tiny_one_step.build(B, encoder_rank=2), tiny_one_step.build(B)
    data = training.examples(one, clean, clean.flip(3), torch.tensor([0, 0, 0, 1, 1, 1]))
    torch.testing.assert_close(one.latent(tiny_system.pictures(2, 3)), B.encode(tiny_system.pictures(2, 3)))
    fit_one_step(one, data, Weights(1, 0, 0, 0, 0, 0), QUICK)
    assert (one.latent(tiny_system.pictures(2, 3)) - B.encode(tiny_system.pictures(2, 3))).abs().max() > 1e-4
    was, layers = B.vae.state_dict(), {k: v for k, v in one.vae.state_dict().items() if "lora_" not in k}
    assert all(torch.equal(v, was[k.replace(".base_layer", "")]) for k, v in layers.items())
    adapted = {k for k in one.vae.state_dict() if "lora_" in k}
    assert adapted and all(k.startswith("encoder.") for k in adapted)
    assert plain.copied().vae is None and one.copied().vae is not one.vae


# distillation


@pytest.fixture(scope="module")
def person(B):
    references = tiny_system.pictures(3, 8)
    degraded, which = distillation.degraded_references(references, "tiny", 2)
    return references, degraded, which


def test_targets_are_the_teachers_first_and_the_references_after_them(one, person):
    references, degraded, which = person
    taught = -references
    data = distillation.person_examples(one, references, degraded, which, taught)
    assert torch.equal(data.pictures, torch.cat([whole(taught), whole(references)]))
    assert data.others.tolist() == [[1, 2], [0, 2], [0, 1]] * 2 and len(data.described.embeddings) == 3


def test_distillation_trains_one_small_adapter_beside_the_restorers_own(one, person):
    references, degraded, which = person
    data = distillation.person_examples(one, references, degraded, which)
    personal = distillation.distil(
        one, data, Training(steps=30, lr=2e-3, batch=3, quiet=True), Weights(1, 0, 0, 0, 0, 0)
    )
    assert set(personal.G.peft_config) == {"default", "person"} and set(one.G.peft_config) == {"default"}
    own = {k: v for k, v in one.G.state_dict().items()}
    assert all(torch.equal(v, own[k]) for k, v in personal.G.state_dict().items() if ".person." not in k)
    loss = OneStepLoss(personal, None, data, Weights(1, 0, 0, 0, 0, 0), 6, absent=(0, 0, 0, 0), most=2)
    with torch.no_grad():
        after = float(next(loss(torch.Generator().manual_seed(0))))
        loss.one = one
        before = float(next(loss(torch.Generator().manual_seed(0))))
    assert after < 0.8 * before


def test_a_single_reference_cannot_be_distilled(one, person):
    references, degraded, which = person
    with pytest.raises(MissingPicturesError, match="One reference"):
        distillation.person_examples(one, references[:1], degraded[:1], which[:1])
    with pytest.raises(PictureSizeError, match="references"):
        distillation.person_examples(one, references[..., :32], degraded, which)
    with pytest.raises(PictureError, match="7 targets of 6"):
        distillation.person_examples(one, references, degraded, which, degraded[[0, 1, 2, 3, 4, 5, 5]])


def test_a_personal_restorer_comes_back_from_disk_without_its_reference_pictures(one, person, tmp_path):
    references, degraded, which = person
    data = distillation.person_examples(one, references, degraded, which)
    personal = distillation.distil(one, data, Training(steps=2, lr=1e-2, batch=3, quiet=True))
    save_personal_one_step(tmp_path / "p", personal, describe(one, references))
    again, known = load_personal_one_step(tmp_path / "p", one)
    expected = restore_one_step(personal, degraded, references)
    torch.testing.assert_close(restore_one_step(again, degraded, known), expected, atol=2e-2, rtol=0)
    torch.testing.assert_close(restore_one_step(merged(again), degraded, known), expected, atol=2e-2, rtol=0)
    assert (restore_one_step(one, degraded, references) - expected).abs().max() > 0.05


def test_a_personal_restorer_of_another_restorer_or_none_is_refused(B, one, person, tmp_path):
    references, *_ = person
    for wrong in (one, merged(one)):
        with pytest.raises(PersonalWeightsError, match="not a personal restorer"):
            save_personal_one_step(tmp_path / "p", wrong, describe(one, references))
    for wrong, why in ((merged(one), "merged"), (distillation.with_adapter(one), "already")):
        with pytest.raises(PersonalWeightsError, match=why):
            distillation.with_adapter(wrong)
    with pytest.raises(PersonalWeightsError, match="no personal one-step restorer"):
        load_personal_one_step(tmp_path / "p", one)
    save_personal_one_step(tmp_path / "p", distillation.with_adapter(one), describe(one, references))
    with pytest.raises(PersonalWeightsError, match="of another restorer"):
        load_personal_one_step(tmp_path / "p", tiny_one_step.build(B, T_L=200))
