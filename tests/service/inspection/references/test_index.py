"""Reference indices beside the values that PyTorch computes in the trained network."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.feature_extraction import create_feature_extractor

from export.artifact.manifest import read_manifest
from export.predictor import Predictor
from export.verify.reference import rebuild
from models.errors import UserError
from models.images.decode import preprocess_image, to_pil
from service.errors import NoReferences, UnknownLayer, UnknownUnit
from service.inspection.feature_maps import inspect_image, select_nodes
from service.inspection.references.builder import ReferenceBuilder, Source
from service.inspection.references.index import find_index, image_normality, open_index
from tests.conftest import digit_images

COUNT, KEPT = 60, 4
LAYERS = ("conv1", "relu_1", "fc.0", "fc.2")
SOURCE = Source("digits", "test", "0" * 64, tuple(f"class/{number}.png" for number in range(COUNT)))


def images_for(artifact):
    spec = read_manifest(artifact).input
    return np.stack([preprocess_image(to_pil(image), spec) for image in digit_images(1, COUNT)])


def labels_of(images):
    return np.arange(len(images)) % 7


def build(artifact, images, batch=16, source=SOURCE, references=KEPT):
    with ReferenceBuilder(Predictor.open(artifact, device="cpu"), len(images), references=references) as builder:
        for start in range(0, len(images), batch):
            builder.add(images[start : start + batch], labels_of(images)[start : start + batch])
        return builder.write(source)


@pytest.fixture(scope="module")
def artifact(lenet_artifact, tmp_path_factory):
    copy = tmp_path_factory.mktemp("indexed") / "lenet" / "1"
    shutil.copytree(lenet_artifact, copy)
    build(copy, images_for(copy))
    return copy


@pytest.fixture(scope="module")
def model(artifact):
    return Predictor.open(artifact, device="cpu")


@pytest.fixture(scope="module")
def eager(artifact):
    """Values of layers for all images, (N, C, places), as PyTorch computes them."""
    manifest = read_manifest(artifact)
    extractor = create_feature_extractor(rebuild(artifact, manifest).network.eval(), list(LAYERS))
    pixels = images_for(artifact).astype(np.float32).transpose(0, 3, 1, 2) / 255
    normalised = (pixels - np.float32(manifest.input.mean)) / np.float32(manifest.input.std)
    with torch.no_grad():
        values = extractor(torch.from_numpy(normalised))
    return {name: value.flatten(2) if value.ndim > 2 else value[..., None] for name, value in values.items()}


@pytest.mark.parametrize("layer", LAYERS)
def test_the_references_of_a_channel_are_the_images_with_its_largest_values(model, eager, layer):
    largest, places = eager[layer].max(dim=2)
    for channel in range(largest.shape[1]):
        found = open_index(model).channel(layer, channel)
        wanted = torch.topk(largest[:, channel], KEPT)
        np.testing.assert_allclose([one.largest for one in found.references], wanted.values, atol=1e-4)
        for one in found.references:
            assert one.largest == pytest.approx(float(largest[one.image, channel]), abs=1e-4)
            assert (one.label, one.name) == (one.image % 7, f"class/{one.image}.png")
            if one.position is not None:
                at = one.position[0] * {"conv1": 28, "relu_1": 10}.get(layer, 1) + one.position[1]
                values, place = eager[layer][one.image, channel], places[one.image, channel]
                assert float(values[at]) == pytest.approx(float(values[place]), abs=1e-4)
        assert (found.references[0].position is None) == layer.startswith("fc")


@pytest.mark.parametrize("layer", LAYERS)
def test_the_normal_range_and_the_classes_are_those_of_all_images(model, eager, layer):
    means, largest = eager[layer].mean(dim=2).double(), eager[layer].amax(dim=2).double()
    for channel in range(means.shape[1]):
        found = open_index(model).channel(layer, channel)
        own = means[:, channel]
        np.testing.assert_allclose([found.mean, found.std], [own.mean(), own.std(correction=0)], atol=1e-4)
        np.testing.assert_allclose([found.low, found.high], np.quantile(own, [0.005, 0.995]), atol=1e-4)
        assert found.response == pytest.approx(float(largest[:, channel].mean()), abs=1e-4)
        by_class = [float(largest[label::7, channel].mean()) for label in range(7)]
        assert len(found.classes) == 5
        np.testing.assert_allclose(
            [response for _, _, response in found.classes], sorted(by_class, reverse=True)[:5], atol=1e-4
        )
        for index, label, response in found.classes:
            assert label == str(index) and response == pytest.approx(by_class[index], abs=1e-4)


def test_a_crop_is_the_image_where_the_channel_sees_it(model, artifact):
    images = images_for(artifact)
    for one in open_index(model).channel("conv1", 2).references:  # 5x5 with padding 2
        row, column = one.position
        assert (one.box.top, one.box.left, one.box.bottom, one.box.right) == (row - 2, column - 2, row + 3, column + 3)
        wanted = images[one.image, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3, 0]
        np.testing.assert_array_equal(one.crop, np.repeat(wanted[..., None], 3, axis=2))
    whole = open_index(model).channel("fc.2", 0).references[0]
    np.testing.assert_array_equal(whole.crop[..., 0], images[whole.image, ..., 0])
    assert whole.box is None


def test_the_size_of_batches_makes_no_difference(artifact, model, tmp_path):
    copy = tmp_path / "lenet" / "1"
    shutil.copytree(artifact, copy)
    build(copy, images_for(copy), batch=7)
    again = open_index(Predictor.open(copy, device="cpu"))
    for layer, channel in (("conv1", 0), ("relu_1", 9), ("fc.2", 3)):
        one, other = open_index(model).channel(layer, channel), again.channel(layer, channel)
        assert [row.image for row in one.references] == [row.image for row in other.references]
        assert one.mean == pytest.approx(other.mean, abs=1e-6)


def test_an_image_that_was_indexed_is_normal_and_noise_is_not(model, artifact):
    indexed = image_normality(model, images_for(artifact)[3])
    assert [one.layer for one in indexed] == [node.name for node in model.manifest.nodes if node.value]
    assert sum(one.unusual for one in indexed) <= 2
    noise = np.random.default_rng(0).integers(0, 256, (28, 28, 1)).astype(np.uint8)
    first = image_normality(model, noise)[0]
    assert first.layer == "conv1" and first.unusual and first.nearer == 1


def test_feature_maps_are_measured_as_the_index_was(model, artifact):
    pixels = images_for(artifact)[3]
    maps = inspect_image(model, pixels, select_nodes(model, ["conv2", "fc.0"]))
    found = open_index(model).normality(maps.layers)
    wanted = {one.layer: one.distance for one in image_normality(model, pixels)}
    assert [one.distance for one in found] == pytest.approx([wanted["conv2"], wanted["fc.0"]], rel=1e-5)


def test_fewer_images_than_references_are_all_there_are(lenet_artifact, tmp_path):
    copy = tmp_path / "lenet" / "1"
    shutil.copytree(lenet_artifact, copy)
    build(copy, images_for(copy)[:3], references=9)
    found = open_index(Predictor.open(copy, device="cpu")).channel("conv1", 0)
    assert sorted(one.image for one in found.references) == [0, 1, 2]
    assert [label for _, label, _ in found.classes] and len(found.classes) == 3


def test_an_index_is_replaced_and_the_open_one_stays_whole(lenet_artifact, tmp_path):
    copy = tmp_path / "lenet" / "1"
    shutil.copytree(lenet_artifact, copy)
    build(copy, images_for(copy))
    model = Predictor.open(copy, device="cpu")
    before = open_index(model)
    old = before.channel("conv1", 0)
    build(copy, images_for(copy)[:5])
    again = before.channel("conv1", 0)
    assert [one.image for one in again.references] == [one.image for one in old.references]
    np.testing.assert_array_equal(again.references[0].crop, old.references[0].crop)
    assert open_index(model).images == 5
    assert [path.name for path in copy.iterdir() if path.name.startswith(".references")] == []


def test_without_an_index_the_command_is_named(lenet_artifact):
    model = Predictor.open(lenet_artifact, device="cpu")
    with pytest.raises(NoReferences, match="lenet:1 has no reference images; convscope index ARTIFACT --data"):
        open_index(model)
    assert find_index(model) is None and image_normality(model, np.zeros((28, 28, 1), np.uint8)) == []


def damage_nothing_left(folder):
    (folder / "channels.npy").unlink()


def damage_cut(folder):
    content = (folder / "channels.npy").read_bytes()
    (folder / "channels.npy").write_bytes(content[: len(content) // 2])


def damage_pickle(folder):
    np.save(folder / "pictures.npy", np.array([{}], object), allow_pickle=True)


def damage_json(folder):
    (folder / "index.json").write_text("{}")


def damage_other_files(folder):
    content = json.loads((folder / "index.json").read_text())
    content["layers"].pop()
    (folder / "index.json").write_text(json.dumps(content))


@pytest.mark.parametrize("damage", [damage_nothing_left, damage_cut, damage_pickle, damage_json, damage_other_files])
def test_a_damaged_index_is_refused(artifact, tmp_path, damage):
    copy = tmp_path / "lenet" / "1"
    shutil.copytree(artifact, copy)
    damage(copy / "references")
    with pytest.raises(NoReferences, match="references is damaged"):
        open_index(Predictor.open(copy, device="cpu"))


def test_a_damaged_picture_is_refused(artifact, tmp_path):
    copy = tmp_path / "lenet" / "1"
    shutil.copytree(artifact, copy)
    size = (copy / "references" / "pictures.bin").stat().st_size
    (copy / "references" / "pictures.bin").write_bytes(bytes(size))
    with pytest.raises(NoReferences, match=r"pictures\.bin is damaged"):
        open_index(Predictor.open(copy, device="cpu")).channel("conv1", 0)


def test_the_index_of_another_network_is_refused(artifact, tmp_path):
    copy = tmp_path / "lenet" / "1"
    shutil.copytree(artifact, copy)
    path = copy / "references" / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "onnx_sha256": "1" * 64}))
    with pytest.raises(NoReferences, match="was made for another network, lenet:1"):
        open_index(Predictor.open(copy, device="cpu"))


def test_no_such_layer_or_channel(model):
    with pytest.raises(UnknownLayer, match="lenet has no layer 'conv9' with references"):
        open_index(model).channel("conv9", 0)
    with pytest.raises(UnknownUnit, match="conv1 has no channel 6; its channels are 0 to 5"):
        open_index(model).channel("conv1", 6)


def test_values_that_are_not_finite_are_refused(model, monkeypatch):
    run = model.extractor.run

    def spoilt(images, values):
        probabilities, found = run(images, values)
        found[0][2] = np.inf
        return probabilities, found

    monkeypatch.setattr(model.extractor, "run", spoilt)
    wanted = pytest.raises(UserError, match="conv1 has values that are not finite for image 2")
    with ReferenceBuilder(model, 4) as builder, wanted:
        builder.add(images_for(model.directory)[:4], labels_of(range(4)))


def test_a_notebook_draws_the_crops(model):
    found = open_index(model).channel("conv1", 0)
    with Image.open(io.BytesIO(found._repr_png_())) as picture:
        assert picture.width > KEPT * 100
