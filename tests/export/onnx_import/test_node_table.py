"""The node table of a classifier from elsewhere: against PyTorch's counts, known figures, and images that are changed
one pixel at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.feature_extraction import create_feature_extractor

from export.engines.onnxruntime import OnnxFeatureExtractor
from export.onnx_import.graph import to_proto, wrap
from export.onnx_import.input_spec import make_spec
from export.onnx_import.node_table import onnx_node_table
from export.onnx_import.source import read_onnx
from models.graph.node import Node
from models.graph.node_table import node_table
from models.networks.registry import NETWORKS, build_network
from tests.export.onnx_import.onnx_models import export_torch, head, save_graph, small, torchvision_model, weights


def table_of(path: Path, size: int = 16) -> tuple[dict[str, Node], OnnxFeatureExtractor]:
    """By name; and the wrapped file, whose images are normalised by nothing but a division by 255."""
    spec = make_spec("RGB", (size, size), mean=(0.0,), std=(1.0,))
    graph = wrap(read_onnx(path), spec)
    wrapped = path.with_name("wrapped.onnx")
    wrapped.write_bytes(to_proto(graph, {}).SerializeToString())
    rows = onnx_node_table(graph, wrapped, spec)
    assert len({row.name for row in rows}) == len(rows)
    return {row.name: row for row in rows}, OnnxFeatureExtractor(wrapped, rows)


def node(op: str, inputs: list[str], output: str, name: str = "", **attributes):
    return helper.make_node(op, inputs, [output], name or output, **attributes)


@pytest.fixture(scope="module", params=[True, False], ids=["dynamo", "torchscript"])
def resnet18(request, tmp_path_factory):
    network = torchvision_model("resnet18")
    path = export_torch(network, tmp_path_factory.mktemp("net") / "net.onnx", size=64, dynamo=request.param)
    return (network, *table_of(path, 64))


def test_layers_are_called_as_their_modules(resnet18) -> None:
    _, rows, _ = resnet18
    assert {"relu", "maxpool", "layer1.0.relu", "layer1.0.Add", "layer1.0.relu_1", "avgpool", "fc"} <= rows.keys()
    assert set(rows["layer3.0.Add"].parents) in (
        {"layer3.0.bn2", "layer3.0.downsample.1"},
        {"layer3.0.conv2", "layer3.0.downsample.0"},
    )
    assert list(rows)[-1] == "fc"


def test_receptive_fields_are_the_known_ones(resnet18) -> None:
    _, rows, _ = resnet18
    names = ["maxpool", *(f"layer{index}.1.relu_1" for index in range(1, 5))]
    assert [rows[name].receptive_field[0] for name in names] == [11, 43, 99, 211, 435]
    assert [rows[name].jump for name in names] == [(4, 4), (4, 4), (8, 8), (16, 16), (32, 32)]
    assert rows["avgpool"].receptive_field is rows["fc"].receptive_field is None


WINDOW = ("kernel", "stride", "padding", "dilation", "receptive_field", "jump", "start")


@pytest.mark.parametrize(
    ("name", "dynamo"),
    [
        *((name, False) for name in ("lenet", "mobilenet_small", "squeezenet1_1", "resnet20")),
        *(("skip_cnn", dynamo) for dynamo in (False, True)),
        pytest.param("vgg11", False, marks=pytest.mark.acceptance),
        pytest.param("resnet20", True, marks=pytest.mark.acceptance),
    ],
)
def test_windows_and_receptive_fields_are_those_of_pytorchs_table(name: str, dynamo: bool, tmp_path: Path) -> None:
    size = NETWORKS[name].sizes[0] if name in NETWORKS else 64
    network = build_network(name, channels=3, height=size, width=size, classes=10).eval()
    table = node_table(network, make_spec("RGB", (size, size), mean=(0.0,), std=(1.0,)))
    rows, _ = table_of(export_torch(network, tmp_path / "net.onnx", size=size, dynamo=dynamo), size)
    pytorchs, imported = (
        [tuple(getattr(row, key) for key in WINDOW) for row in found if row.kernel and row.op != "Pad"]
        for found in (table, rows.values())
    )
    assert imported == pytorchs


def test_multiplications_and_parameters_are_pytorchs(resnet18) -> None:
    network, rows, _ = resnet18
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 64, 64))
    assert sum(row.macs for row in rows.values()) == counter.get_total_flops() // 2
    whole = sum(parameter.numel() for parameter in network.parameters())
    norms = sum(m.weight.numel() for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert sum(row.parameters for row in rows.values()) == whole - norms  # scale and bias became one bias


def test_values_are_those_of_the_layers(resnet18) -> None:
    network, rows, taps = resnet18
    names = {
        "maxpool": "maxpool",
        "layer1.0.relu_1": "layer1.0.relu_1",
        "layer4.1.relu_1": "layer4.1.relu_1",
        "fc": "fc",
    }
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    _, values = taps.run(pixels, [rows[name].value for name in names.values()])
    extractor = create_feature_extractor(network, list(names)).eval()
    with torch.no_grad():
        wanted = extractor(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    for (theirs, ours), value in zip(names.items(), values, strict=True):
        assert value.shape[1:] == rows[ours].shape
        np.testing.assert_allclose(value, wanted[theirs], atol=1e-4 * float(wanted[theirs].abs().max()))


POSITIONAL = {
    "convolution": [node("Conv", ["x", "w"], "y", pads=[1, 1, 1, 1], strides=[2, 1])],
    "dilated": [node("Conv", ["x", "w"], "y", dilations=[2, 3], pads=[2, 3, 2, 3])],
    "same upper": [node("Conv", ["x", "w"], "y", auto_pad="SAME_UPPER", strides=[2, 2])],
    "same lower": [node("AveragePool", ["x"], "y", auto_pad="SAME_LOWER", kernel_shape=[2, 2], strides=[1, 1])],
    "valid": [node("Conv", ["x", "w"], "y", auto_pad="VALID")],
    "padding apart": [node("Pad", ["x", "pads"], "p"), node("Conv", ["p", "w"], "y", strides=[2, 2])],
    "two": [node("Conv", ["x", "w"], "a", strides=[2, 2]), node("AveragePool", ["a"], "y", kernel_shape=[2, 3])],
    "branches": [
        node("Conv", ["x", "w"], "a", pads=[1] * 4),
        node("AveragePool", ["x"], "b", kernel_shape=[5, 5], pads=[2] * 4),
        node("Concat", ["a", "b"], "y", axis=1),
    ],
    "sum": [node("Conv", ["x", "w"], "a", pads=[1] * 4), node("Add", ["a", "x"], "y")],
    "stepped": [
        node("Conv", ["x", "w"], "a", pads=[1] * 4),
        node("Slice", ["a", "from", "to", "axes", "by"], "y"),
    ],
    "branches that begin apart": [
        node("Conv", ["x", "w"], "a", pads=[1] * 4, strides=[2, 2]),
        node("AveragePool", ["x"], "b", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
        node("Add", ["a", "b"], "y"),
    ],
    "channels last": [
        node("Conv", ["x", "w"], "a"),
        node("Transpose", ["a"], "b", perm=[0, 2, 3, 1]),
        node("MatMul", ["b", "square"], "c"),
        node("Transpose", ["c"], "y", perm=[0, 3, 1, 2]),
    ],
}


@pytest.mark.parametrize("case", POSITIONAL)
def test_a_receptive_field_is_what_changes_a_position(case: str, tmp_path: Path) -> None:
    channels = 6 if case == "branches" else 3
    nodes, arrays = head("y", channels)
    arrays |= {
        "w": np.abs(weights(3, 3, 3, 3)),
        "square": np.abs(weights(3, 3)),
        "pads": np.array([0, 0, 2, 1, 0, 0, 2, 1]),
        "from": np.array([1, 2]),
        "to": np.array([16, 16]),
        "axes": np.array([3, -2]),
        "by": np.array([2, 1]),
    }
    rows, taps = table_of(save_graph(tmp_path / "net.onnx", [*POSITIONAL[case], *nodes], arrays))
    row = rows["y"]
    pixels = np.full((257, 16, 16, 3), 100, np.uint8)
    pixels[np.arange(256), np.repeat(np.arange(16), 16), np.tile(np.arange(16), 16)] = 200
    (found,) = taps.run(pixels, [row.value])[1]
    centre = tuple(size // 2 for size in row.shape[1:])
    seen = np.abs(found[:256, :, *centre] - found[256, :, *centre]).max(axis=1).reshape(16, 16) > 1e-6
    lines = [np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0)]
    assert row.receptive_field == tuple(int(line[-1] - line[0]) + 1 for line in lines)
    after = tuple(size // 2 + 1 for size in row.shape[1:])
    moved = np.abs(found[:256, :, *after] - found[256, :, *after]).max(axis=1).reshape(16, 16) > 1e-6
    assert row.jump == tuple(
        int(np.flatnonzero(moved.any(axis=axis))[0] - line[0]) for axis, line in zip((1, 0), lines, strict=True)
    )
    first = np.array(row.start) + np.array(centre) * row.jump
    assert [line[0] for line in lines] == list(first)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("GlobalAveragePool", ["x"], "y")],
        [node("Resize", ["x", "", "scales"], "y")],
        [node("ReduceMean", ["x"], "m", axes=[2, 3]), node("Mul", ["x", "m"], "y")],
        [
            node("Conv", ["x", "w"], "a", strides=[2, 2]),
            node("Transpose", ["a"], "b", perm=[0, 1, 3, 2]),
            node("Add", ["a", "b"], "y"),
        ],
    ],
    ids=["global pool", "resize", "gate", "rows and columns exchanged"],
)
def test_a_receptive_field_that_cannot_be_told_is_left_out(nodes, tmp_path: Path) -> None:
    last, arrays = head("y", 3)
    arrays |= {"w": weights(3, 3, 3, 3), "scales": np.array([1, 1, 2, 2], np.float32)}
    rows, _ = table_of(save_graph(tmp_path / "net.onnx", [*nodes, *last], arrays, opset=13))
    assert rows["y"].receptive_field is rows["y"].jump is None
    assert sum(row.parameters for row in rows.values()) == 40 + 81 * ("a" in rows)  # scales are none


def test_what_does_not_depend_on_the_image_has_no_row(tmp_path: Path) -> None:
    constant = numpy_helper.from_array(np.array([-1, 3], np.int64))
    nodes = [
        node("Shape", ["x"], "shape"),
        node("Cast", ["shape"], "sizes", to=TensorProto.FLOAT),  # real numbers, yet the same for every image
        helper.make_node("Constant", [], ["rest"], value=constant),
        node("Transpose", ["raw"], "w", perm=[1, 0, 2, 3]),
        node("Conv", ["x", "w"], "a"),
        node("ReduceSum", ["sizes"], "sum", keepdims=0),
        node("Div", ["a", "sum"], "y"),
        node("GlobalAveragePool", ["y"], "pooled"),
        node("Reshape", ["pooled", "rest"], "flat"),
        node("Gemm", ["flat", "fc.weight"], "scores", transB=1),
    ]
    arrays = {"raw": weights(3, 3, 3, 3), "fc.weight": weights(10, 3)}
    rows, _ = table_of(save_graph(tmp_path / "net.onnx", nodes, arrays))
    assert list(rows) == ["a", "y", "pooled", "flat", "scores"]
    assert [row.parents for row in rows.values()] == [("input",), ("a",), ("y",), ("pooled",), ("flat",)]
    assert [row.parameters for row in rows.values()] == [81, 0, 0, 0, 30]
    assert (rows["a"].macs, rows["scores"].macs) == (14 * 14 * 81, 30)
    assert rows["y"].receptive_field == (3, 3)


def test_what_mixes_the_images_of_a_batch_has_no_row(tmp_path: Path) -> None:
    nodes, arrays = head("y", 3)
    mixed = [node("ReduceMean", ["x"], "mean", axes=[0]), node("Sub", ["x", "mean"], "y")]
    rows, _ = table_of(save_graph(tmp_path / "net.onnx", [*mixed, *nodes], arrays))
    assert next(iter(rows)) == "y" and rows["y"].parents == ("input",)


def test_weights_that_are_used_twice_count_once(tmp_path: Path) -> None:
    nodes, arrays = head("b", 3)
    twice = [node("Conv", ["x", "w"], "a"), node("Conv", ["a", "w"], "b")]
    rows, _ = table_of(save_graph(tmp_path / "net.onnx", [*twice, *nodes], {**arrays, "w": weights(3, 3, 3, 3)}))
    assert (rows["a"].parameters, rows["b"].parameters) == (81, 0)


def test_a_batch_norms_statistics_are_no_parameters(tmp_path: Path) -> None:
    nodes, arrays = head("y", 3)
    arrays |= {"w": weights(3, 3, 1, 1), **{key: np.ones(3, np.float32) for key in ("scale", "bias", "mean", "var")}}
    norm = [node("Conv", ["x", "w"], "a"), node("BatchNormalization", ["a", "scale", "bias", "mean", "var"], "y")]
    rows, _ = table_of(save_graph(tmp_path / "net.onnx", [*norm, *nodes], arrays))
    assert (rows["a"].parameters, rows["y"].parameters) == (9, 6)


def test_integers_between_have_no_row_and_their_parameters_go_on(tmp_path: Path) -> None:
    nodes, arrays = head("real", 3)
    integers = [
        node("QuantizeLinear", ["x", "s", "z"], "q"),
        node("ConvInteger", ["q", "w", "z"], "sums"),
        node("Cast", ["sums"], "real", to=TensorProto.FLOAT),
    ]
    arrays |= {"s": np.array(0.01, np.float32), "z": np.array(0, np.uint8), "w": np.ones((3, 3, 3, 3), np.uint8)}
    rows, _ = table_of(save_graph(tmp_path / "net.onnx", [*integers, *nodes], arrays))
    assert rows["real"].parents == ("input",)
    assert rows["real"].parameters == 81


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["StatefulPartitionedCall/net/conv1/Conv2D"], ["StatefulPartitionedCall.net.conv1"]),
        (["/features/features.0/features.0.0/Conv", "/features/features.0/Add"], ["features.0.0", "features.0.Add"]),
        (["conv, first [1]:0", "conv first 1 0"], ["conv_first_1_0", "conv_first_1_0_1"]),
        (["input", "probabilities", "/input"], ["input_1", "probabilities_1", "input_2"]),
        (["", ""], ["v0", "v1"]),
    ],
)
def test_names_are_readable_and_unique(given: list[str], wanted: list[str], tmp_path: Path) -> None:
    values = ["x", *(f"v{index}" for index in range(len(given)))]
    chain = [
        helper.make_node("Relu", [before], [after], name)
        for before, after, name in zip(values, values[1:], given, strict=False)
    ]
    nodes, arrays = head(values[-1], 3)
    rows, _ = table_of(save_graph(tmp_path / "net.onnx", [*chain, *nodes], arrays))
    assert list(rows)[: len(given)] == wanted


def test_the_softmax_is_no_row(tmp_path: Path) -> None:
    rows, _ = table_of(small(tmp_path / "net.onnx", end=[node("Softmax", ["scores"], "p", axis=1)]))
    assert list(rows) == ["conv", "relu", "pool", "flatten", "fc"]
    assert rows["fc"].shape == (10,)
