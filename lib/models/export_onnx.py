"""The judges as ONNX files: what is shipped needs no class of ours, and insightface runs it like any downloaded pack."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from lib.models.detector import STRIDES, Exported
from lib.models.evaluation_networks import FACE


def export(module, path, inputs, names, outputs, axes=None):
    """Writes `module` as ONNX, its weights in half precision; `inputs` example tensors, `names` of theirs, `outputs` those of its
    outputs; axes: name -> {dimension: word} of what may vary, the batch unless given.
    """
    module.cpu().eval()
    axes = axes or {name: {0: "batch"} for name in (*names, *outputs)}
    torch.onnx.export(
        module,
        tuple(inputs),
        str(path),
        input_names=list(names),
        output_names=list(outputs),
        dynamic_axes=axes,
        dynamo=False,
    )
    _halve(path)


def _halve(path):
    """Stores the larger weights of an ONNX file in half precision; whoever opens it casts them back and computes as before."""
    model, casts = onnx.load(path), []
    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.FLOAT and len(weight.raw_data) > 1024:
            small = numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), f"{weight.name}.half")
            casts.append(helper.make_node("Cast", [small.name], [weight.name], to=TensorProto.FLOAT))
            weight.CopyFrom(small)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)


def ship(folder, recogniser=None, perceptual=None, landmarker=None, detector=None):
    """Writes the judges that are given to `folder`: people/ with people-d, -l and -r.onnx, a pack that insightface opens, and
    people-p.onnx, two pictures in, a distance out.
    """
    pack = Path(folder) / "people"
    pack.mkdir(parents=True, exist_ok=True)
    if recogniser:
        export(recogniser, pack / "people-r.onnx", [torch.zeros(2, 3, FACE, FACE)], ["x"], ["embedding"])
    if landmarker:
        export(landmarker, pack / "people-l.onnx", [torch.zeros(2, 3, 192, 192)], ["x"], ["points"])
    if detector:
        names = [f"{what}_{stride}" for what in ("score", "box", "points") for stride in (*STRIDES, 128)]
        axes = {"x": {2: "height", 3: "width"}} | {name: {0: "places"} for name in names}
        export(Exported(detector), pack / "people-d.onnx", [torch.zeros(1, 3, 128, 128)], ["x"], names, axes)
    if perceptual:
        export(perceptual, Path(folder) / "people-p.onnx", [torch.zeros(2, 3, 128, 128)] * 2, ["x", "y"], ["distance"])
