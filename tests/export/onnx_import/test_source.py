"""Files from elsewhere that cannot be wrapped are refused in one line that says what was found."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from export.onnx_import.importer import import_model
from export.onnx_import.input_spec import choose_mode, choose_size, make_spec
from export.onnx_import.source import OnnxImportError, read_onnx
from export.verify.parity import ParityError
from tests.export.onnx_import.onnx_models import CLASSES, export_torch, save_graph, small, weights

SPEC = make_spec("RGB", (16, 16), mean=(0.5,), std=(0.5,))


def refuse(path: Path, says: str, *, classes=CLASSES, error: type[ValueError] = OnnxImportError, **fields) -> None:
    out = path.parent / "artifacts"
    with pytest.raises(error, match=says) as caught:
        import_model(read_onnx(path, **fields), classes=classes, spec=SPEC, out=out)
    assert "\n" not in str(caught.value)
    assert not list(out.rglob("*"))


def made(op: str, inputs: list[str], outputs: list[str], **attributes) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, f"their {op}", **attributes)


def info(name: str, *sizes, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, sizes)


REFUSED = {
    "four channels": ({"image": ("n", 4, 16, 16)}, r"takes x float \[n, 4, 16, 16\]; wanted .* C being 1 or 3"),
    "another input": (
        {"end": [made("Add", ["scores", "shift"], ["moved"])], "more_inputs": [info("shift", "n", 10)]},
        r"has 2 inputs \(x float \[n, 3, 16, 16\], shift float \[n, 10\]\)",
    ),
    "several outputs": ({"outputs": ("scores", "relu")}, r"has 2 outputs \(scores, relu\); name one with --output"),
    "hard sigmoid": ({"end": [made("HardSigmoid", ["scores"], ["p"])]}, "'p' comes out of HardSigmoid; wanted logits"),
    "softmax over the batch": (
        {"end": [made("Softmax", ["scores"], ["p"], axis=0)]},
        "its softmax is over axis 0; wanted 1, the classes",
    ),
    "softmax by hand": (
        {
            "end": [
                made("Exp", ["scores"], ["powers"]),
                made("ReduceSum", ["powers", "axes"], ["sum"]),
                made("Div", ["powers", "sum"], ["p"]),
            ],
            "more": {"axes": np.array([1])},
        },
        "'p' sums to 1 for every image, .* does not come out of a Softmax",
    ),
    "no score a class": (
        {
            "end": [made("Reshape", ["scores", "axes"], ["deep"])],
            "more": {"axes": np.array([-1, 5, 2])},
            "output_sizes": 3,
        },
        r"'deep' of one image is \(5, 2\); wanted a score a class",
    ),
    "not finite": ({"end": [made("Log", ["flat"], ["logs"])]}, "'logs' of such images is not finite"),
    "an operation nobody has": (
        {"end": [made("Rare", ["scores"], ["p"], domain="rare")], "imports": [helper.make_opsetid("rare", 1)]},
        "ONNX Runtime cannot open the model: .*Rare",
    ),
    "an old opset": ({"opset": 6}, "is of opset 6; 7 is the oldest that can be wrapped"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_graph_that_does_not_fit_is_refused(case: str, tmp_path: Path) -> None:
    fields, says = REFUSED[case]
    classes = CLASSES[:6] if case == "not finite" else CLASSES
    refuse(small(tmp_path / "net.onnx", **fields), says, classes=classes)


@pytest.mark.parametrize(
    ("image", "dtype", "says"),
    [
        (("n", 48), TensorProto.FLOAT, r"takes x float \[n, 48\]; wanted float or uint8 images \[N, C, H, W\]"),
        (("n", 3, 16, 16), TensorProto.INT8, r"takes x int8 \[n, 3, 16, 16\]; wanted float or uint8 images"),
        (
            ("n", 3, 16, 16),
            TensorProto.UINT8,
            "takes uint8 images, which it normalises itself; give --mean 0 --std 1/255",
        ),
    ],
)
def test_an_input_that_is_no_float_image_is_refused(image, dtype, says: str, tmp_path: Path) -> None:
    nodes = [made("Cast", ["x"], ["floats"], to=TensorProto.FLOAT), made("Flatten", ["floats"], ["scores"])]
    path = save_graph(tmp_path / "net.onnx", nodes, {}, image=image, dtype=dtype, output_dtype=TensorProto.FLOAT)
    refuse(path, says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not an ONNX model: it has no operations"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is not an ONNX file"),
        (b"not a model", "is not an ONNX"),
    ],
)
def test_a_file_that_is_no_model_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    refuse(path, says)


@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(part: float, tmp_path: Path) -> None:
    path = small(tmp_path / "net.onnx")
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    refuse(path, "is not an ONNX file|is not a sound ONNX model|is not an ONNX model")


def test_an_unsound_graph_is_refused(tmp_path: Path) -> None:
    path = small(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.node[1].input[0] = "nothing"
    path.write_bytes(model.SerializeToString())
    refuse(path, "is not a sound ONNX model: .*nothing")


@pytest.mark.parametrize("place", ["weights", "constant", "branch"])
def test_weights_in_a_file_that_is_no_ordinary_one_are_refused_and_not_read(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "weights.bin"
    os.mkfifo(other)  # whoever opens it to read waits for ever
    path = small(tmp_path / "net.onnx", end=[made("Constant", [], ["c"], value=numpy_helper.from_array(weights(10)))])
    model = onnx.load(path)
    model.graph.node.append(made("Add", ["scores", "c"], ["moved"]))
    model.graph.output[0].name = "moved"
    if place == "branch":
        inner = helper.make_graph([model.graph.node[-2]], "branch", [], [info("c", 10)])
        yes = numpy_helper.from_array(np.array(True), "yes")
        model.graph.initializer.append(yes)
        model.graph.node[-2].CopyFrom(made("If", ["yes"], ["c"], then_branch=inner, else_branch=inner))
        tensor = model.graph.node[-2].attribute[0].g.node[0].attribute[0].t
    else:
        tensor = model.graph.initializer[0] if place == "weights" else model.graph.node[-2].attribute[0].t
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    path.write_bytes(model.SerializeToString())
    refuse(path, "weights lie in 'weights.bin', which is not an ordinary file")


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "a/../../secret.bin", "", "..\\secret.bin"])
def test_weights_outside_the_models_folder_are_refused_and_not_read(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    os.mkfifo(tmp_path / "secret.bin")
    refuse(with_external(small(folder / "net.onnx"), location), "only files beside the model are read")


def test_a_link_that_leaves_the_models_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(1000))
    (folder / "weights.bin").symlink_to(tmp_path / "secret.bin")
    refuse(with_external(small(folder / "net.onnx"), "weights.bin"), "a link that leaves the model's folder")


@pytest.mark.parametrize(
    ("content", "entries", "says"),
    [
        (None, {}, "'weights.bin', which is not beside the model; copy it to "),
        (
            bytes(10),
            {"offset": "0", "length": "240"},
            r"should be bytes 0 to 240 of weights.bin, which has 10: the file",
        ),
        (bytes(10), {"offset": "-4", "length": "4"}, "should be bytes -4 to 0 of weights.bin"),
        (bytes(10), {"offset": "x"}, "is not a number"),
    ],
)
def test_external_weights_that_do_not_fit_are_refused(content, entries: dict, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "weights.bin").write_bytes(content)
    refuse(with_external(small(tmp_path / "net.onnx"), "weights.bin", **entries), says)


def with_external(path: Path, location: str, **entries: str) -> Path:
    """Says in a file that its first weights lie elsewhere."""
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
def test_a_network_that_mixes_the_images_of_a_batch_is_refused(dynamo: bool, tmp_path: Path) -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(48, 10)

        def forward(self, x):
            return self.fc(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1) - x.mean())

    path = export_torch(Mixing(), tmp_path / "net.onnx", size=16, dynamo=dynamo)
    refuse(path, "image .* differs|another class", error=ParityError)


def test_an_unknown_output_is_refused(tmp_path: Path) -> None:
    refuse(small(tmp_path / "net.onnx"), "has no output 'relu'; it has scores", output="relu")


def test_another_number_of_names_than_scores_is_refused(tmp_path: Path) -> None:
    refuse(small(tmp_path / "net.onnx"), "gives 10 scores, but --classes has 9 names", classes=CLASSES[:9])


@pytest.mark.parametrize(
    ("image", "size", "says"),
    [
        (("n", 3, None, None), None, "takes images of any size; give --input"),
        (("n", 3, 16, 16), 32, "takes 16x16 images, not 32x32"),
        (("n", 3, 16, None), (32, 32), r"takes 16x\? images, not 32x32"),
    ],
)
def test_a_size_that_is_not_the_files_is_refused(image, size, says: str, tmp_path: Path) -> None:
    file = read_onnx(small(tmp_path / "net.onnx", image=image))
    with pytest.raises(OnnxImportError, match=says):
        choose_size(file, size)


@pytest.mark.parametrize(
    ("channels", "mode", "says"),
    [(3, "L", "takes 3 channels, which is --mode RGB, not L"), (None, None, "channels open; give --mode RGB or")],
)
def test_a_mode_that_is_not_the_files_is_refused(channels, mode, says: str, tmp_path: Path) -> None:
    file = read_onnx(small(tmp_path / "net.onnx", image=("n", channels, 16, 16)))
    with pytest.raises(OnnxImportError, match=says):
        choose_mode(file, mode)
