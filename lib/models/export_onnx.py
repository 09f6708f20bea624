"""Write the evaluation networks as ONNX files, which insightface opens like any downloaded pack."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from lib.models.detector import EMPTY_STRIDE, STRIDES, ScrfdOutputs
from lib.models.evaluation_networks import ARCFACE_SIZE


def export_networks(folder, recogniser=None, perceptual=None, landmarker=None, detector=None):
    """Write the given evaluation networks to a folder.

    The recogniser, landmarker and detector become people/people-r.onnx, -l.onnx and -d.onnx, a pack that insightface
    opens. The perceptual distance becomes people-p.onnx, from two batches of pictures to a distance each.
    """
    pack = Path(folder) / "people"
    pack.mkdir(parents=True, exist_ok=True)
    if recogniser:
        x = torch.zeros(2, 3, ARCFACE_SIZE, ARCFACE_SIZE)
        export_module(recogniser, pack / "people-r.onnx", {"x": x}, ["embedding"])
    if landmarker:
        export_module(landmarker, pack / "people-l.onnx", {"x": torch.zeros(2, 3, 192, 192)}, ["points"])
    if perceptual:
        x = torch.zeros(2, 3, 128, 128)
        export_module(perceptual, Path(folder) / "people-p.onnx", {"x": x, "y": x}, ["distance"])
    if detector:
        outputs = [f"{kind}_{stride}" for kind in ("score", "box", "points") for stride in (*STRIDES, EMPTY_STRIDE)]
        axes = {"x": {2: "height", 3: "width"}} | {name: {0: "places"} for name in outputs}
        x = torch.zeros(1, 3, 128, 128)
        export_module(ScrfdOutputs(detector), pack / "people-d.onnx", {"x": x}, outputs, axes)


def export_module(module, path, inputs, outputs, axes=None):
    """Write a module as ONNX, with weights in half precision.

    Args: inputs, name -> example tensor; outputs, their names; axes, name -> {dimension: label} of the dimensions that
    may vary, by default the batch of every input and output.
    """
    module.cpu().eval()
    axes = axes or {name: {0: "batch"} for name in (*inputs, *outputs)}
    torch.onnx.export(
        module,
        tuple(inputs.values()),
        str(path),
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_axes=axes,
        dynamo=False,
    )
    _store_half(path)


def _store_half(path):
    """Store the larger weights of an ONNX file in half precision. Added nodes cast them back before use."""
    model, casts = onnx.load(path), []
    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.FLOAT and len(weight.raw_data) > 1024:
            half = numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), f"{weight.name}.half")
            casts.append(helper.make_node("Cast", [half.name], [weight.name], to=TensorProto.FLOAT))
            weight.CopyFrom(half)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
