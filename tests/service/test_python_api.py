"""`import convscope`: the server's answers and feature maps from a script, in this process."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import convscope
from models.errors import ConvscopeError
from models.images.decode import decode_image
from service.errors import UnknownLayer
from tests.in_process import client_for, digit, encoded


@pytest.fixture(scope="module")
def model(lenet_artifact: Path) -> convscope.Model:
    return convscope.load(lenet_artifact, device="cpu")


def test_answers_are_those_of_the_server(model: convscope.Model, lenet_artifact: Path) -> None:
    image = encoded(digit(3))
    served = client_for(lenet_artifact).post("/v1/classify?top_k=4", content=image).json()["results"][0]["predictions"]
    found = model.classify(image, top_k=4).predictions
    assert [(one.label, one.index) for one in found] == [(row["label"], row["index"]) for row in served]
    assert [one.probability for one in found] == pytest.approx([row["probability"] for row in served])


def test_every_kind_of_image_gives_the_same_answer(model: convscope.Model, tmp_path: Path) -> None:
    path = tmp_path / "three.png"
    path.write_bytes(encoded(digit(3)))
    pixels = digit(3)
    images = [path, str(path), path.read_bytes(), Image.open(path), pixels, pixels[..., np.newaxis]]
    results = model.classify(images)
    assert len({result.predictions for result in results}) == 1 and results[0].error is None
    assert model.classify(path) == results[0]


def test_one_bad_image_fails_alone_and_order_is_kept(model: convscope.Model, tmp_path: Path) -> None:
    good, many = encoded(digit(1)), 70  # more than one batch
    images = [good, b"no image", tmp_path / "absent.png", *[encoded(digit(index)) for index in range(many)]]
    results = model.classify(images)
    assert [result.error.code if result.error else "" for result in results[:3]] == [
        "",
        "image_unsupported",
        "file_unreadable",
    ]
    assert len(results) == many + 3 and not any(result.error for result in results[3:])
    for index, result in enumerate(results[3:]):
        assert result == model.classify(encoded(digit(index)))


@pytest.mark.parametrize(
    "array", [np.zeros((8, 8), np.float32), np.zeros((8, 8, 4), np.uint8), np.zeros((2, 8, 8, 1), np.uint8)]
)
def test_an_array_of_another_kind_is_refused(model: convscope.Model, array: np.ndarray) -> None:
    with pytest.raises(TypeError, match=r"the array is \w+ \(.*\); wanted uint8"):
        model.classify(array)


def test_top_k_is_at_most_the_number_class_namees_and_at_least_one(model: convscope.Model) -> None:
    assert len(model.classify(digit(), top_k=99).predictions) == 10
    with pytest.raises(ValueError, match="top_k is 0; it must be at least 1"):
        model.classify(digit(), top_k=0)


def test_feature_maps_are_those_of_the_exported_file(model: convscope.Model, lenet_artifact: Path) -> None:
    image = encoded(digit(5))
    maps = model.feature_maps(image, "conv1, fc*")
    assert list(maps) == [name for name in (n.name for n in model.manifest.nodes) if name == "conv1" or "fc" in name]
    graph = onnx.load(lenet_artifact / "model.onnx")
    value = next(node.value for node in model.manifest.nodes if node.name == "conv1")
    graph.graph.output.append(onnx.ValueInfoProto(name=value))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    batch = decode_image(image, model.manifest.input)[np.newaxis]
    np.testing.assert_allclose(maps["conv1"], session.run([value], {"image": batch})[0][0], rtol=0, atol=1e-6)


def test_a_layer_that_is_not_there_is_named(model: convscope.Model) -> None:
    with pytest.raises(UnknownLayer, match=r"no layer 'conv9'; near are conv2, conv1"):
        model.feature_maps(digit(), "conv9")


def test_a_unit_can_be_walked_back_to_the_image(model: convscope.Model) -> None:
    picture = encoded(digit())
    layer, index = "probabilities", (3,)
    while layer != "image":
        view = model.unit(picture, layer, index)
        assert abs(view.unit.difference or 0) < 1e-4 * max(1, view.unit.largest)
        (layer, *_), (terms, *_) = view.sources, view.unit.arithmetic.terms
        index = tuple(axis[len(axis) // 2] for axis in terms.source.axes)
    assert "<pre>" in view._repr_html_()
    assert str(model.unit(picture, "fc.0", 3)) == str(model.unit(picture, "fc.0", (3,)))
    with pytest.raises(convscope.ConvscopeError, match="0 to 5"):
        model.unit(picture, "conv1", (6, 0, 0))


def test_notebooks_show_bars_and_sheets_and_tables(model: convscope.Model) -> None:
    assert "<table>" in model.classify(digit())._repr_html_()
    escaped = convscope.Result(error=convscope.ImageFailure("x", "<script>"))
    assert "<script>" not in escaped._repr_html_()
    maps = model.feature_maps(digit(), "conv1")
    assert maps._repr_png_().startswith(b"\x89PNG") and "data:image/png;base64," in maps._repr_html_()
    assert "<th>receptive field</th>" in model.summary()._repr_html_()


def test_a_summary_lists_every_node_and_the_totals(model: convscope.Model) -> None:
    lines = str(model.summary()).splitlines()
    names = [line.split()[0] for line in lines[2:-1]]
    assert names == [node.name for node in model.manifest.nodes]
    parameters = sum(node.parameters for node in model.manifest.nodes)
    assert lines[-1].startswith(f"{parameters:,} parameters")


def test_artifacts_are_found_by_name_and_version(
    lenet_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "artifacts/lenet").mkdir(parents=True)
    (tmp_path / "artifacts/lenet/1").symlink_to(lenet_artifact)
    monkeypatch.chdir(tmp_path)
    for name in ("lenet", "lenet:1", "artifacts/lenet", "artifacts/lenet/1"):
        assert convscope.load(name).predictor.label == "lenet:1"
    for name in ("absent", "lenet:7", "artifacts/absent"):
        with pytest.raises(ConvscopeError, match="is not an artifact"):
            convscope.load(name)


@pytest.mark.usefixtures("without_pictures")
def test_a_network_is_trained_exported_and_evaluated_from_a_script(tmp_path: Path) -> None:
    run = convscope.train("lenet", "digits", out=tmp_path / "run", epochs=2)
    model = convscope.export(run, out=tmp_path / "artifacts", formats=["onnx"])
    assert set(model.manifest.files) == {"model.onnx", "weights.safetensors", "golden.npz"}
    accuracies = [convscope.evaluate(subject, "digits").accuracy for subject in (run, run.directory, model)]
    assert accuracies == pytest.approx([run.metrics["test"]["accuracy"]] * 3)
    with pytest.raises(ConvscopeError, match="a recipe has no 'epoch'"):
        convscope.train("lenet", "digits", out=tmp_path / "other", epoch=2)


def test_importing_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, convscope; heavy = {'torch', 'numpy', 'onnxruntime', 'httpx', 'cyclopts', 'bentoml', 'PIL'} "
        "& sys.modules.keys(); assert not heavy, heavy; assert 'load' in dir(convscope)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_it_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'convscope' has no attribute 'lod'"):
        convscope.lod  # noqa: B018  # that is what is tested


def test_kernels_are_the_weights_of_the_exported_file(model: convscope.Model, lenet_artifact: Path) -> None:
    graph = onnx.load(lenet_artifact / "model.onnx").graph
    stored = [onnx.numpy_helper.to_array(one) for one in graph.initializer]
    kernels = model.kernels("conv1")
    assert any(value.shape == kernels.weights.shape and (value == kernels.weights).all() for value in stored)
    assert kernels._repr_png_().startswith(b"\x89PNG")


def test_an_explanation_is_the_servers_and_draws_itself(model: convscope.Model, lenet_artifact: Path) -> None:
    picture = encoded(digit())
    view = model.explain(picture, method="gradcam", class_name=2, layer="conv2")
    client = client_for(lenet_artifact.parent.parent)
    query = "method=gradcam&class=2&layer=conv2"
    answer = client.post(f"/v1/models/lenet/explain?{query}", content=picture).json()
    np.testing.assert_allclose(view.values, answer["map"]["values"], atol=1e-5)
    with Image.open(io.BytesIO(view._repr_png_())) as drawn:
        assert drawn.size == (224, 224)
    assert "Grad-CAM of conv2 for 2" in repr(view)
    with pytest.raises(convscope.ConvscopeError, match="wanted one of cam"):
        model.explain(picture, method="magic")


def test_comparisons_are_the_servers(model: convscope.Model, lenet_artifact: Path) -> None:
    pictures = [encoded(digit(index)) for index in (0, 1)]
    client = client_for(lenet_artifact.parent.parent)
    files = [("image", (str(index), picture)) for index, picture in enumerate(pictures)]
    answer = client.post("/v1/models/lenet/compare", files=files).json()
    found = model.compare(*pictures)
    assert found.begins == answer["begins"]
    for ours, theirs in zip(found.layers, answer["layers"], strict=True):
        assert (ours.layer, ours.maximum) == (theirs["layer"], pytest.approx(theirs["maximum"], abs=1e-6))
    assert model.compare(pictures[0], model=model).begins == ""
    with pytest.raises(ConvscopeError, match="give two, or one and another model"):
        model.compare(pictures[0])


def test_references_and_normality_need_an_index(
    model: convscope.Model, indexed_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    indexed = convscope.load(indexed_artifact, device="cpu")
    found = indexed.references("conv1", 2)
    assert len(found.references) == 3 and found._repr_png_().startswith(b"\x89PNG")
    assert [one.layer for one in indexed.normality(digit(1700))] == [node.name for node in indexed.manifest.nodes]
    for ask in (lambda: model.references("conv1", 2), lambda: model.normality(digit(0))):
        with pytest.raises(ConvscopeError, match="has no reference images; convscope index"):
            ask()
