"""model.onnx: a valid file with a free batch, whose inner values are the trained network's, under their own names."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from export.artifact.manifest import read_manifest
from export.engines.onnxruntime import OnnxEngine, OnnxFeatureExtractor
from export.engines.protocol import EngineError
from export.pipeline.export import export_checkpoint
from export.writers.onnx import write_onnx
from models.checkpoint.directory import Checkpoint, CheckpointConfig, load_checkpoint
from models.graph.node import Node
from models.graph.node_table import node_table
from models.images.decode import Pixels, preprocess_image, to_pil
from models.images.input_spec import InputSpec
from tests.conftest import Exported, digit_images, make_spec
from tests.export.writers.reduced_onnx import assert_described_without_paths


def batch(spec: InputSpec, count: int) -> Pixels:
    return np.stack([preprocess_image(to_pil(image), spec) for image in digit_images(spec.channels, count)])


def normalised(images: Pixels, spec: InputSpec) -> torch.Tensor:
    """Scaled to [0, 1], mean and deviation, channels first: written here once more, in numpy."""
    x = (images.astype(np.float64) / 255 - spec.mean) / np.array(spec.std)
    return torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32))


def dims(value: onnx.ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_the_graph_takes_images_and_gives_probabilities_and_logits(exported: Exported) -> None:
    model, manifest = onnx.load(exported.artifact / "model.onnx"), read_manifest(exported.artifact)
    onnx.checker.check_model(model, full_check=True)
    (image,), outputs = model.graph.input, model.graph.output
    assert (image.name, image.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    assert isinstance(dims(image)[0], str), "the batch is fixed"
    assert dims(image)[1:] == list(manifest.input.shape)
    assert [output.name for output in outputs] == ["probabilities", "logits"]
    assert {output.type.tensor_type.elem_type for output in outputs} == {onnx.TensorProto.FLOAT}
    assert all(dims(output) == [dims(image)[0], len(manifest.classes)] for output in outputs)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]


def test_inner_values_are_the_trained_networks(exported: Exported) -> None:
    manifest, checkpoint = read_manifest(exported.artifact), load_checkpoint(exported.checkpoint)
    for module in checkpoint.network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    images = batch(manifest.input, 3)
    names = [node.name for node in manifest.nodes]
    with torch.no_grad():
        extract = create_feature_extractor(checkpoint.network, return_nodes=names)
        wanted = extract(normalised(images, manifest.input))
    values = [node.value for node in manifest.nodes]
    taps = OnnxFeatureExtractor(exported.artifact / "model.onnx", ())
    _, found = taps.run(images, values)
    assert len(set(values)) == len(values) == len(wanted)
    for node, value in zip(manifest.nodes, found, strict=True):
        scale = max(1.0, float(wanted[node.name].abs().max()))
        np.testing.assert_allclose(value, wanted[node.name], rtol=0, atol=1e-4 * scale, err_msg=node.name)
        assert value.shape[1:] == node.shape


def test_normalisation_and_temperature_are_inside(exported: Exported) -> None:
    checkpoint, images = (
        load_checkpoint(exported.checkpoint),
        batch(load_checkpoint(exported.checkpoint).config.input, 5),
    )
    with torch.no_grad():
        logits = checkpoint.network(normalised(images, checkpoint.config.input))
    probabilities, found = OnnxEngine(exported.artifact / "model.onnx", device="cpu").run(images)
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-4)
    powers = np.exp(logits.double().numpy() / checkpoint.config.temperature)
    np.testing.assert_allclose(probabilities, powers / powers.sum(1, keepdims=True), rtol=0, atol=1e-5)


def test_onnx_runtime_folds_batch_norms_when_it_loads(exported: Exported, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    path = exported.artifact / "model.onnx"
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    stored = [node.op_type for node in onnx.load(path).graph.node].count("BatchNormalization")
    trained = [type(m) for m in load_checkpoint(exported.checkpoint).network.modules()].count(nn.BatchNorm2d)
    assert stored == trained
    folded = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert "BatchNormalization" not in folded and len(folded) > 5


def test_the_file_describes_itself(lenet_artifact: Path) -> None:
    about = {prop.key: prop.value for prop in onnx.load(lenet_artifact / "model.onnx").metadata_props}
    content = json.loads(about["convscope"])
    assert content["classes"] == [str(digit) for digit in range(10)]
    manifest = read_manifest(lenet_artifact)
    assert InputSpec.from_json({key: content[key] for key in ("input", "preprocess")}) == manifest.input
    assert (content["name"], content["version"], content["temperature"]) == ("lenet", 1, manifest.temperature)
    assert content["weights_sha256"] == manifest.files["weights.safetensors"].sha256
    assert_described_without_paths(lenet_artifact / "model.onnx", str(lenet_artifact.parents[2]))


def test_an_inner_value_that_is_not_there_is_named(lenet_artifact: Path) -> None:
    node = Node(name="conv7", op="Conv2d", parents=(), shape=(1,), value="conv7")
    taps = OnnxFeatureExtractor(lenet_artifact / "model.onnx", [node])
    with pytest.raises(EngineError, match=r"model.onnx has no inner value 'conv7'"):
        taps.run(batch(read_manifest(lenet_artifact).input, 1), ["conv1"])


class Awkward(nn.Module):
    """Node names that are the graph's own: `image`, `logits`, `probabilities`."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.probabilities, self.logits = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten()
        self.fc = nn.Linear(2 * 6 * 6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.logits(self.probabilities(self.image(x))))  # type: ignore[no-any-return]


def test_nodes_named_like_the_graphs_ends_keep_values_of_their_own(tmp_path: Path) -> None:
    config = CheckpointConfig(model="awkward", classes=("a", "b", "c", "d"), input=make_spec(8))
    checkpoint = Checkpoint(config, Awkward().eval())
    nodes = write_onnx(checkpoint, node_table(checkpoint.network, config.input), tmp_path / "model.onnx")
    assert [node.value for node in nodes] == ["image.inner", "probabilities.inner", "logits.inner", "logits"]
    images = batch(config.input, 2)
    _, (conv, flat, logits) = OnnxFeatureExtractor(tmp_path / "model.onnx", ()).run(
        images, ["image.inner", "logits.inner", "logits"]
    )
    with torch.no_grad():
        wanted = checkpoint.network.image(normalised(images, config.input))
        np.testing.assert_allclose(conv, wanted, atol=1e-5)
        np.testing.assert_allclose(flat, wanted.relu().flatten(1), atol=1e-5)
        np.testing.assert_allclose(logits, checkpoint.network.fc(wanted.relu().flatten(1)), atol=1e-5)


class Permuting(nn.Module):
    """Nodes called as the exporter calls what normalisation does: `permute`, `sub`, `div`."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x.permute(0, 2, 3, 1) - 0.5) / 0.25
        return self.fc(x.flatten(1))  # type: ignore[no-any-return]


def test_nodes_named_like_values_of_the_exporter_keep_their_names(tmp_path: Path) -> None:
    config = CheckpointConfig(model="permuting", classes=("a", "b", "c", "d"), input=make_spec(8))
    checkpoint = Checkpoint(config, Permuting().eval())
    nodes = write_onnx(checkpoint, node_table(checkpoint.network, config.input), tmp_path / "model.onnx")
    values = [node.value for node in nodes]
    assert values == ["permute", "sub", "truediv", "flatten", "logits"]
    images = batch(config.input, 2)
    _, found = OnnxFeatureExtractor(tmp_path / "model.onnx", ()).run(images, values)
    with torch.no_grad():
        x = normalised(images, config.input).permute(0, 2, 3, 1)
        for value, wanted in zip(found, [x, x - 0.5, (x - 0.5) / 0.25], strict=False):
            np.testing.assert_allclose(value, wanted, atol=1e-5)


class InPlace(nn.Module):
    """Overwrites values: a method, and a module whose input is also carried past it; its sizes are asserted."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.relu = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(inplace=True)
        self.fc = nn.Linear(2 * 6 * 6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1] in (1, 3)
        x = self.first(x).tanh_()
        y = self.relu(self.second(x))
        y += x
        skip = x = self.second(y)
        x = self.relu(x) * 0.5 + skip
        return self.fc(x.reshape(x.shape[0], -1))  # type: ignore[no-any-return]


def test_inner_values_of_a_network_that_works_in_place_are_those_computed(tmp_path: Path) -> None:
    config = CheckpointConfig(model="in-place", classes=("a", "b", "c", "d"), input=make_spec(8))
    network = InPlace().eval()
    nodes = write_onnx(Checkpoint(config, network), node_table(network, config.input), tmp_path / "model.onnx")
    images = batch(config.input, 3)
    x = normalised(images, config.input)
    with torch.no_grad():
        first = network.first(x)
        second = network.second(first.tanh())
        sum_ = second.relu() + first.tanh()
        again = network.second(sum_)
        logits = network.fc((1.5 * again.relu()).flatten(1))
        torch.testing.assert_close(logits, network(x))
    wanted = {
        "first": first,
        "tanh_": first.tanh(),
        "second": second,
        "relu": second.relu(),
        "add": sum_,
        "second_1": again,
        "relu_1": again.relu(),
        "add_1": 1.5 * again.relu(),
        "logits": logits,
    }
    assert set(wanted) <= {node.value for node in nodes}
    _, found = OnnxFeatureExtractor(tmp_path / "model.onnx", ()).run(images, list(wanted))
    for name, value in zip(wanted, found, strict=True):
        np.testing.assert_allclose(value, wanted[name], atol=1e-5, err_msg=name)


def test_exporting_twice_gives_the_same_values(lenet_checkpoint: Path, lenet_artifact: Path, tmp_path: Path) -> None:
    again = export_checkpoint(lenet_checkpoint, out=tmp_path, formats=["onnx"])
    first, second = (onnx.load(path / "model.onnx").graph for path in (lenet_artifact, again))
    assert [list(node.output) for node in first.node] == [list(node.output) for node in second.node]
    shutil.rmtree(again)
