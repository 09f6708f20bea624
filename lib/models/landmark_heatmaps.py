"""X_HM of eq. 10 of HonestFace: heatmaps of the 68 landmarks in an aligned picture, however degraded.

They are an inner output of the shipped landmark network people-l. The picture is aligned, so the box of the face is
known: no detector is asked, and every picture has landmarks.
"""

import functools

import onnx
import onnxruntime
import torch
import torch.nn.functional as F

from lib import paths
from lib.errors import PackError

LANDMARKER = paths.DATA / "models" / "people" / "people-l.onnx"
HEATMAPS = "/Reshape_3_output_0"  # the 68 softmax maps, whose centres of mass are the points
HALF, DOWN = (
    0.8,
    0.2,
)  # of an aligned picture in [-1, 1]: half a side of the face's box, and its centre below the middle
INPUT = 192  # pixels


@functools.lru_cache(maxsize=2)
def _network(file=LANDMARKER):
    if not file.is_file():
        raise PackError(f"No landmark network: {file}. Remedy: `git checkout -- data`.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # or its threads compete with torch's
    try:
        model = onnx.load(file)
        model.graph.output.append(onnx.helper.make_tensor_value_info(HEATMAPS, onnx.TensorProto.FLOAT, None))
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # protobuf and onnxruntime each raise their own
        raise PackError(
            f"Not the landmark network: {file} ({str(error)[:120]}). Remedy: `git checkout -- data`."
        ) from error


def _resampled(pictures, half, down, size):
    """A window of pictures (N, C, H, W), its half side and centre (0, down) in [-1, 1]; (N, C, size, size)."""
    window = torch.tensor([[half, 0.0, 0.0], [0.0, half, down]]).repeat(len(pictures), 1, 1)  # (N, 2, 3)
    grid = F.affine_grid(window, [len(pictures), pictures.shape[1], size, size], align_corners=False)
    return F.grid_sample(pictures, grid, align_corners=False)


def landmark_heatmaps(pictures, batch=64):
    """Heatmaps of the 68 landmarks, each with its highest value 1, and the landmarks, their centres of mass.

    Args: pictures, aligned, (N, 3, S, S) in [-1, 1]; batch, pictures at a time.
    Returns heatmaps (N, 68, 48, 48) in [0, 1], of the box of the face, and landmarks (N, 68, 2), x and y in [-1, 1] of
    the picture. Raises PackError. Source: HonestFace, section 3.3; its network is not named.
    """
    parts = []
    for chunk in pictures.cpu().float().split(batch):
        crops = _resampled(chunk, HALF, DOWN, INPUT)  # (n, 3, 192, 192)
        points, maps = map(torch.from_numpy, _network().run(["points", HEATMAPS], {"x": crops.numpy()}))
        parts.append((maps / maps.amax((2, 3), keepdim=True), points.view(-1, 68, 2) + 1 / INPUT))
    maps, points = map(torch.cat, zip(*parts))
    return maps, HALF * points + torch.tensor([0.0, DOWN])


def attention_mask(heatmaps, size, k=10.0, eps=1e-8):
    """Eqs 10 and 11: the mean of the heatmaps, sharpened by 1 - exp(-k M) and scaled to [0, 1].

    Args: heatmaps (N, 68, h, w), of the box of the face; size of the picture, pixels; k > 0; eps, which keeps the
    division finite. Returns M, (N, 1, size, size) in [0, 1], 0 outside the box. Source: HonestFace, section 3.3.
    """
    raw = _resampled(heatmaps.mean(1, keepdim=True), 1 / HALF, -DOWN / HALF, size)  # (N, 1, size, size), eq. 10
    sharp = 1 - torch.exp(-k * raw)
    low, high = sharp.amin((2, 3), keepdim=True), sharp.amax((2, 3), keepdim=True)
    return (sharp - low) / (high - low + eps)
