"""Real models on real photographs, which are not part of the workbook: LPIPS, and recognisers on people.

By hand, in a minute: `pytest -m slow -s tests/test_real_models.py`; it prints what it measures.
"""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tiny_system
import torch
import torch.nn.functional as F
from calibration_pairs import pairs
from torch import nn

from lib.degradation import degrade
from lib.errors import NotThePersonError
from lib.images import to_tensor
from lib.metrics import identity, registry
from lib.people.picture_files import load_picture
from lib.restoration.person_identity import LEAST, PersonIdentity

pytestmark = pytest.mark.slow
SHARED = Path(__file__).parents[2] / "shared"
MEAN, STD = (torch.tensor(x).view(1, 3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))  # of ImageNet
RECOGNISERS = {
    "mbf_y1": "evalpack",
    "mobilefacenet": "recognisers/mobilefacenet_foamliu_rgb255.onnx",
    "mobileface_v2": "recognisers/mobileface_v2.onnx",
}


def shared(*parts):
    """A path in the folder beside the repository; a test that cannot find it has failed, not passed."""
    path = SHARED.joinpath(*parts)
    assert path.exists(), (
        f"Not there: {path}. Remedy: put the models and photographs of the shared folder beside the repository."
    )
    return path


# ---- LPIPS ----


def weights(file):
    return torch.load(shared("models", "lpips", file), map_location="cpu", weights_only=True)


class Fire(nn.Module):
    """A squeeze to few channels, then 1 x 1 and 3 x 3 convolutions side by side (Iandola et al. 2016)."""

    def __init__(self, cin, few, each):
        super().__init__()
        self.squeeze, self.expand1x1, self.expand3x3 = (
            nn.Conv2d(cin, few, 1),
            nn.Conv2d(few, each, 1),
            nn.Conv2d(few, each, 3, padding=1),
        )

    def forward(self, x):
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], 1)


def squeezenet():
    """The features of SqueezeNet 1.1 with ImageNet's weights, layers numbered as in their file."""
    pool = lambda: nn.MaxPool2d(3, 2, ceil_mode=True)  # noqa: E731
    layers = nn.Sequential(
        nn.Conv2d(3, 64, 3, 2),
        nn.ReLU(),
        pool(),
        Fire(64, 16, 64),
        Fire(128, 16, 64),
        pool(),
        Fire(128, 32, 128),
        Fire(256, 32, 128),
        pool(),
        Fire(256, 48, 192),
        Fire(384, 48, 192),
        Fire(384, 64, 256),
        Fire(512, 64, 256),
    )
    layers.load_state_dict(weights("squeezenet1_1_features.pth"))
    return layers.eval()


@torch.no_grad()
def lpips(layers, heads, x, y):
    """LPIPS v0.1 (Zhang et al. 2018) of ImageNet-normalised pictures, from unit features after seven layers."""
    total, taken = 0, 0
    for number, layer in enumerate(layers):
        x, y = layer(x), layer(y)
        if number in (1, 4, 7, 9, 10, 11, 12):
            a, b = (z / (z.square().sum(1, keepdim=True).sqrt() + 1e-10) for z in (x, y))
            total = total + F.conv2d((a - b).square(), heads[f"lin{taken}.model.1.weight"]).mean((1, 2, 3))
            taken += 1
    return total


def photographs(size):
    x, y = (to_tensor([one[:size, :size] for one in some]) for some in zip(*pairs().values()))
    return x, y


def random(size):
    """Smooth random pictures and the same under more and more noise."""
    x = tiny_system.pictures(6, size, size)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(size))
    return x, (x + torch.linspace(0, 1, 6).view(-1, 1, 1, 1) * noise).clamp(-1, 1)


@pytest.mark.parametrize("made", [photographs, random])
@pytest.mark.parametrize("size", [64, 128, 192])
def test_lpips_agrees_with_its_onnx_twin(made, size):
    layers, heads = squeezenet(), weights("lpips_v0.1_lin_squeeze.pth")
    x, y = (((one + 1) / 2 - MEAN) / STD for one in made(size))
    session = onnxruntime.InferenceSession(
        str(shared("models", "lpips", "lpips_sq.onnx")), providers=["CPUExecutionProvider"]
    )
    twin = [session.run(None, {"ref": a[None].numpy(), "dist": b[None].numpy()})[0].item() for a, b in zip(x, y)]
    found = lpips(layers, heads, x, y).numpy()
    print(
        f"\nLPIPS of {len(x)} pairs, {made.__name__}, {size} px: {found.min():.4f} to {found.max():.4f}, "
        f"difference {np.abs(found - twin).max():.1e}"
    )
    assert np.abs(found - twin).max() < 1e-6 and found.max() > 0.3
    assert lpips(layers, heads, x, x).abs().max() < 1e-6


# ---- recognisers ----


def pictures(*parts):
    return to_tensor([load_picture(file) for file in sorted(shared("real", *parts).iterdir())])


def others(a, b):
    """Cosines of unit embeddings of different numbers: (N, D), (M, D) -> those off the diagonal."""
    return (a @ b.T)[~torch.eye(len(a), len(b), dtype=bool)]


@pytest.fixture(scope="module", params=RECOGNISERS)
def embed(request):
    where = RECOGNISERS[request.param]
    if where == "evalpack":
        return lambda x: identity.embed(x, where, root=shared("models", "insightface"))
    return lambda x: identity.embed(x, shared("models", where))


@pytest.fixture(scope="module")
def london():
    """102 people: their neutral faces, their smiling ones."""
    both = pictures("london_aligned512")
    assert len(both) == 204
    return both[0::2], both[1::2]


def test_two_photographs_of_one_person_and_of_two(embed, london):
    neutral, smiling = (embed(x) for x in london)
    genuine, impostor = (neutral * smiling).sum(1), others(neutral, smiling)
    print(
        f"\nLondon: one person {genuine.mean():.3f} (least {genuine.min():.3f}), "
        f"two {impostor.mean():.3f} (most {impostor.max():.3f})"
    )
    assert 0.88 < genuine.mean() < 0.95 and genuine.min() > 0.65  # one session: expression alone differs
    assert abs(impostor.mean()) < 0.06 and impostor.max() < 0.7
    assert ((neutral @ smiling.T).argmax(1) == torch.arange(len(neutral))).all()


def test_one_person_over_years_and_degraded(embed, london):
    references, web = pictures("obama", "HQReferences"), pictures("obama", "LQCrop")
    own, strangers = embed(references), embed(london[0])
    worse = {recipe: embed(degrade.degrade(references, recipe, range(9))) for recipe in ("codeformer", "tiny-extreme")}
    found = {
        "one person": others(own, own).mean(),
        "found on the web": (embed(web) @ own.T).mean(),
        "strangers": (own @ strangers.T).mean(),
        **{recipe: others(x, own).mean() for recipe, x in worse.items()},
        "tiny-extreme, of itself": (worse["tiny-extreme"] * own).sum(1).mean(),
    }
    print("\nObama, mean cosine to the references:", {name: round(float(value), 3) for name, value in found.items()})
    assert (
        0.62 < found["one person"] < 0.84 and 0.58 < found["found on the web"] < 0.82 and abs(found["strangers"]) < 0.06
    )
    assert (
        0.3 < found["codeformer"] < 0.53
        and 0.14 < found["tiny-extreme"] < 0.32
        and 0.22 < found["tiny-extreme, of itself"] < 0.42
    )
    assert found["strangers"] < found["tiny-extreme"] < found["codeformer"] < found["one person"]


def test_a_strangers_reference_is_refused_and_the_persons_own_are_not(london):
    own = pictures("obama", "HQReferences")  # over years
    check = PersonIdentity(scorer=shared("models", "insightface", "models", "evalpack")).check_references
    check(own, [str(n) for n in range(len(own))])
    refused = 0
    for stranger in london[0][:20]:
        try:
            check(torch.cat([own[:4], stranger[None]]), list("abcde"))
        except NotThePersonError as error:
            assert "reference e" in str(error)
            refused += 1
    print(f"\n{refused} of 20 strangers among four references are below {LEAST}")
    assert refused >= 15


def test_the_table_takes_a_real_pack(london):
    """Every metric of identity by the pack; landmarks have a reason, for this pack has no model of them."""
    neutral, smiling = (x[:4] for x in london)
    blurred = degrade.degrade(smiling, "codeformer", range(4))
    table = registry.measure_all(
        smiling, neutral, blurred, neutral, scorer=shared("models", "insightface", "models", "evalpack")
    )
    value = table.groupby("metric").value.mean()
    print("\n", value.dropna().round(3).to_dict())
    assert (
        value.identity > 0.85
        and value.degrees < 35
        and value.embedding_distance < 0.6
        and 0.3 < value.gate < value.identity
    )
    assert table[table.metric.isin(("l2_ld", "ald_eyes"))].reason.str.contains("No landmark model in the pack").all()
    assert table[table.metric.isin(("ms_ssim", "psnr", "identity", "gate"))].reason.eq("").all()
