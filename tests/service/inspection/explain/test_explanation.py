"""Explanations of every kind of network: they work, or are refused with the reason."""

import importlib.util
import shutil

import numpy as np
import pytest
import torch

from export.predictor import Predictor
from models.checkpoint.directory import load_weights
from service.errors import NotInspectable, UnknownLayer, UnknownParameter
from service.inspection.explain import gradients
from service.inspection.explain.explanation import Explainer, Explanation, Refused, class_index
from service.inspection.explain.methods import METHODS, find_method
from service.inspection.explain.watch import Stopped, Watch
from service.inspection.layers import find_layers
from tests.service.inspection.explain.networks import NETWORKS

SPATIAL = [method.name for method in METHODS.values() if method.layer]
KINDS = {  # network, size, channels, classes, options: with its default layer
    "grey": (("lenet", 28, 1), {}, "pool_1"),
    "short": (("lenet", 32, 3), {"hidden": (84,)}, "pool_1"),
    "sigmoid": (("lenet1998", 28, 1), {}, "s4"),
    "two classes": (("stripes_conv2_relu", 8, 1), {"classes": 2}, "relu_1"),
    "spatial last layer, a ReLU object used twice": ((NETWORKS + "AllConvolutional", 12, 3), {}, "conv3"),
    "blocks with ReLU objects used twice": ((NETWORKS + "SmallResNet", 16, 3), {}, "layer3.relu_1"),
    "1x1 maps": ((NETWORKS + "SmallResNet", 8, 3), {}, "layer2.relu_1"),
    "squeeze and excitation": (("se_resnet20", 16, 3), {}, "layer3.2.relu_1"),
    "concatenation": (("skip_cnn", 16, 1), {}, "stage3.fuse.2"),
    "vit": ((NETWORKS + "small_vit", 32, 3), {}, None),
    "swin": ((NETWORKS + "small_swin", 32, 3), {}, "permute"),
    "no layer": (("mlp", 8, 1), {}, None),
}


@pytest.fixture(params=KINDS, ids=str)
def kind(request, opened, pixels_of):
    network, changes, layer = KINDS[request.param]
    model = opened(*network, **changes)
    return Explainer(model, pixels_of(model)), model, layer


@pytest.fixture
def lenet(opened, pixels_of):
    model = opened("lenet", 28, 1)
    return model, pixels_of(model)


def test_every_method_works_or_is_refused_with_the_reason(kind):
    explainer, model, default = kind
    found = explainer.explain_all(explainer.predicted)
    assert [one.method.name for one in found] == list(METHODS)
    layered = bool(find_layers(model.manifest.nodes, model.manifest.input))
    for one in found:
        if isinstance(one, Refused):
            assert one.method.name == "cam" or (one.method.layer and not layered)
            assert (
                "CAM needs global average pooling" in one.reason or "more than one place; its layers are" in one.reason
            )
            continue
        assert one.values.shape == explainer.served.size
        assert one.values.dtype == np.float32
        assert np.isfinite(one.values).all()
        assert one.method.layer == (one.layer is not None)
        if one.layer and default:
            assert one.layer.name == default
        if not one.empty:
            assert 0 <= one.trust.deletion_area <= 1
            assert 0 <= one.trust.insertion_area <= 1
            assert 0 <= one.trust.drop <= 1


def test_cam_takes_every_head_of_average_pooling_and_one_linear_layer(opened, pixels_of):
    for network in (
        ("stripes_conv2_relu", 8, 1, 2),
        ("skip_cnn", 16, 1, 10),
        (NETWORKS + "AllConvolutional", 12, 3, 10),
    ):
        model = opened(*network[:3], classes=network[3])
        explainer = Explainer(model, pixels_of(model))
        cam, grad_cam = (explainer.explain(METHODS[name], 1).values for name in ("cam", "gradcam"))
        assert np.corrcoef(cam.ravel(), grad_cam.ravel())[0, 1] > 0.9999  # the same, up to the number of places
    model = opened("simple_cnn", 28, 1)
    with pytest.raises(UnknownLayer, match="CAM needs global average pooling and one linear layer after"):
        Explainer(model, pixels_of(model)).explain(METHODS["cam"], 0)


def test_tokens_of_a_vit_are_put_back_into_their_grid(opened, pixels_of):
    model = opened(NETWORKS + "small_vit", 32, 3)
    explainer = Explainer(model, pixels_of(model))
    default = explainer.explain(METHODS["gradcam"], 0)
    # Behind the last attention only the class token goes on, so the patches of later layers explain nothing.
    assert default.layer.name == "encoder.layers.encoder_layer_1.ln"
    assert (default.layer.layout, default.layer.extra) == ("tokens", 1)
    assert default.layer.grid == (4, 4)
    assert not default.empty
    last = explainer.explain(METHODS["gradcam"], 0, layer="encoder.ln")
    assert last.empty
    assert not last.values.any()
    with pytest.raises(
        UnknownLayer, match=r"heads.head is 10, which is no grid over the image; those that will do are"
    ):
        explainer.explain(METHODS["gradcam"], 0, layer="heads.head")


def test_the_grid_of_swin_lies_in_front_of_its_channels(opened, pixels_of):
    model = opened(NETWORKS + "small_swin", 32, 3)
    explainer = Explainer(model, pixels_of(model))
    layers = {layer.name: layer for layer in find_layers(model.manifest.nodes, model.manifest.input)}
    inside = layers["features.1.0.add"]
    assert (inside.layout, inside.grid) == ("channels_last", (8, 8))
    for method in SPATIAL[1:]:
        assert not explainer.explain(METHODS[method], 0, layer=inside.name).empty


@pytest.mark.parametrize(
    ("layer", "part"),
    [
        (
            "layer3.relu_1",
            "layer3.relu_1 is 24x1x1: one place makes no map; those that will do are conv1, layer1.conv1",
        ),
        ("flatten", "flatten is 24, which is no grid over the image; those that will do are conv1"),
        ("nothing", "has no layer 'nothing'; those that will do are conv1"),
    ],
)
def test_a_layer_that_will_not_do_is_refused_with_those_that_will(opened, pixels_of, layer, part):
    model = opened(NETWORKS + "SmallResNet", 8, 3)
    for method in SPATIAL:
        with pytest.raises(UnknownLayer, match=part):
            Explainer(model, pixels_of(model)).explain(METHODS[method], 0, layer=layer)


def test_pixels_have_no_layer_and_some_methods_no_samples(lenet):
    with pytest.raises(UnknownParameter, match="saliency explains the pixels"):
        Explainer(*lenet).explain(METHODS["saliency"], 0, layer="conv1")
    with pytest.raises(UnknownParameter, match="gradcam has no such number"):
        Explainer(*lenet).explain(METHODS["gradcam"], 0, samples=3)
    with pytest.raises(UnknownParameter, match="method is 'lime'; wanted one of cam, scorecam"):
        find_method("lime")


@pytest.mark.parametrize("name", ["rise", "smoothgrad"])
def test_the_same_seed_gives_the_same_map(lenet, name):
    first, again, other = (
        Explainer(*lenet).explain(METHODS[name], 1, samples=40, seed=seed).values for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0


def test_the_empty_image_of_a_network_without_bias_gives_empty_maps(opened):
    """Zero everywhere after the normalisation: the network is constant around it, or the map is zero."""
    model = opened("lenet", 28, 1)
    mean = np.full((28, 28, 1), round(255 * 0.3), np.uint8)
    found = Explainer(model, mean).explain_all(0)
    maps = {one.method.name: one for one in found if isinstance(one, Explanation)}
    for name in ("occlusion", "rise"):  # covering the mean colour with the mean colour, but for its rounding
        assert np.ptp(maps[name].values) < 1e-2
    assert all(np.isfinite(one.values).all() for one in maps.values())


def test_a_map_that_is_nowhere_positive_is_empty_and_stays_as_it_is(lenet, monkeypatch):
    negative = -1 - np.arange(25, dtype=np.float32).reshape(5, 5)
    monkeypatch.setattr("service.inspection.explain.explanation._OF_GRADIENTS", {"gradcam": lambda *_: negative})
    found = Explainer(*lenet).explain(METHODS["gradcam"], 0, evaluate=True)
    assert found.empty
    assert found.trust is None
    assert (found.values.min(), found.values.max()) == (-25, -1)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("cam", "eigencam")])
def test_work_stops_when_nobody_waits_for_it(lenet, name):
    with pytest.raises(Stopped):
        Explainer(*lenet, Watch(cancelled=lambda: True)).explain(METHODS[name], 0)


@pytest.mark.parametrize("name", ["scorecam", "ablationcam", "occlusion", "rise", "smoothgrad"])
def test_progress_is_reported_up_to_the_end(lenet, name):
    reported = []
    explainer = Explainer(*lenet, Watch(report=lambda *one: reported.append(one)))
    explainer.explain(METHODS[name], 0)
    assert {method for method, _, _ in reported} == {name}
    assert [done for _, done, _ in reported] == sorted({done for _, done, _ in reported})
    assert reported[-1][1] == reported[-1][2] > 0


def test_without_torch_the_others_still_work(lenet, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    explainer = Explainer(*lenet)
    for method in METHODS.values():
        if method.gradients:
            with pytest.raises(NotInspectable, match="torch is not installed here; methods without"):
                explainer.explain(method, 0)
    assert explainer.default_method().name == "ablationcam"
    assert not explainer.explain(METHODS["ablationcam"], explainer.predicted).empty


def test_gradients_are_refused_if_the_rebuilt_network_is_another(lenet, monkeypatch):
    def load_other(network, path):
        load_weights(network, path)
        with torch.no_grad():
            next(network.parameters()).mul_(1.1)

    monkeypatch.setattr("export.verify.reference.load_weights", load_other)
    gradients._rebuilt.cache_clear()
    try:
        with pytest.raises(
            NotInspectable, match=r"the logits of the rebuilt network differ from those of model.onnx by"
        ):
            Explainer(*lenet).explain(METHODS["saliency"], 0)
    finally:
        gradients._rebuilt.cache_clear()


def test_gradients_are_refused_if_the_weights_were_changed(lenet, tmp_path):
    shutil.copytree(lenet[0].directory, tmp_path / "copy")
    model = Predictor.open(tmp_path / "copy")
    weights = tmp_path / "copy/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(NotInspectable, match=r"cannot be rebuilt for gradients: .*weights.safetensors: sha256"):
        Explainer(model, lenet[1]).explain(METHODS["gradcam"], 0)


def test_a_class_goes_by_its_name_before_its_number():
    classes = ("cat", "1", "dog")
    assert [class_index(classes, name) for name in ("cat", "1", "2", "dog")] == [0, 1, 2, 2]
    for name in ("3", "-1", "bird", "٣"):
        with pytest.raises(UnknownParameter, match="wanted 0 to 2 or one of cat, 1, dog"):
            class_index(classes, name)


def test_gradients_take_no_more_threads_than_the_engine(opened, pixels_of):
    model = opened("lenet", 28, 1)
    limited = Predictor.open(model.directory, device="cpu", threads=1)
    torch.set_num_threads(2)
    Explainer(limited, pixels_of(model)).explain(METHODS["gradcam"], 0)
    assert torch.get_num_threads() == 1
