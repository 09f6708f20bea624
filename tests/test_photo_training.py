"""Training of the photo system: its photographs, the further stages, and the choice of a system by the person."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import yaml
from scipy import stats

from lib import load_system, paths
from lib.degradation.operators import Resize
from lib.degradation.recipes import RECIPES, recipe_named
from lib.degradation.settings import sample
from lib.errors import (
    MissingPicturesError,
    PackError,
    PairingError,
    PersonCardError,
    PictureSizeError,
    UnreadablePictureError,
    WeightsError,
)
from lib.images import to_tensor
from lib.metrics.image import psnr
from lib.models import tiny
from lib.models.system import CLASS_PROMPT
from lib.people.person import Person
from lib.people.picture_files import load_picture, save_picture
from lib.runs.record import Record
from lib.studies import held_out, held_out_tables, photo_aims, photo_checks, study
from lib.studies.arms import ARMS, Plan
from lib.studies.person import prior_pictures, system_for, system_for_all
from lib.training import photo_pool, pretraining
from lib.training.trainer import Training

SIZE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve drawn faces of 128 px in the place of photographs."""
    home = tmp_path_factory.mktemp("photographs")
    for k, picture in enumerate(prior_pictures(12)):
        save_picture(home / f"{k}.png", picture, synthetic=False)
    return home


def test_every_tenth_photograph_is_held_out_and_none_is_in_both_parts(folder):
    parts = photo_pool.split(folder)
    assert [file.name for file in parts["held out"]] == ["9.png"]
    assert len(parts["train"]) == 11 and not set(parts["train"]) & set(parts["held out"])


def test_a_pool_begins_with_the_photograph_itself_and_goes_on_with_other_copies(folder):
    files = photo_pool.split(folder)["train"][:3]
    pool = photo_pool.make_photo_pool(files, 3, SIZE, workers=1)
    plain = photo_pool.read(files, SIZE)  # (3, 3, S, S)
    first = pool.pictures[::3].float() / 127.5 - 1
    assert pool.pictures.shape == pool.degraded.shape == (9, 3, SIZE, SIZE) and pool.person.tolist() == [
        0,
        0,
        0,
        1,
        1,
        1,
        2,
        2,
        2,
    ]
    assert torch.allclose(first, plain, atol=1e-6)
    assert (psnr(pool.pictures[1::3].float() / 127.5 - 1, plain) < 25).all()
    assert set(pool.captions) == {CLASS_PROMPT}


def test_a_pool_of_photographs_degrades_anew_at_each_step(folder):
    pool = photo_pool.make_photo_pool(photo_pool.split(folder)["train"][:1], 1, SIZE, workers=1)
    drawn = [pool.degraded_batch(3, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert drawn[0][2].equal(drawn[1][2]) and not drawn[0][2].equal(drawn[2][2])
    assert not drawn[0][2][0].equal(drawn[0][2][1]) and (psnr(drawn[0][2], drawn[0][1]) > 12).all()


def test_folders_are_seen_from_the_repository(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", folder.parent)
    monkeypatch.chdir(tmp_path)
    assert len(photo_pool.split(folder.name)["train"]) == 11 and len(photo_pool.evenly(folder.name, 2)) == 2


def test_pictures_are_taken_evenly(folder):
    assert [file.stem for file in photo_pool.evenly(folder, 3)] == ["0", "6", "11"]
    assert len(photo_pool.evenly(folder, 99)) == 12


def test_a_pool_depends_on_its_seed_alone(folder):
    files = photo_pool.split(folder)["train"][:2]
    pools = [photo_pool.make_photo_pool(files, 2, SIZE, seed, workers=1) for seed in (0, 0, 1)]
    assert pools[0].pictures.equal(pools[1].pictures) and pools[0].degraded.equal(pools[1].degraded)
    assert not pools[0].pictures.equal(pools[2].pictures)


def test_the_edge_of_a_photograph_is_left_out():
    picture = np.full((256, 256, 3), 128, np.uint8)
    picture[:4], picture[-4:], picture[:, :4], picture[:, -4:] = 255, 255, 0, 0
    for rng in (None, np.random.default_rng(0)):
        values = photo_pool.augment(picture, 128, rng)[0].astype(int)
        assert np.ptp(values.reshape(-1, 3), axis=0).max() == 0


def test_landmarks_move_with_the_copy():
    rng, at = np.random.default_rng(3), np.array([45.0, 70.0])
    for _ in range(8):
        picture = np.zeros((256, 256, 3), np.uint8)
        cv2.circle(picture, (int(2 * at[0]), int(2 * at[1])), 5, (255, 255, 255), -1)
        copy, matrix = photo_pool.augment(picture, 128, rng)
        rows, columns = np.nonzero(copy[..., 0] > copy[..., 0].max() / 2)
        moved = photo_pool.moved(at[None], torch.from_numpy(matrix)[None], 128)[0, 0]  # [-1, 1]
        assert np.allclose([columns.mean(), rows.mean()], (moved.numpy() + 1) * 64, atol=0.8)


def test_a_photograph_that_cannot_be_read_is_named(folder, tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(UnreadablePictureError, match="a.png.*Remedy"):
        photo_pool.make_photo_pool([tmp_path / "a.png"], 1, SIZE, workers=1)
    with pytest.raises(MissingPicturesError, match="Remedy"):
        photo_pool.split(tmp_path / "nowhere")
    with pytest.raises(MissingPicturesError, match="1 photographs.*Remedy"):
        photo_pool.split(tmp_path)
    save_picture(tmp_path / "wide.png", torch.zeros(3, 128, 256))
    with pytest.raises(PictureSizeError, match="wide.png, 256x128.*Remedy"):
        photo_pool.read([tmp_path / "wide.png"], SIZE)


@pytest.mark.parametrize("name", ["photo", "photo-heavy"])
def test_photo_recipes_scale_codeformer_to_128_px(name):
    stage, published = recipe_named(name).stages[0], RECIPES["codeformer"].stages[0]
    assert stage.sigma[1] == published.sigma[1] / 4 and stage.kinds == published.kinds
    settings = [sample(name, np.random.default_rng(seed), 128) for seed in range(40)]
    factors = [step.down for one in settings for step in one.stages[0] if isinstance(step, Resize)]
    assert stage.down[0] <= min(factors) and max(factors) <= stage.down[1]


def test_a_widened_system_computes_the_same_and_has_room_for_more():
    B = load_system()
    wide = tiny.widened(B, 16).freeze()
    x = prior_pictures(1)
    z = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    null = B.embed([""])
    with torch.no_grad():
        assert wide.posterior(x).mean[:, :12].equal(B.posterior(x).mean)
        assert wide.picture(z).equal(B.picture(z[:, :12]))
        both = [s.predict(z[:, :n], torch.tensor(500), null, z[:, :n], null) for s, n in ((B, 12), (wide, 16))]
    assert both[1].shape[1] == 16 and torch.allclose(both[1][:, :12], both[0], atol=1e-5)


@pytest.mark.parametrize("texture", [0.0, 0.02])
def test_the_decoder_is_trained_and_its_encoder_stays(folder, texture):
    B = load_system()
    pool = photo_pool.make_photo_pool(photo_pool.split(folder)["train"][:2], 1, workers=1)
    before = {name: weight.clone() for name, weight in B.vae.state_dict().items()}
    scale = B.vae.config.scaling_factor
    pretraining.fit_decoder(B, pool, texture=texture, steps=2, lr=1e-3, batch=1, ema=0)
    changed = {name.split(".")[0] for name, weight in B.vae.state_dict().items() if not weight.equal(before[name])}
    assert changed == {"decoder", "post_quant_conv"} and B.vae.config.scaling_factor == scale


def test_G_and_E_are_trained_together_and_G_also_alone(folder):
    pool = photo_pool.make_photo_pool(photo_pool.split(folder)["train"][:2], 1, workers=1)
    for alone, trained in ((0.0, {"G", "E"}), (1.0, {"G"})):
        B = load_system()
        before = {name: [weight.clone() for weight in getattr(B, name).parameters()] for name in ("G", "E", "vae")}
        pretraining.fit_G_and_E(B, pool, alone=alone, steps=2, lr=1e-3, batch=1, ema=0)
        after = {name: list(getattr(B, name).parameters()) for name in before}
        assert {name for name in before if not all(map(torch.equal, before[name], after[name]))} == trained


def card(folder, **facts):
    fields = {"name": "x", "class_noun": "person", "source": "here", "terms": "drawn", "real": True}
    (folder / "person.yaml").write_text(yaml.safe_dump(fields | facts))


def test_the_person_decides_which_system_restores(tmp_path):
    photo, drawn = "data/photo_system", "data/system"
    assert system_for("people:1009") == drawn
    assert system_for(tmp_path) == photo  # a plain folder
    card(tmp_path)
    assert system_for(str(tmp_path)) == photo
    card(tmp_path, real=False)
    assert system_for(tmp_path) == drawn
    assert system_for("people:1009", "mine") == system_for(tmp_path, "mine") == "mine"
    card(tmp_path, real="perhaps")
    with pytest.raises(PersonCardError, match="Remedy"):
        system_for(tmp_path)


def test_people_of_one_study_have_one_system(tmp_path):
    card(tmp_path)
    assert system_for_all(["people:1009", "people:1019"]) == "data/system"
    assert system_for_all([tmp_path, tmp_path]) == "data/photo_system"
    assert system_for_all(["people:1009", tmp_path], "mine") == "mine"
    with pytest.raises(PersonCardError, match="different systems.*Remedy"):
        system_for_all(["people:1009", tmp_path])


def real_folder(home, inputs=True):
    for part, count in (("references", 3), *([("inputs", 1)] if inputs else [])):
        for k, picture in enumerate(prior_pictures(count)):
            save_picture(home / part / f"{k}.png", picture, synthetic=False)
    card(home)
    return str(home)


def test_a_real_person_without_a_recogniser_is_opened_only_where_nothing_needs_one(tmp_path):
    name = real_folder(tmp_path)
    one = study.Study(load_system(), Plan())
    with pytest.raises(PackError, match="Remedy"):
        one.open(name)
    person = one.open(name, scored=False)
    assert not person.scored
    assert study.score(person, {"blind": person.inputs[None]}) == []
    with_target = held_out.hold_out(person, [0], "photo")
    metrics = {row["metric"] for row in study.score(with_target, {"blind": with_target.inputs[None]})}
    assert metrics == {"psnr", "perceptual"}


def invented(count=4):
    return Person("invented", "person", "here", "drawn", real=False, references=prior_pictures(count))


def test_a_held_out_photograph_is_tuned_on_by_nobody():
    person = invented()
    fold = held_out.hold_out(person, [1, 3], "photo-heavy")
    assert fold.targets.equal(person.references[[1, 3]]) and fold.references.equal(person.references[[0, 2]])
    assert (psnr(fold.inputs, fold.targets) < 30).all()
    assert held_out.hold_out(person, [1], "photo-heavy").inputs.equal(fold.inputs[:1])  # its own seed
    assert len(held_out.hold_out(person, [1], "photo", most=2).references) == 2
    with pytest.raises(MissingPicturesError, match="Remedy"):
        held_out.hold_out(person, range(4), "photo")


def test_folds_hold_every_photograph_out_once():
    assert held_out.folds(5, 2) == [[0, 1], [2, 3], [4]]


def test_cases_of_a_person_are_its_folds_fewer_references_and_its_own_inputs():
    person = invented()
    counts = {label: len(one.references) for label, one in held_out.cases(person, "photo", 3, 9, references=2).items()}
    assert counts == {"invented 0": 1, "invented 1": 2}
    counts = {label: len(one.references) for label, one in held_out.further(person, "photo", 1, fewer=3).items()}
    assert counts == {"invented 1 reference": 1, "invented 2 references": 2}
    real = replace(person, real=True, inputs=person.references[:1])
    own = held_out.further(real, "photo", 2)["invented inputs"]
    assert own.name == "invented, own inputs" and own.targets is None and len(own.references) == 4


def test_the_summary_pairs_photographs():
    values = {"input": [0.1, 0.2, 0.3], "blind": [0.3, 0.5, 0.4], "dual pivot": [0.5, 0.8, 0.6]}
    rows = [
        {"person": "x", "fold": "x 0", "arm": arm, "image": k, "seed": 0, "metric": "identity", "value": value}
        for arm, column in values.items()
        for k, value in enumerate(column)
    ]
    line = held_out_tables.summary([*rows, {"person": "x", "what": "photograph", "value": 1.0}]).loc[("x", "identity")]
    low, high = stats.ttest_1samp([0.2, 0.3, 0.2], 0).confidence_interval(0.95)
    assert line["photographs"] == 3 and line["difference"] == f"+0.233 [{low:+.3f}, {high:+.3f}]"
    assert (line["input"], line["blind"], line["dual pivot"]) == ("0.200", "0.400", "0.633")


def test_the_gains_of_every_arm_are_those_of_the_people_with_all_arms():
    g = torch.Generator().manual_seed(0)
    rows = [
        {"person": who, "fold": who, "arm": arm, "image": k, "seed": 0, "metric": metric, "value": float(value)}
        for who, wanted in (("few", ("blind", "dual pivot")), ("all", ARMS))
        for arm in ("input", *wanted)
        for metric in ("psnr", "identity x", "to_references x")
        for k, value in enumerate(torch.rand(3, generator=g))
    ]
    table = held_out_tables.by_arm(rows)
    assert list(table.index) == [("all", arm) for arm in ARMS if arm != "blind"]
    assert set(table.columns) == {"identity x", "PSNR (dB)"}
    for arm in ("swap", "dual pivot"):
        lines = held_out_tables.summary(rows, arm).difference
        assert table.loc[("all", arm), "identity x"] == lines["all", "identity x"]
        assert table.loc[("all", arm), "PSNR (dB)"] == lines["all", "psnr"]
        drawn = held_out_tables.gains(rows, "all").loc[arm]
        words = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*(drawn[f"psnr {what}"] for what in ("difference", "low", "high")))
        assert words == lines["all", "psnr"]


def person_rows(person, fold, values, metric="identity x"):
    """Rows of `held_out.run`: arm -> values."""
    return [
        {"person": person, "fold": fold, "arm": arm, "image": k, "seed": 0, "metric": metric, "value": value}
        for arm, column in values.items()
        for k, value in enumerate(column)
    ]


def test_another_tuning_is_paired_with_the_usual_one_on_the_same_photographs():
    usual = {"input": [0.0, 0.1, 0.0], "blind": [0.1, 0.2, 0.1], "dual pivot": [0.5, 0.6, 0.4]}
    rows = person_rows("x", "x 0", usual) + person_rows("x", "x 1", {arm: [0.9] * 3 for arm in usual})
    few = {**usual, "dual pivot": [0.3, 0.5, 0.1]}
    rows += person_rows("x, 1 reference", "x 1 reference", few)
    own = {arm: [0.2, 0.3, 0.5] for arm in usual}
    rows += person_rows("x, own inputs", "x inputs", own, "to_references x")
    more = {arm: [0.3, 0.5, 0.5] for arm in usual}
    rows += person_rows("x, own inputs, 3 times the steps", "x inputs 3 times the steps", more, "to_references x")
    rows += person_rows("pairs, 1 reference", "1 pair", usual)
    table = held_out_tables.variants(rows)
    assert list(table.index) == [("x", "1 reference"), ("x, own inputs", "3 times the steps")]
    few_references, longer = table["identity x"]
    assert few_references.startswith("0.300 (-0.200") and longer.startswith("0.433 (+0.1")
    assert set(held_out_tables.headline(rows).index) == {"x", "x, own inputs", "pairs, 1 reference"}


def test_the_first_fold_and_the_own_inputs_are_tuned_longer():
    person = replace(invented(), real=True, inputs=invented().references[:1])
    cases = held_out.cases(person, "photo", 2, 9) | held_out.further(person, "photo", 2, fewer=1)
    found = held_out.longer(cases, 3)
    assert [one.name for one in found.values()] == [
        "invented, 3 times the steps",
        "invented, own inputs, 3 times the steps",
    ]


def test_the_aims_are_held_against_every_figure():
    gains = {"degraded": (20.0, None, 0.6), "cleaned": (21.6, 1.6, 0.5), "blind": (20.1, 0.1, 0.29)}
    quality = [
        {"photographs": "held out", "recipe": recipe, "picture": name, "PSNR (dB)": value, "gain": gain, "LPIPS": lpips}
        for recipe in ("photo", "photo-heavy")
        for name, (value, gain, lpips) in {**gains, "autoencoder": (27.9, 7.9, 0.1)}.items()
    ]
    good = {"input": [0.1, 0.1, 0.1], "blind": [0.2, 0.2, 0.2], "dual pivot": [0.5, 0.4, 0.5]}
    people = person_rows("x", "x 0", good) + person_rows("x", "x 0", {**good, "dual pivot": [-0.5] * 3}, "psnr")
    bad = {**good, "dual pivot": [0.9, 0.1, 0.3]}  # the mean is high enough, its interval holds zero
    people += person_rows("y", "y 0", bad) + person_rows("y", "y 0", good, "psnr")
    table = photo_aims.table(quality, people)
    assert table.met.unstack().fillna("").to_dict("index") == {
        "LPIPS, blind / degraded": {"held out": "yes", "x": "", "y": ""},
        "PSNR, dual pivot - blind (dB)": {"held out": "", "x": "no", "y": "yes"},
        "autoencoder (dB)": {"held out": "no", "x": "", "y": ""},
        "cleaner over its input (dB)": {"held out": "yes", "x": "", "y": ""},
        "identity, dual pivot - blind": {"held out": "", "x": "yes", "y": "no"},
        "identity, dual pivot - degraded": {"held out": "", "x": "yes", "y": "no"},
    }


def test_a_study_of_held_out_photographs_is_kept_and_continued(tmp_path):
    B, fold = load_system(), held_out.hold_out(invented(), [0], "tiny")
    few = dict(batch=1, quiet=True)
    plan = Plan(seeds=1, steps=2, degradations=1, textual=Training(1, **few), model=Training(1, **few))
    how = (B, plan, ("blind", "dual pivot"), {"one": fold}, {"people-r": None}, tmp_path)
    taken, resumed = (Record("13", {}, 0, "cpu", tmp_path) for _ in range(2))
    rows, pictures = held_out.run(*how, record=taken)
    assert pictures["one"]["dual pivot"].shape == (1, 1, 3, 128, 128)
    assert {row["arm"] for row in rows} == {"input", "blind", "dual pivot"}
    assert {row["metric"] for row in rows} == {"psnr", "identity people-r", "to_references people-r"}
    again, shown = held_out.run(*how, record=resumed)
    assert again == rows and (shown["one"]["blind"] - pictures["one"]["blind"]).abs().max() == 0
    assert taken.seconds == resumed.seconds and min(taken.seconds[stage] for stage in ("tuning", "restoring")) > 0
    other = replace(fold, inputs=0.9 * fold.targets)
    assert held_out.run(*how[:3], {"one": other}, *how[4:])[0] != rows  # other pictures are computed anew
    (tmp_path / "people" / "one.json").write_text("{")
    once_more = Record("13", {}, 0, "cpu", tmp_path)
    assert held_out.run(*how, record=once_more)[0] == rows and once_more.seconds != taken.seconds
    strange = {"../../out": fold}  # a name in person.yaml is no path
    assert held_out.run(*how[:3], strange, *how[4:])[0] and not list(tmp_path.parent.glob("out*"))
    with pytest.raises(PackError, match="Remedy"):
        held_out.run(*how[:3], {"real": replace(fold, real=True)}, *how[4:])


def test_pairs_of_photographs_are_tuned_on_the_first(folder, tmp_path):
    for k, picture in enumerate(prior_pictures(4)):
        save_picture(tmp_path / f"{k // 2:03}_{'ab'[k % 2]}.png", picture, synthetic=False)
    people = held_out.pairs(tmp_path, 5, "photo", 128)
    assert list(people) == ["000 pair", "001 pair"]
    files = [tmp_path / f"001_{letter}.png" for letter in "ab"]
    tuned_on, restored = to_tensor([load_picture(file) for file in files])
    assert people["001 pair"].references[0].equal(tuned_on) and people["001 pair"].targets[0].equal(restored)
    (tmp_path / "002_a.png").write_bytes(files[0].read_bytes())
    with pytest.raises(PairingError, match="002.*Remedy"):
        held_out.pairs(tmp_path, 5, "photo", 128)
    assert all(len(person.references) == len(person.targets) == 1 for person in people.values())


def test_what_the_autoencoder_loses_of_a_face():
    rows = held_out.ceiling(load_system(), invented(3), {"people-r": None})
    assert len(rows) == 6 and {row["what"] for row in rows} == {"photograph", "autoencoder"}
    values = {(row["what"], k % 3): row["value"] for k, row in enumerate(rows)}
    assert all(values["photograph", k] != values["autoencoder", k] for k in range(3))


def test_a_photograph_that_was_stored_is_found_by_pixels_and_by_face():
    training, others = prior_pictures(8)[:6], prior_pictures(8)[6:]
    copies = torch.cat([training[2:3].flip(3), training[4:5]])
    near = photo_checks.nearest(copies, training)
    assert near["pixel place"].tolist() == [2, 4] and near["pixel distance"].max() < 1e-6
    assert near["cosine place"][1] == 4 and near["cosine"][1] > 0.999
    held = photo_checks.nearest(others, training)
    found = photo_checks.remembered(near, held)
    assert found["by pixels"] == 1 and found["by embeddings"] >= 0.5  # the mirrored one has another embedding
    assert photo_checks.remembered(held, held)["by pixels"] <= 0.5


def test_quality_of_a_perfect_restoration():
    x = prior_pictures(3)
    made = {"degraded": (x + 0.2).clamp(-1, 1), "blind": 0.98 * x}
    rows = {row["picture"]: row for row in photo_checks.quality(x, made, lambda a, b: (a - b).abs().mean((1, 2, 3)))}
    assert rows["blind"]["low"] > 10 and rows["blind"]["LPIPS"] < rows["degraded"]["LPIPS"]


def test_losses_are_those_of_the_pictures_and_tell_faces_from_noise():
    B, faces = load_system(), prior_pictures(2)
    noise = torch.rand(faces.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    of_faces, of_noise = (photo_checks.losses(B, x, "photo", draws=1) for x in (faces, noise))
    assert of_faces["autoencoder (dB)"] == pytest.approx(float(psnr(B.decode(B.encode(faces)), faces).mean()))
    assert of_faces["autoencoder (dB)"] > of_noise["autoencoder (dB)"] + 5
    assert of_faces["G and E (loss)"] < of_noise["G and E (loss)"]


def test_a_missing_lpips_network_is_named():
    with pytest.raises(WeightsError, match="nowhere.onnx.*Remedy"):
        photo_checks.lpips_file("nowhere.onnx")
