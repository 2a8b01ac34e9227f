"""ONNX classifiers made without any code of ours: by PyTorch's two exporters, and by hand."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torchvision
from onnx import TensorProto, helper, numpy_helper
from torch import nn

CLASSES = [str(digit) for digit in range(10)]


def torchvision_model(name: str) -> nn.Module:
    """Random weights, statistics and biases, so that nothing is zero or alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = getattr(torchvision.models, name)(num_classes=10)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, 0, 0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
            if getattr(module, "bias", None) is not None:
                nn.init.normal_(module.bias, 0, 0.1)
    return network.eval()


def export_torch(network: nn.Module, path: Path, *, size: int, dynamo: bool, batch: bool = True) -> Path:
    """As a user would; with `batch=False` the batch stays what the example has, 1."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    free: dict[str, Any] = {"external_data": False, "verbose": False} if dynamo else {}
    if batch:
        free |= {"dynamic_shapes": ({0: torch.export.Dim("n")},)} if dynamo else {"dynamic_axes": {"x": {0: "n"}}}
    example = torch.zeros(2 if batch else 1, 3, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (example,), path, dynamo=dynamo, input_names=["x"], output_names=["y"], **free)
    return path


def weights(*shape: int, seed: int = 0, scale: float = 0.5) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


def head(source: str, channels: int, *, to: str = "scores") -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """From (N, channels, H, W) to ten scores."""
    nodes = [
        helper.make_node("GlobalAveragePool", [source], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], [to], "fc", transB=1),
    ]
    return nodes, {"fc.weight": weights(10, channels, seed=1, scale=3), "fc.bias": weights(10, seed=2)}


def save_graph(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    arrays: dict[str, np.ndarray],
    *,
    image: Sequence[int | str | None] = ("n", 3, 16, 16),
    name: str = "x",
    outputs: Sequence[str] = ("scores",),
    output_sizes: int = 2,
    dtype: int = TensorProto.FLOAT,
    output_dtype: int | None = None,
    ir: int = 8,
    opset: int = 17,
    more_inputs: Sequence[onnx.ValueInfoProto] = (),
    **model: Any,
) -> Path:
    """Writes a graph made by hand; `arrays` are its weights."""
    graph = helper.make_graph(
        list(nodes),
        "made by hand",
        [helper.make_tensor_value_info(name, dtype, image), *more_inputs],
        [
            helper.make_tensor_value_info(
                output, output_dtype or dtype, [None] * (4 if output == "relu" else output_sizes)
            )
            for output in outputs
        ],
        [numpy_helper.from_array(array, key) for key, array in arrays.items()],
    )
    imports = [helper.make_opsetid("", opset), *model.pop("imports", [])]
    path.write_bytes(helper.make_model(graph, ir_version=ir, opset_imports=imports, **model).SerializeToString())
    return path


def small(
    path: Path,
    *,
    name: str = "x",
    end: Sequence[onnx.NodeProto] = (),
    to: str = "scores",
    more: dict[str, np.ndarray] | None = None,
    **fields: Any,
) -> Path:
    """A convolution, its ReLU and `head`, then `end` with `more` weights."""
    half = fields.get("dtype") == TensorProto.FLOAT16
    channels = next((size for size in fields.get("image", ())[1:2] if isinstance(size, int)), 3)
    nodes, arrays = head("relu", 6, to=to)
    conv = helper.make_node("Conv", [name, "w", "b"], ["conv"], "conv", pads=[1] * 4, strides=[2, 2])
    arrays |= {"w": weights(6, channels, 3, 3, seed=3), "b": weights(6, seed=4), **(more or {})}
    arrays = {key: array.astype(np.float16) if half else array for key, array in arrays.items()}
    whole = [conv, helper.make_node("Relu", ["conv"], ["relu"], "relu"), *nodes, *end]
    fields.setdefault("outputs", (end[-1].output[0] if end else to,))
    return save_graph(path, whole, arrays, name=name, **fields)
