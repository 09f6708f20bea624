"""The study and its rulers: paired intervals, means over people, shared tunings, and metrics in closed form."""

import math
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny_system
import torch
from tiny_pack import write_recogniser

from lib import paths
from lib.degradation.degrade import degrade
from lib.errors import MissingPicturesError, PackError, RangeError, SplitError, WeightsError
from lib.images import to_tensor, to_uint8
from lib.metrics import headline, identity, image
from lib.models import evaluation_networks, export_onnx
from lib.people import procedural
from lib.people.alignment import to_arcface
from lib.people.picture_files import save_picture
from lib.restoration.sampling import restore
from lib.studies import arms
from lib.studies import person as persons
from lib.training.trainer import Tuning

PLAN = arms.Plan(
    references=3,
    shots=2,
    seeds=2,
    steps=3,
    textual=Tuning(steps=1, batch=1, quiet=True),
    model=Tuning(steps=1, batch=1, quiet=True),
)


@pytest.fixture(scope="module")
def B():
    return tiny_system.build()


@pytest.fixture(scope="module")
def who():
    x = tiny_system.pictures(7)
    return persons.Case("people:9", "a photo of a sks person", x[:3], x[3:5], x[5:], ["a", "b"])


# ---- arms ----


@pytest.fixture
def tunings(monkeypatch):
    """The calls of both pivots; a tuned part is the name of how it was made."""
    calls = []

    def textual(B, shots, prompt, tuning, *, in_context, prior=None):
        calls.append(f"G {'in context' if in_context else 'alone'} {prompt} {'with prior' if prior else ''}".strip())
        return B.with_(G=calls[-1])

    def model(B, shots, prompt, tuning, trained):
        calls.append(f"E around {B.G if isinstance(B.G, str) else 'base'}, {prompt!r}")
        return B.with_(E=calls[-1])

    monkeypatch.setattr(arms, "textual_pivot", textual)
    monkeypatch.setattr(arms, "model_pivot", model)
    return calls


def test_six_arms_and_what_two_share_is_tuned_once(B, who, tunings):
    p = who.prompt
    tuned = arms.tune_arms(B, who, PLAN)
    assert list(tuned) == list(arms.ARMS) and len(tunings) == len(set(tunings)) == 5
    assert [prompt for _, prompt in tuned.values()] == ["", p, p, "", p, p]
    system = {arm: B for arm, (B, _) in tuned.items()}
    assert system["blind"] is B
    assert system["swap"].G == f"G alone {p}" and system["swap"].E is B.E
    assert system["in-context"].G == f"G in context {p}" and system["in-context"].E is B.E
    assert system["encoder-only"].G is B.G and system["encoder-only"].E == "E around base, ''"
    assert (
        system["swap + model pivot"].G is system["swap"].G
        and system["swap + model pivot"].E == f"E around G alone {p}, {p!r}"
    )
    assert (
        system["dual pivot"].G is system["in-context"].G
        and system["dual pivot"].E == f"E around G in context {p}, {p!r}"
    )


@pytest.mark.parametrize(
    "arms, tuned", [(("blind",), 0), (("dual pivot", "blind"), 2), (("swap",), 1), (("in-context", "encoder-only"), 2)]
)
def test_only_the_wanted_arms_are_tuned(B, who, tunings, arms, tuned):
    assert list(arms.tune_arms(B, who, PLAN, arms)) == list(arms) and len(tunings) == tuned


def test_the_prior_reaches_the_textual_pivots(B, who, tunings):
    arms.tune_arms(B, who, PLAN, ("swap", "in-context"), prior="others")
    assert all(call.endswith("with prior") for call in tunings)


def test_all_arms_really_tune_and_restore_from_the_same_noise(B, who, monkeypatch):
    seen = []
    real = arms.restore
    monkeypatch.setattr(
        arms, "restore", lambda *args, **options: seen.append(options["seeds"]) or real(*args, **options)
    )
    tuned = arms.tune_arms(B, who, PLAN, ("blind", "dual pivot"))
    restored = arms.restore_arms(tuned, who.degraded, PLAN)
    assert seen[0] == seen[1] and len(set(seen[0])) == 4
    assert {arm: tuple(x.shape) for arm, x in restored.items()} == dict.fromkeys(tuned, (2, 2, 3, 64, 64))
    for seed, shot in ((0, 0), (0, 1), (1, 0), (1, 1)):
        alone = restore(
            B, who.degraded[shot : shot + 1], seeds=[seen[0][2 * seed + shot]], steps=3, gamma=PLAN.gamma, w=PLAN.w
        )
        assert abs(to_uint8(alone).astype(int) - to_uint8(restored["blind"][seed, shot][None])).max() <= 1
    assert not torch.allclose(restored["blind"], restored["dual pivot"])


def test_scores_are_tidy_and_of_the_right_pictures(who, monkeypatch):
    monkeypatch.setattr(
        table, "story", lambda x, truth, references, pack: {"psnr": x.mean((1, 2, 3)), "pack": [pack] * len(x)}
    )
    restored = {"blind": torch.arange(4.0).reshape(2, 2, 1, 1, 1).expand(2, 2, 3, 8, 8)}
    rows = pd.DataFrame(arms.score(replace(who, scorer=7), restored))
    assert set(rows.person) == {"people:9"} and set(rows[rows.metric == "pack"].value) == {7}
    blind = rows[(rows.arm == "blind") & (rows.metric == "psnr")].set_index(["seed", "shot"]).value
    assert blind.to_dict() == {(0, 0): 0, (0, 1): 1, (1, 0): 2, (1, 1): 3}
    given = rows[(rows.arm == "input") & (rows.metric == "psnr")]
    assert np.allclose(given.value, who.degraded.mean((1, 2, 3))) and set(given.seed) == {0}


# ---- cases ----


def test_a_case_degrades_shots_that_are_not_among_the_references():
    found, again, other = (persons.case(name, PLAN, 64) for name in ("people:1009", "people:1009", "people:1019"))
    person = procedural.ProceduralPerson(1009)
    drawn = to_tensor(procedural.render([(person, person.shot(k)) for k in (0, 1, 2)], 64).pictures)
    assert found.prompt == "a photo of a sks person" and torch.equal(found.references, drawn)
    assert found.truth.shape == found.degraded.shape == (2, 3, 64, 64) and len(found.stems) == 2
    assert min(float((t - r).abs().mean()) for t in found.truth for r in found.references) > 0.02
    assert torch.equal(found.degraded, again.degraded) and not torch.equal(found.degraded, found.truth)
    seeds = [[n * 100 + k for k in range(2)] for n in (1009, 1019)]
    assert torch.equal(degrade(found.truth, PLAN.recipe, seeds[0]), found.degraded)
    assert torch.equal(degrade(other.truth, PLAN.recipe, seeds[1]), other.degraded)


def test_prior_pictures_are_of_training_people(monkeypatch):
    seen, real = [], procedural.render
    monkeypatch.setattr(procedural, "render", lambda pairs, size: seen.extend(p for p, _ in pairs) or real(pairs, size))
    assert persons.prior_pictures(9, 32).shape == (9, 3, 32, 32)
    assert len(set(seen)) == 9 and {p.split for p in seen} == {"train"}


# ---- rulers ----


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("judges")
    export_onnx.export_networks(
        folder,
        evaluation_networks.Recogniser(to_arcface()).eval(),
        evaluation_networks.Perceptual(evaluation_networks.Features(4)).eval(),
    )
    return folder


@pytest.fixture
def small_judges(shipped, monkeypatch):
    monkeypatch.setattr(table, "RECOGNISER", shipped / "people" / "people-r.onnx")
    monkeypatch.setattr(image.perceptual, "__defaults__", (shipped / "people-p.onnx",))


def test_psnr_in_closed_form():
    """Known errors against the range 2, that of [-1, 1]; one number a picture."""
    a = tiny_system.pictures(4) * 0.5
    errors = torch.tensor([2.0, 0.2, 0.02, 0.001])
    sign = torch.where(torch.arange(64) % 2 == 0, 1.0, -1.0)
    assert torch.allclose(
        image.psnr(a, a + errors[:, None, None, None] * sign), 20 * torch.log10(2 / errors), atol=1e-2
    )
    noisy = a + 0.1 * torch.randn(a.shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(image.psnr(a, noisy), torch.full((4,), 10 * math.log10(4 / 0.01)), atol=0.15)
    assert torch.allclose(image.psnr(a, noisy), image.psnr(noisy, a))
    by_hand = [10 * math.log10(4 / float((x - y).square().mean())) for x, y in zip(a, noisy)]
    assert torch.allclose(image.psnr(a, noisy), torch.tensor(by_hand), atol=1e-4)


def test_with_the_truth_all_three_are_measured(small_judges):
    x, y = tiny_system.pictures(3, 1, 128), tiny_system.pictures(3, 2, 128)
    found = headline.headline_values(x, y)
    assert list(found) == ["psnr", "perceptual", "identity"] == list(headline.LABEL)
    vectors = [identity.embed(z, identity.RECOGNISER) for z in (x, y)]
    assert torch.allclose(found["identity"], (vectors[0] * vectors[1]).sum(1), atol=1e-5)
    assert torch.allclose(found["psnr"], image.psnr(x, y))
    same = headline.headline_values(x, x + 1e-4)
    assert same["perceptual"].max() < 0.01 < found["perceptual"].min() and same["identity"].min() > 0.999


def test_without_the_truth_identity_to_the_references_alone(small_judges):
    x, references = tiny_system.pictures(3, 1, 128), tiny_system.pictures(4, 2, 128)
    found = headline.headline_values(x, references=references)
    assert list(found) == ["identity"]
    v, r = (identity.embed(z, identity.RECOGNISER).numpy() for z in (x, references))
    assert np.allclose(found["identity"], v @ r.mean(0) / np.linalg.norm(r.mean(0)), atol=1e-5)


def test_another_recogniser_takes_the_place_of_people_r(tmp_path):
    pack = write_recogniser(tmp_path / "pack.onnx", np.random.default_rng(0).normal(size=(3 * 112 * 112, 8)))
    x = tiny_system.pictures(2, 1, 128)
    assert identity.embed(x, pack).shape == (2, 8)
    found = headline.headline_values(x, references=x, scorer=pack)["identity"]
    assert found.shape == (2,) and found.max() <= 1 + 1e-5


def test_missing_and_broken_judges_are_named(tmp_path, monkeypatch):
    x = tiny_system.pictures(1, size=128)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    for name in ("absent.onnx", "broken.onnx"):
        with pytest.raises(WeightsError, match=f"{name}.*Remedy"):
            image.perceptual(x, x, tmp_path / name)
        monkeypatch.setattr(table, "RECOGNISER", tmp_path / name)
        with pytest.raises(PackError, match=f"{name}.*Remedy"):
            identity.embed(x)


def test_identity_is_called_after_its_recogniser():
    assert headline.labels() == headline.LABEL and headline.labels("a/buffalo.onnx")["identity"] == "identity (buffalo)"


def test_no_small_judge_is_called_by_a_published_name():
    names = " ".join(headline.LABEL.values()).lower()
    assert "arcface" not in names and "lpips" not in names and "people-r" in names and "people-p" in names


# ---- studies ----


def test_the_study_resumes_by_person(B, tmp_path, monkeypatch):
    done = []
    pictures = {}
    monkeypatch.setattr(
        arms,
        "case",
        lambda name, *_: persons.Case(name, "p", torch.zeros(1), pictures.get(name, torch.ones(1)), None, []),
    )
    monkeypatch.setattr(arms, "one", lambda B, who, *_, **__: done.append(who.name) or who.name)
    monkeypatch.setattr(arms, "score", lambda who, restored: [dict(person=who.name, value=len(done))])
    names = ["people:9", "people:19", "a/obama", "b/obama", "obama/"]
    first, shown = arms.run(B, names, PLAN, tmp_path, None)
    assert done == names and [row["person"] for row in first] == names and shown[1] == names[-1]
    again, _ = arms.run(B, names, PLAN, tmp_path, None)
    assert done[5:] == names[-1:] and [row["person"] for row in again] == names  # the last is needed to be looked at
    done.clear()
    pictures["a/obama"] = torch.zeros(1)  # another photograph under the same name
    arms.run(B, names, PLAN, tmp_path, None)
    assert done == ["a/obama", names[-1]]


def test_class_pictures_are_made_ready_once_for_a_class(B, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        arms, "case", lambda name, *_: persons.Case(name, name[0], torch.zeros(1), torch.ones(1), None, [])
    )
    monkeypatch.setattr(arms, "prior", lambda B, who, plan: asked.append(who.prompt) or who.prompt)
    monkeypatch.setattr(arms, "score", lambda who, restored: [])
    given = {}
    monkeypatch.setattr(
        arms, "one", lambda B, who, plan, record, arms, folder, others, prior: given.update({who.name: prior})
    )
    arms.run(B, ["man 1", "woman 1", "man 2"], PLAN, tmp_path, None)
    assert asked == ["m", "w"] and given == {"man 1": "m", "woman 1": "w", "man 2": "m"}


def test_the_study_measures_anew_what_another_plan_or_system_kept(B, tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(arms, "one", lambda B, who, *_, **__: done.append(who.name))
    monkeypatch.setattr(arms, "score", lambda who, restored: [dict(person=who.name, value=len(done))])
    names = ["people:9", "people:19"]
    arms.run(B, names, PLAN, tmp_path, None)
    for other in ((B, replace(PLAN, gamma=0.25)), (tiny_system.build(1), PLAN)):
        done.clear()
        rows, _ = arms.run(other[0], names, other[1], tmp_path, None)
        assert done == names and [row["value"] for row in rows] == [1, 2]


@pytest.mark.parametrize(
    "names, error",
    [
        ([], RangeError),
        (["people:9", "people:9"], RangeError),
        (["people:1001"], SplitError),
        (["people:9", "people:18"], SplitError),
    ],
)
def test_nobody_of_the_training_split_is_studied_and_splits_never_mix(B, tmp_path, monkeypatch, names, error):
    monkeypatch.setattr(arms, "one", lambda *_, **__: pytest.fail("tuned"))
    with pytest.raises(error, match="Remedy"):
        arms.run(B, names, PLAN, tmp_path, None)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(steps=1),
        dict(seeds=0),
        dict(shots=-3),
        dict(references=0),
        dict(prior=-1),
        dict(gamma=3.0),
        dict(w=math.nan),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_at_once(wrong):
    with pytest.raises(RangeError, match=f"{list(wrong)[0]} out of range.*Remedy"):
        replace(PLAN, **wrong)


@pytest.mark.parametrize(
    "names, scorer, error",
    [(["people:9", "people:1019", "nobody"], None, MissingPicturesError), (["people:9"], "nothing.onnx", PackError)],
)
def test_nobody_is_tuned_before_every_person_and_the_scorer_are_found(B, tmp_path, monkeypatch, names, scorer, error):
    monkeypatch.setattr(arms, "one", lambda *_, **__: pytest.fail("tuned"))
    with pytest.raises(error, match="Remedy"):
        arms.run(B, names, PLAN, tmp_path, None, scorer=scorer)


def test_relative_paths_are_seen_from_the_repository_whatever_the_kernel_s_folder(tmp_path, monkeypatch):
    """A notebook's kernel runs in notebooks/, whoever typed the path sat elsewhere."""
    for part, shots in (("references", 3), ("inputs", 2)):
        for k, picture in enumerate(tiny_system.pictures(shots, 5, 64)):
            save_picture(tmp_path / "somebody" / part / f"{k}.png", picture)
    (tmp_path / "somebody" / "person.yaml").write_text("{name: somebody, class_noun: person, real: false}")
    pack = write_recogniser(tmp_path / "pack.onnx", np.random.default_rng(0).normal(size=(3 * 112 * 112, 8)))
    with pytest.raises(PackError, match="is real.*Remedy"):
        card = tmp_path / "somebody" / "person.yaml"
        text = card.read_text()
        card.write_text(text.replace("real: false", "real: true, source: hers, terms: CC0"))
        persons.case(str(tmp_path / "somebody"), PLAN, 64)
    card.write_text(text)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    typed = [os.path.relpath(path, paths.ROOT) for path in (tmp_path / "somebody", pack)]
    found = persons.case(typed[0], PLAN, 64, scorer=typed[1])
    assert found.degraded.shape == (2, 3, 64, 64) and found.truth is None
    rows = pd.DataFrame(arms.score(found, {"blind": found.references[None, :2]}))
    assert set(rows.metric) == {"identity"} and set(rows.arm) == {"input", "blind"}
