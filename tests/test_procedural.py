"""Procedural people: same seed, same pixels; exact landmarks; captions that are true; splits that never mix."""

from dataclasses import fields, replace

import cv2
import numpy as np
import pytest

from lib.errors import BadPersonError, BadSizeError, SplitError
from lib.people.procedural import (
    KINDS,
    SPLITS,
    WORDS,
    Genes,
    ProceduralPerson,
    caption,
    parse,
    people_of,
    render,
    require,
)

PAIRS = [(person, person.shot(k)) for person in people_of("test", 5) for k in range(2)]


def facing(person, **changes):
    """A frontal, still shot of the person, with changes."""
    still = dict(yaw=0, pitch=0, roll=0, scale=1, shift_x=0, shift_y=0, smile=0, mouth_open=0, eye_open=1)
    return replace(person.shot(0), **(still | changes))


def test_same_seed_same_bytes_whatever_the_batch():
    batch = render(PAIRS, masks=True)
    alone = render([(ProceduralPerson(PAIRS[3][0].seed), ProceduralPerson(PAIRS[3][0].seed).shot(1))], masks=True)
    assert np.array_equal(batch.pictures[3], alone.pictures[0])
    assert np.array_equal(batch.landmarks[3], alone.landmarks[0])
    assert all(np.array_equal(batch.masks[name][3], alone.masks[name][0]) for name in batch.masks)
    assert np.array_equal(batch.pictures, render(PAIRS).pictures)  # asking for masks does not touch the picture


def test_types_and_shapes():
    drawn = render(PAIRS[:2], 96, masks=True)
    assert drawn.pictures.shape == (2, 96, 96, 3) and drawn.pictures.dtype == np.uint8
    assert drawn.landmarks.shape == (2, 68, 2) and drawn.landmarks.dtype == np.float32
    assert {m.shape for m in drawn.masks.values()} == {(2, 96, 96)} and {m.dtype for m in drawn.masks.values()} == {
        np.dtype(np.uint8)
    }
    assert set(drawn.masks) == {"eyes", "brows", "nose", "mouth", "skin", "hair"}
    assert render(PAIRS[:2]).masks is None and render([], 64).pictures.shape == (0, 64, 64, 3)


def test_landmarks_lie_inside_and_grow_with_the_size():
    pairs = [(person, person.shot(k)) for person in people_of("development", 30) for k in range(3)]
    small, large = render(pairs, 64).landmarks, render(pairs, 256).landmarks
    assert small.min() > 0 and small.max() < 64
    np.testing.assert_allclose(large, 4 * small, rtol=1e-5)


def test_landmarks_of_a_still_face_mirror_each_other():
    points = render([(ProceduralPerson(9), facing(ProceduralPerson(9)))]).landmarks[0]
    mirror = [
        *range(16, -1, -1),
        *range(26, 16, -1),
        27,
        28,
        29,
        30,
        35,
        34,
        33,
        32,
        31,
        45,
        44,
        43,
        42,
        47,
        46,
        39,
        38,
        37,
        36,
        41,
        40,
        54,
        53,
        52,
        51,
        50,
        49,
        48,
        59,
        58,
        57,
        56,
        55,
        64,
        63,
        62,
        61,
        60,
        67,
        66,
        65,
    ]
    np.testing.assert_allclose(points[mirror] * (-1, 1) + (128, 0), points, atol=1e-3)
    eyes = points[36:48].reshape(2, 6, 2).mean(1)
    np.testing.assert_allclose(eyes[:, 1] / 128, 0.47, atol=0.02)
    np.testing.assert_allclose(eyes[:, 0] / 128, (0.38, 0.62), atol=0.02)


def test_landmarks_lie_on_what_is_drawn():
    bare = next(
        p
        for p in people_of("test", 99)
        if (p.genes.glasses, p.genes.scar, p.genes.beard, p.genes.hair) == ("none", "none", "none", "short")
    )
    drawn = render([(bare, bare.shot(k)) for k in range(6)], masks=True)
    for n, points in enumerate(drawn.landmarks):
        for region, inside in (
            ("eyes", (points[36:42].mean(0), points[42:48].mean(0))),
            ("mouth", (points[48:60].mean(0),)),
            ("brows", points[[18, 19, 20, 23, 24, 25]]),
            ("nose", points[29:31]),
        ):
            for x, y in inside:
                assert drawn.masks[region][n, int(y), int(x)] > 127, (n, region)
        ys, xs = np.nonzero(drawn.masks["mouth"][n] > 127)
        assert abs(xs.min() - points[48, 0]) < 2.5 and abs(xs.max() + 1 - points[54, 0]) < 2.5
        assert abs(ys.max() + 1 - points[48:60, 1].max()) < 2


def test_masks_share_the_picture_out():
    masks = render(PAIRS, masks=True).masks
    total = sum(mask.astype(int) for mask in masks.values())
    assert total.max() <= 255 + 90 and (total > 300).mean() < 0.01  # only anti-aliased edges may overlap
    assert all((mask > 127).any() for name, mask in masks.items() if name != "hair")


def test_parallax_turns_the_near_more_than_the_far():
    person = ProceduralPerson(19)
    still, turned = render([(person, facing(person)), (person, facing(person, yaw=15))]).landmarks
    moved = (turned - still)[:, 0]
    ears, eyes = (moved[0] + moved[16]) / 2, moved[36:48].mean()
    assert moved[30] - ears > 2 * abs(eyes - ears) * 0.5 > 0
    assert moved[30] > eyes > ears
    nodding = render([(person, facing(person, pitch=8))]).landmarks[0]
    assert (nodding - still)[30, 1] < 0 < (nodding - still)[[0, 16], 1].mean()


@pytest.mark.parametrize("number", [0, 8, 9, 123456])
def test_captions_are_true_and_in_the_vocabulary(number):
    person = ProceduralPerson(number)
    for k in range(8):
        shot = person.shot(k)
        words = caption(person, shot).replace(",", " ,").split()
        assert set(words) <= set(WORDS)
        genes = person.genes
        assert words[words.index("eyes") - 1] == genes.iris
        assert ("bald" in words) == (genes.hair == "bald") and (genes.hair in words)
        assert (genes.hair == "bald") or words[words.index("hair") - 1] == genes.hair_colour
        for gene, word in (("beard", genes.beard), ("glasses", "glasses"), ("freckles", "freckles"), ("scar", "scar")):
            assert (word in words) == (getattr(genes, gene) != "none")
        assert ("smiling" in words) == (shot.smile > 0.4) and ("frowning" in words) == (shot.smile < -0.4)
        assert ("mouth" in words) == (shot.mouth_open > 0) and ("right" in words) == (shot.yaw > 12)


def test_vocabulary_is_small_and_complete():
    seen = set()
    for person in people_of("train", 400):
        for k in range(2):
            seen |= set(caption(person, person.shot(k)).replace(",", " ,").split())
    assert seen == set(WORDS) and len(WORDS) <= 100 and len(set(WORDS)) == len(WORDS)


def test_people_differ_and_stay_themselves():
    people = people_of("test", 40)
    assert len({p.genes for p in people}) == 40 and ProceduralPerson(9).genes == ProceduralPerson(9).genes
    pictures = render([(p, facing(people[0])) for p in people], 64).pictures.astype(float)
    between = [np.abs(pictures[i] - pictures[j]).mean() for i in range(40) for j in range(i)]
    assert min(between) > 3
    vectors = np.stack([p.gene_vector() for p in people])
    assert vectors.dtype == np.float32 and np.abs(vectors).max() <= 1 and len(np.unique(vectors, axis=0)) == 40


def test_small_marks_show_in_the_picture():
    person = next(
        p
        for p in people_of("test", 99)
        if len(p.genes.moles) > 1 and p.genes.hair == "short" and p.genes.beard == "none"
    )
    plain = ProceduralPerson(person.seed)
    plain.__dict__["genes"] = replace(person.genes, moles=(), iris="brown" if person.genes.iris != "brown" else "blue")
    with_, without = render([(person, facing(person)), (plain, facing(person))]).pictures.astype(float)
    changed = np.abs(with_ - without).max(-1) > 30
    assert 20 < changed.sum() < 300  # small, but at least moles and irises


def test_genes_are_independent_of_each_other():
    people = people_of("train", 1500)
    numbers = np.array(
        [[getattr(p.genes, f.name) for f in fields(Genes) if f.type in (float, "float")] for p in people]
    )
    off = np.corrcoef(numbers.T) - np.eye(numbers.shape[1])
    assert np.abs(off).max() < 0.13  # about five standard errors
    together = np.zeros((len(KINDS["iris"]), len(KINDS["hair_colour"])))
    for p in people:
        together[KINDS["iris"].index(p.genes.iris), KINDS["hair_colour"].index(p.genes.hair_colour)] += 1
    assert abs(together / len(people) - 1 / together.size).max() < 0.02


def test_sizes_resemble_each_other():
    large, small = render(PAIRS, 256).pictures, render(PAIRS, 64).pictures
    for a, b in zip(large, small):
        shrunk = cv2.resize(a, (64, 64), interpolation=cv2.INTER_AREA).astype(float)
        assert np.sqrt(((shrunk - b) ** 2).mean()) < 8


def test_splits_are_disjoint_and_guarded():
    seeds = {split: {p.seed for p in people_of(split, 200)} for split in SPLITS}
    assert all(len(s) == 200 for s in seeds.values()) and not seeds["train"] & seeds["development"]
    assert not seeds["train"] & seeds["test"] and not seeds["development"] & seeds["test"]
    assert people_of("test", 3, start=2) == people_of("test", 5)[2:]
    assert require([ProceduralPerson(9), ProceduralPerson(19)], "test") == [ProceduralPerson(9), ProceduralPerson(19)]
    with pytest.raises(SplitError, match="people:8.*development"):
        require([ProceduralPerson(9), ProceduralPerson(8)], "test")
    with pytest.raises(SplitError, match="Remedy"):
        people_of("tests", 1)
    with pytest.raises(SplitError):
        require([], "all")


@pytest.mark.parametrize(
    "name",
    [
        "people:",
        "people:-1",
        "people:1.5",
        "People:1",
        "people:1 ",
        "people:1\n",
        "people:٣",
        "../people:1",
        "person:1",
        "",
        None,
        7,
        "people:" + "9" * 40,
    ],
)
def test_odd_names_are_refused(name):
    with pytest.raises(BadPersonError, match="Remedy"):
        parse(name)


def test_a_name_reads_back():
    assert parse("people:1234") == ProceduralPerson(1234) and ProceduralPerson(1234).name == "people:1234"


@pytest.mark.parametrize("seed", [-1, 1.0, "1", None, True, 2**63])
def test_odd_seeds_are_refused(seed):
    with pytest.raises(BadPersonError, match="Remedy"):
        ProceduralPerson(seed)
    with pytest.raises(BadPersonError, match="Remedy"):
        ProceduralPerson(1).shot(seed)


@pytest.mark.parametrize("size", [31, 0, -128, 64.0, "64", True])
def test_odd_sizes_are_refused(size):
    with pytest.raises(BadSizeError, match="Remedy"):
        render(PAIRS[:1], size)
