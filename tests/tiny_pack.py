"""Small insightface packs for tests: a detector that detects red squares as faces, a recogniser with given weights."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDE = 16
# eyes, nose, mouth corners of the "face", pixels from the left top corner of its red square: the template, nearly
POINTS = np.array([[-56.0, -70.0], [70.0, -70.0], [7.0, 4.0], [-49.0, 61.0], [63.0, 61.0]])


def _save(path, nodes, inputs, outputs, weights):
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    values = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in part] for part in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "tiny", *values, initializer=tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def write_detector(folder):
    """Write a pack of one detector of SCRFD's form.

    A red cell of 16 px is a face, a green cell of 32 px a face of twice the size. Returns the folder.
    """
    constants = {
        "box": np.full((1, 4), 90 / STRIDE, np.float32),
        "kps": (POINTS / STRIDE).astype(np.float32).reshape(1, 10),
    }
    nodes, weights = [], {"flat": np.array([-1, 1], np.int64), "zero": np.zeros((1, 1), np.float32), **constants}
    for stride in (8, 16, 32):
        cell = np.zeros((2, 3, stride, stride), np.float32)  # two anchors
        colour = {8: (0, 0, 0), 16: (1, -1, -1), 32: (-1, 1, -1)}[stride]  # a pure red or green cell scores 0.996
        cell[:] = np.array(colour, np.float32)[:, None, None] / (3 * stride**2)
        weights[f"cell{stride}"] = cell
        nodes += [
            helper.make_node("Conv", ["x", f"cell{stride}"], [f"map{stride}"], strides=[stride, stride]),
            helper.make_node("Transpose", [f"map{stride}"], [f"rows{stride}"], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", [f"rows{stride}", "flat"], [f"score{stride}"]),
            helper.make_node("Mul", [f"score{stride}", "zero"], [f"none{stride}"]),
            helper.make_node("Add", [f"none{stride}", "box"], [f"box{stride}"]),
            helper.make_node("Add", [f"none{stride}", "kps"], [f"kps{stride}"]),
        ]
    outputs = [
        (f"{kind}{stride}", ["n", width])
        for kind, width in (("score", 1), ("box", 4), ("kps", 10))
        for stride in (8, 16, 32)
    ]
    _save(folder / "det.onnx", nodes, [("x", [1, 3, "height", "width"])], outputs, weights)
    return folder


def write_recogniser(path, weights, size=112, batch="n"):
    """Write a linear recogniser: the flattened input (3, size, size) times weights (3 * size^2, D). Return its path."""
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    return _save(
        path,
        nodes,
        [("x", [batch, 3, size, size])],
        [("y", [batch, weights.shape[1]])],
        {"w": weights.astype(np.float32)},
    )
