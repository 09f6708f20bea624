"""Training of the tiny system: the people it is trained on, losses in closed form, resuming."""

import numpy as np
import pytest
import tiny_system
import torch
from diffusers.optimization import get_cosine_schedule_with_warmup

from lib.errors import SplitError
from lib.images import to_uint8
from lib.models import system
from lib.models.system_folder import load_system
from lib.people import procedural
from lib.training import picture_pool, pretraining, trainer

ABAR = torch.tensor(np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2), dtype=torch.float32)


@pytest.fixture(scope="module")
def pool():
    """Two random pictures of each of four people."""
    g = torch.Generator().manual_seed(0)
    clean = to_uint8(tiny_system.pictures(8))
    return picture_pool.Pool(
        pictures=torch.from_numpy(clean).permute(0, 3, 1, 2).contiguous(),
        person=torch.arange(4).repeat_interleave(2),
        captions=["a photo of a person with blue eyes"] * 4 + ["a photo of a person , bald"] * 4,
        genes=torch.rand(4, 5, generator=g),
        landmarks=torch.rand(8, 68, 2, generator=g) * 2 - 1,
        degraded=(torch.from_numpy(clean).permute(0, 3, 1, 2).float() * 0.8 + 20).byte(),
    )


# ---- the pool ----


def test_a_pool_is_of_training_people_in_order_across_workers_chunks():
    count, shots, size = picture_pool.CHUNK + 1, 2, 32
    pool = picture_pool.make_pool(count, shots, size, start=5, workers=1)
    crowd = procedural.people_of("train", count, 5)
    assert {p.split for p in crowd} == {"train"}
    drawn = procedural.render([(p, p.shot(k)) for p in crowd for k in range(shots)], size)
    assert (
        torch.equal(pool.pictures.permute(0, 2, 3, 1), torch.from_numpy(drawn.pictures))
        and pool.captions == drawn.captions
    )
    assert pool.person.tolist() == [n // shots for n in range(count * shots)]
    assert np.array_equal(pool.genes, [p.gene_vector() for p in crowd])
    assert torch.allclose((pool.landmarks + 1) * size / 2, torch.from_numpy(drawn.landmarks), atol=1e-4)
    assert pool.degraded.shape == pool.pictures.shape and pool.degraded.dtype == torch.uint8
    assert (pool.degraded.float() - pool.pictures).abs().mean((1, 2, 3)).min() > 0.5  # every one is degraded
    assert torch.equal(pool.degraded, picture_pool.make_pool(count, shots, size, start=5, workers=2).degraded)


def test_workers_are_fresh_processes_that_inherit_no_threads(monkeypatch):
    contexts, kind = [], picture_pool.ProcessPoolExecutor
    monkeypatch.setattr(
        picture_pool, "ProcessPoolExecutor", lambda n, mp_context: contexts.append(mp_context) or kind(n, mp_context)
    )
    picture_pool.make_pool(2, 1, 32, workers=2)
    assert [context.get_start_method() for context in contexts] == ["spawn"]


@pytest.mark.parametrize("stranger", [8, 9])
def test_nobody_of_another_split_gets_in(monkeypatch, stranger):
    crowd = [procedural.ProceduralPerson(0), procedural.ProceduralPerson(stranger)]
    monkeypatch.setattr(procedural, "people_of", lambda *_: crowd)
    with pytest.raises(SplitError, match=f"people:{stranger}.*Remedy"):
        picture_pool.make_pool(2, 1, 32, workers=1)


def test_batches_are_the_generators(pool):
    def draw(seed):
        return pool.batch(6, torch.Generator().manual_seed(seed))

    i, x = draw(1)
    assert torch.equal(i, draw(1)[0]) and torch.equal(x, draw(1)[1]) and not torch.equal(i, draw(2)[0])
    assert torch.equal(x, pool.pictures[i].float() / 127.5 - 1)
    again, clean, degraded = pool.degraded_batch(6, torch.Generator().manual_seed(1))
    assert (
        torch.equal(again, i) and torch.equal(clean, x) and torch.equal(degraded, pool.degraded[i].float() / 127.5 - 1)
    )
    assert set(pool.batch(200, torch.Generator().manual_seed(0))[0].tolist()) == set(range(8))


# ---- the loop ----


def line():
    net = torch.nn.Linear(4, 2)
    with torch.no_grad():
        net.weight.copy_(torch.arange(8.0).reshape(2, 4) / 8), net.bias.zero_()
    return net


def line_loss(net):
    return lambda g: (net(torch.randn(5, 4, generator=g)) - 1).square().sum()  # large enough to be clipped


def test_fit_against_a_plain_loop():
    """AdamW with clipping at 1, warm-up and cosine decay; in the end the exponential average of the weights."""
    net, twin, steps = line(), line(), 40
    losses = pretraining.fit("line", [net], line_loss(net), steps=steps, lr=0.05, seed=3)
    optimiser = torch.optim.AdamW(twin.parameters(), lr=0.05, betas=(0.9, 0.99))
    schedule = get_cosine_schedule_with_warmup(optimiser, 1, steps)
    average, want = None, []
    for step in range(steps):
        optimiser.zero_grad()
        loss = line_loss(twin)(trainer.generator(3, "line", step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimiser.step(), schedule.step()
        average = twin.weight.detach().clone() if average is None else 0.75 * average + 0.25 * twin.weight.detach()
        want.append(float(loss.detach()))
    assert np.allclose(losses, want, rtol=1e-5) and torch.allclose(net.weight, average, atol=1e-5)
    assert not torch.allclose(net.weight, twin.weight, atol=1e-4) or want[-1] < 1e-3
    assert not net.training and all(p.grad is None and not p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("stop", [5, 7])
def test_an_interrupted_fit_ends_as_an_uninterrupted_one(tmp_path, stop):
    options = dict(steps=9, lr=0.05, seed=1, every=2)
    whole, net = line(), line()
    want = pretraining.fit("line", [whole], line_loss(whole), **options)
    count = []

    def broken(g):
        count.append(1)
        if len(count) == stop:
            raise KeyboardInterrupt
        return line_loss(net)(g)

    with pytest.raises(KeyboardInterrupt):
        pretraining.fit("line", [net], broken, folder=tmp_path, **options)
    assert [f.name for f in tmp_path.iterdir()] == ["line.pt"]
    count.clear()
    fresh = line()
    losses = pretraining.fit(
        "line", [fresh], lambda g: count.append(1) or line_loss(fresh)(g), folder=tmp_path, **options
    )
    assert losses == want and len(count) == 9 - (stop - 1) // 2 * 2
    assert tiny_system.same(fresh.state_dict(), whole.state_dict())


# ---- the stages ----


@pytest.fixture
def B():
    return tiny_system.build()


def changed(B, before):
    return [name for name, module in B.modules().items() if not tiny_system.same(before[name], module.state_dict())]


def states(B):
    return {name: tiny_system.state(module) for name, module in B.modules().items()}


def test_after_the_autoencoder_latents_have_unit_variance(B, pool):
    before = states(B)
    assert abs(float(pretraining.latents(B, pool.pictures).std()) - 1) > 0.1
    losses = pretraining.fit_autoencoder(B, pool, batch=2, steps=20, lr=4e-3)
    assert changed(B, before) == ["vae"] and np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert float(pretraining.latents(B, pool.pictures).std()) == pytest.approx(1, abs=1e-3)


def test_the_scaling_factor_is_saved_with_the_weights(B, pool, tmp_path):
    pretraining.fit_autoencoder(B, pool, batch=2, steps=1, lr=1e-3)
    B.save(tmp_path, torch.float32)
    assert float(pretraining.latents(load_system(tmp_path), pool.pictures).std()) == pytest.approx(1, abs=1e-3)


def test_the_cleaner_learns_to_clean_and_nothing_else_moves(B, pool):
    before = states(B)
    clean, degraded = (x.float() / 127.5 - 1 for x in (pool.pictures, pool.degraded))
    was = float((B.clean(degraded) - clean).square().mean())
    pretraining.fit_cleaner(B, pool, batch=2, steps=25, lr=4e-3)
    assert changed(B, before) == ["cleaner"] and float((B.clean(degraded) - clean).square().mean()) < 0.7 * was


def test_latents_are_the_same_in_any_batches_and_pass_through(B, pool):
    x = pool.pictures.float() / 127.5 - 1
    assert torch.allclose(pretraining.latents(B, pool.pictures, batch=3), B.encode(x), atol=1e-5)
    assert torch.allclose(
        pretraining.latents(B, pool.pictures, scaled=False), B.encode(x) / B.vae.config.scaling_factor, atol=1e-5
    )
    assert torch.allclose(pretraining.latents(B, pool.pictures, through=B.clean), B.encode(B.clean(x)), atol=1e-5)


def test_the_min_snr_weight_in_closed_form(B, monkeypatch):
    """Hang et al. 2023, eq. for eps prediction: min(SNR, 5) / SNR, SNR = abar / (1 - abar)."""
    seen, add_noise = [], B.scheduler.add_noise
    monkeypatch.setattr(B.scheduler, "add_noise", lambda x0, eps, t: seen.append((eps, t)) or add_noise(x0, eps, t))
    monkeypatch.setattr(system.System, "predict", lambda self, x, *_: torch.full_like(x, 0.25))
    x0 = torch.zeros(64, *tiny_system.LATENT)
    loss = float(pretraining.min_snr_loss(B, x0, torch.Generator().manual_seed(0), None))
    eps, t = seen[0]
    snr = ABAR[t] / (1 - ABAR[t])
    weight = torch.where(snr > 5, 5 / snr, torch.ones(64))
    assert (snr > 5).any() and (snr < 5).any()
    assert loss == pytest.approx(float((weight * (eps - 0.25).square().mean((1, 2, 3))).mean()), rel=1e-4)
    assert t.max() > 950 and t.min() < 50


def test_G_learns_from_captions_with_the_empty_prompt_and_the_class_among_them(B, pool, monkeypatch):
    before, prompts = states(B), []
    real = pretraining.min_snr_loss
    monkeypatch.setattr(
        pretraining, "min_snr_loss", lambda B, x0, g, prompt: prompts.append((x0, prompt)) or real(B, x0, g, prompt)
    )
    texts = ["", system.CLASS_PROMPT, *sorted(set(pool.captions))]
    known, latents = B.embed(texts), pretraining.latents(B, pool.pictures)
    pretraining.fit_G(B, pool, batch=100, steps=2, lr=1e-3)
    assert changed(B, before) == ["unet", "text_encoder"]
    x0, prompt = prompts[0]
    which = torch.stack([(prompt - one).flatten(1).abs().amax(1) < 1e-5 for one in known])
    shares = which.float().mean(1)
    assert (
        float(shares.sum()) == pytest.approx(1)
        and abs(float(shares[0]) - 0.2) < 0.1
        and abs(float(shares[1]) - 0.15) < 0.1
    )
    for n, text in enumerate(texts[2:]):  # a caption goes with a picture of its own
        own = latents[[c == text for c in pool.captions]]
        assert all(any(torch.equal(z, one) for one in own) for z in x0[which[n + 2]])


def test_E_learns_with_the_empty_prompt_on_both_sides(B, pool, monkeypatch):
    before, seen = states(B), []
    real = pretraining.min_snr_loss
    monkeypatch.setattr(pretraining, "min_snr_loss", lambda *args: seen.append(args) or real(*args))
    pretraining.fit_E(B, pool, batch=4, steps=2, lr=1e-3)
    assert changed(B, before) == ["control"] and len(seen) == 2
    _, x0, _, prompt, hint, null = seen[0]
    assert torch.allclose(prompt, B.embed([""] * 4), atol=1e-5) and torch.equal(prompt, null)
    latents, hints = pretraining.latents(B, pool.pictures), pretraining.latents(B, pool.degraded, through=B.clean)
    for z, h in zip(x0, hint):
        assert any(torch.allclose(z, a, atol=1e-5) and torch.allclose(h, b, atol=1e-5) for a, b in zip(latents, hints))
