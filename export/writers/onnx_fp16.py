"""model.fp16.onnx: weights and intermediate values of model.onnx in half precision.

The interface is unchanged: uint8 images in, float32 probabilities and logits out. Normalisation and softmax stay in
float32, as rounding them would cost accuracy and gain nothing.
"""

from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

_SCOPES = "pkg.torch.onnx.name_scopes"


def write_fp16(source: Path, path: Path) -> None:
    """Writes `model.onnx` with weights and intermediate values in half precision."""
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
    """Gives each node its own constants: an equal mean and deviation share one, which the converter casts twice."""
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
