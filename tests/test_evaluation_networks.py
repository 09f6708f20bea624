"""The evaluation networks: losses in closed form, crops, exported files, and the pack that insightface opens."""

import copy

import cv2
import numpy as np
import pytest
import tiny_system
import torch
from insightface.app import FaceAnalysis

from lib import paths
from lib.images import to_tensor, to_uint8
from lib.metrics import identity, image, registry
from lib.models import detector, evaluation_networks, export_onnx
from lib.people import alignment, insightface_packs, procedural
from lib.people.alignment import to_arcface
from lib.studies import release_checks
from lib.training import detector_pretraining, evaluation_pretraining, picture_pool


@pytest.fixture(scope="module")
def pool():
    return picture_pool.make_pool(6, 3, workers=1)


def halved(net):
    """A network with the weights that its file holds."""
    net = copy.deepcopy(net)
    for weight in net.parameters():
        if weight.numel() > 256:
            weight.data = weight.data.half().float()
    return net


def test_the_arcface_loss_by_hand():
    rng = np.random.default_rng(0)
    embedding, centres, person = rng.normal(size=(5, 8)), rng.normal(size=(3, 8)), np.array([0, 2, 1, 1, 0])
    loss = evaluation_pretraining.arcface_loss(*map(torch.tensor, (embedding, person, centres)), margin=0.3, scale=24.0)
    want = []
    for e, p in zip(embedding, person):
        cosine = [e @ c / np.linalg.norm(e) / np.linalg.norm(c) for c in centres]
        logits = [24 * (np.cos(np.arccos(c) + 0.3) if k == p else c) for k, c in enumerate(cosine)]
        want.append(np.log(np.sum(np.exp(logits))) - logits[p])
    assert float(loss) == pytest.approx(np.mean(want), rel=1e-4)


def test_the_recogniser_learns_and_two_runs_agree(pool):
    torch.manual_seed(0)
    options = dict(batch=8, steps=9, lr=1e-3)
    net, losses = evaluation_pretraining.fit_recogniser(pool, **options)
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3]) and not net.training
    torch.manual_seed(0)
    again, same = evaluation_pretraining.fit_recogniser(pool, **options)
    assert same == losses and tiny_system.same(again.state_dict(), net.state_dict())


def test_crops_for_the_recogniser_are_insightfaces(pool):
    """Training sees what insightface will cut."""
    from lib.metrics.identity import _arcface_crop

    smooth = cv2.GaussianBlur(to_uint8(tiny_system.pictures(1, size=128))[0], (0, 0), 4)
    x = to_tensor(smooth[None])
    theirs = to_tensor(_arcface_crop(smooth, 112)[None])
    assert (evaluation_pretraining.arcface_crops(x) - theirs)[..., 2:-2, 2:-2].abs().max() < 0.05


def test_jitter_is_the_generators_and_keeps_the_person_in_view():
    x = tiny_system.pictures(6)
    a, b, c = (evaluation_pretraining.jitter(x, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c) and a.shape == x.shape
    assert 0.01 < float((a - x).abs().mean()) < 0.25


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("networks")
    recogniser, perceptual = (
        evaluation_networks.Recogniser(to_arcface()).eval(),
        evaluation_networks.Perceptual(evaluation_networks.Features(5)).eval(),
    )
    export_onnx.export_networks(folder, recogniser, perceptual)
    return halved(recogniser), halved(perceptual), folder


def test_the_exported_recogniser_is_the_trained_one_through_insightface(shipped):
    net, _, folder = shipped
    model = identity.recogniser(folder / "people" / "people-r.onnx")
    for count in (1, 3):
        x = tiny_system.pictures(count, seed=count, size=112)
        seen = torch.from_numpy(to_uint8(x)).permute(0, 3, 1, 2) / 127.5 - 1
        with torch.no_grad():
            want, turned = net(seen), net(seen.flip(1))
        found = model.get_feat(list(to_uint8(x)[..., ::-1]))  # BGR, as insightface reads
        assert (
            found.shape == (count, 128)
            and np.allclose(found, want, atol=1e-4)
            and not np.allclose(found, turned, atol=1e-3)
        )


def test_the_recogniser_sees_the_inner_face_through_insightfaces_crop_as_it_was_trained_to():
    """A smooth whole crop, carried to insightface's template and read back, is the part of it that INNER_FACE names."""
    from lib.metrics.identity import _arcface_crop

    rng = np.random.default_rng(4)
    whole = cv2.resize(rng.integers(0, 256, (7, 7, 3), np.uint8), (112, 112), interpolation=cv2.INTER_CUBIC)
    crop = torch.from_numpy(_arcface_crop(whole, 112)).permute(2, 0, 1).float()
    net = evaluation_networks.Recogniser(to_arcface())
    found = (net.rows @ crop @ net.columns.T).permute(1, 2, 0).numpy()
    (left, right), (top, bottom) = evaluation_networks.INNER_FACE
    assert (
        found.shape == (72, 72, 3) and np.abs(found - whole[top:bottom, left:right])[:-5].mean() < 0.5
    )  # its last rows lie outside


def test_the_exported_distance_is_the_trained_one(shipped):
    _, net, folder = shipped
    x, y = tiny_system.pictures(3, 1, 128), tiny_system.pictures(3, 2, 128)
    with torch.no_grad():
        assert torch.allclose(image.perceptual(x, y, folder / "people-p.onnx"), net(x, y), atol=1e-4)
    assert image.perceptual(x, x, folder / "people-p.onnx").abs().max() < 1e-5


def test_the_distance_by_hand(shipped):
    _, net, _ = shipped
    x, y = tiny_system.pictures(2, 1, 128), tiny_system.pictures(2, 2, 128)
    with torch.no_grad():
        want = 0
        for a, b in zip(net.features(x)[0], net.features(y)[0]):
            cosine = torch.nn.functional.cosine_similarity(a, b, dim=1)
            dark = ((a.norm(dim=1) < 1e-3) | (b.norm(dim=1) < 1e-3)).any()
            assert not dark  # there the two forms differ
            want = want + (2 - 2 * cosine).mean((1, 2))  # |u - v|^2 of unit vectors
        assert torch.allclose(net(x, y), want, atol=1e-4) and torch.allclose(net(x, y), net(y, x), atol=1e-5)


def test_the_features_learn_genes_landmarks_and_noise():
    big = picture_pool.Pool(
        pictures=(tiny_system.pictures(4, size=128) * 127.5 + 127.5).byte(),
        person=torch.arange(4),
        captions=[""] * 4,
        genes=torch.rand(4, 3),
        landmarks=torch.rand(4, 68, 2),
    )
    torch.manual_seed(0)
    net, losses = evaluation_pretraining.fit_perceptual(big, batch=4, steps=8, lr=3e-3)
    assert np.mean(losses[-2:]) < 0.9 * np.mean(losses[:2])
    assert net.features.head.out_features == 3 + 136 + 1 and isinstance(net, evaluation_networks.Perceptual)
    assert copy.deepcopy(net)(*[tiny_system.pictures(1, size=128)] * 2).abs().max() < 1e-5


# ---- the detector ----


def boxes_of(x, landmarks, side):
    return (landmarks.amin(1) + 1) * side / 2, (landmarks.amax(1) + 1) * side / 2


def test_scenes_carry_their_landmarks_with_them():
    """A white dot at a landmark is found where the scene's landmark says, in whole numbers at pixel centres."""
    g = torch.Generator().manual_seed(2)
    marks = ((0.6 * torch.rand(24, 68, 2, generator=g) - 0.3 + 1) * 64).floor().add(0.5) / 64 - 1
    x = torch.full((24, 3, 128, 128), -1.0)
    for n, (column, row) in enumerate(((marks[:, 0] + 1) * 64).floor().long()):
        x[n, 0, row, column] = 1  # red; what lies behind is as green as red
    pictures, points = detector_pretraining.scenes(x, marks, g)
    light = (pictures[:, 0] - pictures[:, 1]).clamp(min=0)
    rows, columns = torch.meshgrid(*[torch.arange(detector_pretraining.CANVAS).float()] * 2, indexing="ij")
    checked = 0
    for n in range(24):
        near = light[n] * ((columns - points[n, 0, 0]).hypot(rows - points[n, 0, 1]) < 6)
        if near.sum() > 0.5 and (points[n, 0] > 8).all() and (points[n, 0] < detector_pretraining.CANVAS - 8).all():
            middle = torch.stack([(near * columns).sum(), (near * rows).sum()]) / near.sum()
            assert (middle - points[n, 0]).abs().max() < 1.2, n
            checked += 1
    assert checked > 3


def test_the_loss_is_least_at_the_answer():
    """With the right outputs at every place the loss is nearly zero; wrong boxes, points and scores each raise it."""
    low, side = torch.tensor([[60.0, 40.0]]), 192
    marks = low[:, None] + torch.rand(1, 68, 2, generator=torch.Generator().manual_seed(0)) * 80
    low, high = marks.amin(1), marks.amax(1)
    found = [], [], []
    for level, stride in enumerate(detector.STRIDES):
        at = detector_pretraining.places(level, side)
        mine = detector_pretraining.SIZES[level][0] <= (high - low).max() < detector_pretraining.SIZES[level][1]
        near = ((at - (low + high) / 2).abs() < detector_pretraining.MIDDLE * (high - low)).all(1)
        found[0].append(torch.where(near & mine, 20.0, -20.0)[None])
        found[1].append(torch.cat([at - low, high - at], 1)[None] / stride)
        found[2].append((detector_pretraining.five_points(marks) - at[:, None]).flatten(1)[None] / stride)
    right = float(detector_pretraining.detection_loss(found, marks))
    assert right < 1e-5
    for part in range(3):
        wrong = [[f.clone() for f in part_found] for part_found in found]
        wrong[part] = [f + (30.0 if part == 0 else 1.0) for f in wrong[part]]
        assert float(detector_pretraining.detection_loss(wrong, marks)) > 0.5


def test_an_untrained_detector_learns_and_exports_as_insightfaces_scrfd(pool, tmp_path):
    torch.manual_seed(0)
    net, losses = detector_pretraining.fit_detector(pool, batch=4, steps=40, lr=2e-3)
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
    export_onnx.export_networks(tmp_path, detector=net)
    models = insightface_packs.models(tmp_path / "people")
    scrfd, net = models["detection"], halved(net)
    picture = to_uint8(tiny_system.pictures(1, size=128))[0]
    scores, boxes, points = scrfd.forward(picture[..., ::-1], threshold=0.0)
    with torch.no_grad():
        x = (torch.from_numpy(picture).permute(2, 0, 1)[None].float() - 127.5) / 128
        want = net(x)
    for level, stride in enumerate(detector.STRIDES):
        assert np.allclose(scores[level][:, 0], want[0][level][0].sigmoid(), atol=1e-3)
        at = detector_pretraining.places(level, 128).numpy()
        left_top = at - want[1][level][0, :, :2].numpy() * stride
        assert np.allclose(
            boxes[level][:, :2], left_top, atol=0.5
        )  # pixels: batch norms were folded in before the weights were halved
        assert np.allclose(points[level][:, 0], at + want[2][level][0, :, :2].numpy() * stride, atol=0.5)


# ---- the pack ----


@pytest.fixture(scope="module")
def crowd():
    some = procedural.people_of("test", 40, start=300)
    drawn = procedural.render([(p, p.shot(k)) for p in some for k in (1, 2)])
    return drawn.pictures, torch.from_numpy(drawn.landmarks).double()


@pytest.fixture(scope="module")
def app():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("socket.socket", lambda *_: pytest.fail("a download was tried"))
        app = FaceAnalysis("people", root=str(paths.DATA))
        app.prepare(ctx_id=-1, det_size=(128, 128))  # the size of the crops
    return app


@pytest.fixture(scope="module")
def found(app, crowd):
    """insightface's faces of every crop."""
    return [app.get(np.ascontiguousarray(picture[..., ::-1])) for picture in crowd[0]]


def test_insightface_loads_the_pack_offline_like_its_own(app, crowd, found):
    assert set(app.models) == {"detection", "recognition", "landmark_2d_68"}
    assert np.mean([len(faces) == 1 for faces in found]) >= 0.97
    one = [(n, faces[0]) for n, faces in enumerate(found) if len(faces) == 1]
    marks = torch.stack([torch.from_numpy(face.landmark_2d_68).double() for _, face in one]) + 0.5
    assert release_checks.landmark_error(marks, crowd[1][[n for n, _ in one]]) < 0.04
    assert all(face.normed_embedding.shape == (128,) for _, face in one)


def test_at_insightfaces_own_sizes_the_surest_face_is_the_face(crowd):
    """Without det_size insightface searches at 128 and 640 px; an enlarged crop may show a second, less sure face."""
    app = FaceAnalysis("people", root=str(paths.DATA))
    app.prepare(ctx_id=-1)
    found = [app.get(np.ascontiguousarray(picture[..., ::-1])) for picture in crowd[0][::3]]
    surest = [max(faces, key=lambda face: face.det_score) for faces in found]
    boxes = [np.concatenate([marks.min(0).values, marks.max(0).values]) for marks in crowd[1][::3]]
    off = [np.abs(face.bbox - box).max() for face, box in zip(surest, boxes)]
    assert max(off) < 20 and np.mean(off) < 6 and np.mean([len(faces) == 1 for faces in found]) > 0.85  # pixels


def test_its_recogniser_tells_people_apart_from_detected_faces_as_from_aligned_crops(found, crowd):
    """insightface aligns by five detected points, the workbook by one fixed similarity; both recognise the people."""
    detected = torch.stack([torch.from_numpy(faces[0].normed_embedding) for faces in found])
    fixed = identity.embed(to_tensor(crowd[0]))
    assert release_checks.auc(fixed, 2) > 0.995 and release_checks.auc(detected, 2) > 0.97


def test_changing_the_packs_name_is_all_it_takes(crowd):
    x, y = to_tensor(crowd[0][:4]), to_tensor(crowd[0][1:5])
    by_name = registry.measure_all(x, y, scorer="people", only=("identity", "l2_ld"))
    assert set(by_name.reason) == {""}
    assert np.allclose(by_name.value, registry.measure_all(x, y, only=("identity", "l2_ld")).value, atol=1e-5)


@pytest.mark.parametrize("angle", [0, 12])
def test_a_whole_drawn_photograph_is_aligned_by_the_shipped_pack(crowd, angle):
    """A crop put small and turned into a larger picture comes back where it was."""
    errors = []
    for picture, marks in zip(crowd[0][:12], crowd[1][:12]):
        matrix = np.hstack([cv2.getRotationMatrix2D((64, 64), angle, 1.4)[:, :2], [[70.0], [40.0]]])
        photograph = cv2.warpAffine(picture, matrix, (420, 300), borderValue=(120, 130, 140))
        face = alignment.one_face(alignment.find_faces(photograph, "people"), "here", "largest")
        five = detector_pretraining.five_points(marks).numpy() - 0.5
        errors.append(np.linalg.norm(face.points - (five @ matrix[:, :2].T + matrix[:, 2]), axis=1).mean() / (1.4 * 31))
    assert np.mean(errors) < 0.08  # of the distance between the eyes


def test_no_face_in_noise_or_nothing():
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (200, 200, 3), np.uint8), np.full((200, 200, 3), 128, np.uint8)]
    noise.append(cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (200, 200), interpolation=cv2.INTER_CUBIC))
    assert [len(alignment.find_faces(picture, "people")) for picture in noise] == [0, 0, 0]
