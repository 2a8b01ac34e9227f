"""model.fp16.onnx: weights and inner values of model.onnx in half precision.

The interface stays: uint8 images in, probabilities and logits in float32 out. Normalisation and softmax are computed in
float32, where rounding would cost accuracy and nothing is gained.
"""

from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

_SCOPES = "pkg.torch.onnx.name_scopes"


def write_fp16(source: Path, path: Path) -> None:
    """Writes `model.onnx` with weights and inner values in half precision."""
    model = onnx.load(source)
    kept = [node.name for node in model.graph.node if _normalises(node)]
    _unshare(model.graph, set(kept))
    half = convert_float_to_float16(
        model, keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, "Softmax"], node_block_list=kept
    )
    OnnxModel(half).topological_sort()  # the converter puts its casts at the end
    onnx.checker.check_model(half)
    path.write_bytes(half.SerializeToString())


def _unshare(graph: onnx.GraphProto, nodes: set[str]) -> None:
    """Gives nodes constants of their own: a mean that equals the deviation is one, which the converter casts twice."""
    constants, seen = {tensor.name: tensor for tensor in graph.initializer}, set[str]()
    for node in graph.node:
        for place, name in enumerate(node.input if node.name in nodes else ()):
            if name in constants and name in seen:
                own = graph.initializer.add()
                own.CopyFrom(constants[name])
                node.input[place] = own.name = f"{name}.of.{node.name}"
            seen.add(name)


def _normalises(node: onnx.NodeProto) -> bool:
    return any(prop.key == _SCOPES and "'normalize'" in prop.value for prop in node.metadata_props)
