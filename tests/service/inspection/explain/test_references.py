"""Every method gives the map of captum, torch-cam or pytorch-grad-cam for the same weights, or of the authors' code.

The references run the trained network; methods without gradients are compared through the exported file.
"""

import captum.attr
import numpy as np
import pytest
import torch
import torchcam.methods
from torch.nn import functional

from export.verify.reference import rebuild
from models.images.normalize import Normalize
from service.inspection.explain.explanation import Explainer
from service.inspection.explain.gradients import NOISE
from service.inspection.explain.methods import METHODS
from service.inspection.explain.perturbation import random_masks, window_and_stride
from tests.service.inspection.explain.networks import NETWORKS

LENET, RESNET, SMALL_RESNET = ("lenet", 28, 1), ("resnet20", 16, 3), (NETWORKS + "SmallResNet", 16, 3)
# Layers by the node's name and by the module's, whose output is the same; one of them lies beside a skip connection.
LAYERS = [
    (LENET, "conv1", "conv1"),
    (LENET, "conv2", "conv2"),
    (RESNET, "layer2.2.relu_1", "layer2"),
    (RESNET, "layer3.2.relu_1", "layer3"),
    (RESNET, "layer2.1.conv2", "layer2.1.conv2"),
    (SMALL_RESNET, "layer2.relu_1", "layer2"),  # its ReLU objects are called twice each, and work in place
]
PIXELS = [LENET, RESNET]
IMAGES = (0, 2)


class Case:
    """A trained network with an image, and what explains the exported one."""

    def __init__(self, model, image):
        self.explainer = Explainer(model, image)
        self.network = rebuild(model.directory, model.manifest).network
        self.x = Normalize(model.manifest.input)(torch.from_numpy(image[np.newaxis].copy()))
        self.index = 3
        self.size = image.shape[:2]

    def module(self, name):
        return self.network.get_submodule(name)

    def activations(self, name):
        return captum.attr.LayerActivation(self.network, self.module(name)).attribute(self.x).detach()

    def gradients(self, name):
        return captum.attr.LayerGradientXActivation(
            self.network, self.module(name), multiply_by_inputs=False
        ).attribute(self.x, target=self.index)

    def enlarged(self, values):
        """A layer's map (h, w) at the network's size."""
        values = torch.as_tensor(values).detach().float().reshape(1, 1, *values.shape[-2:])
        return functional.interpolate(values, self.size, mode="bilinear", align_corners=False)[0, 0].numpy()

    def of_torchcam(self, kind, name, **options):
        with kind(self.network, name, input_shape=self.x.shape[1:], **options) as extractor:
            x = self.x.clone().requires_grad_()
            (values,) = extractor(self.index, self.network(x), normalized=False)
        return values[0]

    def explained(self, method, **options):
        return self.explainer.explain(METHODS[method], self.index, **options).values


@pytest.fixture(params=IMAGES, ids="image{}".format)
def case_of(request, opened, pixels_of):
    def make(network):
        model = opened(*network)
        return Case(model, pixels_of(model, request.param))

    return make


def check_same(found, wanted):
    """Correlation of at least 0.999, and the same numbers."""
    assert found.shape == wanted.shape
    assert np.ptp(wanted) > 0
    assert np.corrcoef(found.ravel(), np.asarray(wanted, np.float64).ravel())[0, 1] >= 0.999
    np.testing.assert_allclose(found, wanted, rtol=1e-2, atol=1e-3 * np.abs(wanted).max())


layers = pytest.mark.parametrize(("network", "node", "module"), LAYERS, ids=lambda one: str(one))
pixels = pytest.mark.parametrize("network", PIXELS, ids=lambda one: one[0])


@pytest.mark.parametrize(("network", "node", "module"), [LAYERS[3], (SMALL_RESNET, "layer3.relu_1", "layer3")])
def test_cam_is_torch_cams(case_of, network, node, module):
    case = case_of(network)
    check_same(
        case.explained("cam", layer=node), case.enlarged(case.of_torchcam(torchcam.methods.CAM, module, fc_layer="fc"))
    )


@layers
def test_grad_cam_is_captums(case_of, network, node, module):
    case = case_of(network)
    wanted = captum.attr.LayerGradCam(case.network, case.module(module)).attribute(case.x, target=case.index)
    check_same(case.explained("gradcam", layer=node), case.enlarged(wanted))


@layers
def test_layer_cam_is_torch_cams(case_of, network, node, module):
    case = case_of(network)
    found = case.explainer.explain(METHODS["layercam"], case.index, layer=node)
    wanted = case.of_torchcam(torchcam.methods.LayerCAM, module)
    if node.rpartition(".")[2].startswith("relu"):
        check_same(found.values, case.enlarged(wanted))
    else:  # a signed layer's map is signed here; torch-cam cuts off what is below zero
        unsigned = (torch.relu(case.gradients(module)) * case.activations(module)).sum(1)
        torch.testing.assert_close(torch.relu(unsigned), wanted[None], rtol=1e-4, atol=1e-5)
        check_same(found.values, case.enlarged(unsigned))


@layers
def test_grad_cam_plus_plus_is_pytorch_grad_cams(case_of, network, node, module):
    """Its formula, written out: the package needs OpenCV. torch-cam 0.5 divides a copy, and so leaves alpha at g^2."""
    case = case_of(network)
    gradients = case.gradients(module).detach().double().numpy()
    activations = case.activations(module).double().numpy()
    squares = gradients**2
    alpha = squares / (2 * squares + activations.sum(axis=(2, 3), keepdims=True) * gradients**3 + 1e-12)
    weights = (np.maximum(gradients, 0) * np.where(gradients != 0, alpha, 0)).sum(axis=(2, 3))
    wanted = (weights[:, :, None, None] * activations).sum(axis=1)
    check_same(case.explained("gradcam++", layer=node), case.enlarged(wanted))


@layers
def test_score_cam_is_torch_cams(case_of, network, node, module):
    case = case_of(network)
    found = case.explained("scorecam", layer=node)
    wanted = case.of_torchcam(torchcam.methods.ScoreCAM, module)
    weights = torchcam_weights(case, module)
    torch.testing.assert_close(torch.relu((weights[:, :, None, None] * case.activations(module)).sum(1))[0], wanted)
    check_same(found, case.enlarged((weights[:, :, None, None] * case.activations(module)).sum(1)))


def torchcam_weights(case, module):
    """Its weights of the channels, whose sum is then not cut off at zero."""
    with torchcam.methods.ScoreCAM(case.network, module, input_shape=case.x.shape[1:]) as extractor:
        scores = case.network(case.x)
        (weights,) = extractor._get_weights(case.index, scores)
    return weights


@layers
def test_ablation_cam_is_captums(case_of, network, node, module):
    """Each channel is a feature of captum's ablation."""
    case = case_of(network)
    activations = case.activations(module)
    channels = torch.arange(activations.shape[1]).view(1, -1, 1, 1).expand_as(activations)
    ablation = captum.attr.LayerFeatureAblation(case.network, case.module(module))
    with torch.no_grad():
        falls = ablation.attribute(
            case.x, layer_baselines=0, target=case.index, layer_mask=channels, perturbations_per_eval=16
        )
    check_same(case.explained("ablationcam", layer=node), case.enlarged((falls * activations).sum(1)))


@layers
def test_eigen_cam_is_pytorch_grad_cams(case_of, network, node, module):
    """`get_2d_projection_with_sign_correction`, written out: the package needs OpenCV."""
    case = case_of(network)
    places = case.activations(module)[0].flatten(1).T.numpy()
    places = places - places.mean(axis=0)
    _, _, components = np.linalg.svd(places, full_matrices=True)
    projection = places @ components[0]
    projection = -projection if abs(projection.min()) > abs(projection.max()) else projection
    wanted = projection.reshape(case.activations(module).shape[2:])
    check_same(case.explained("eigencam", layer=node), case.enlarged(wanted))


@pixels
def test_occlusion_is_captums(case_of, network):
    case = case_of(network)
    (window_height, stride_y), (window_width, stride_x) = map(window_and_stride, case.size)
    channels = case.x.shape[1]
    with torch.no_grad():
        wanted = captum.attr.Occlusion(case.network).attribute(
            case.x,
            sliding_window_shapes=(channels, window_height, window_width),
            strides=(channels, stride_y, stride_x),
            target=case.index,
            perturbations_per_eval=16,
        )
    check_same(case.explained("occlusion"), wanted[0, 0].numpy())


@pixels
def test_rise_is_that_of_its_authors(case_of, network):
    """None of the three packages has it: eq. 6 of the paper, over the same masks."""
    case = case_of(network)
    masks = torch.from_numpy(random_masks(64, *case.size, np.random.default_rng(5)))
    with torch.no_grad():
        probabilities = torch.softmax(case.network(case.x * masks[:, None]), dim=1)[:, case.index]
    wanted = (probabilities[:, None, None] * masks).mean(0) / 0.5
    check_same(case.explained("rise", samples=64, seed=5), wanted.numpy())


def test_the_masks_of_rise_are_smooth_and_show_half_of_the_image_everywhere():
    masks = random_masks(4000, 28, 20, np.random.default_rng(0))
    assert masks.shape == (4000, 28, 20)
    assert masks.min() == 0 and masks.max() == 1
    np.testing.assert_allclose(masks.mean(axis=0), 0.5, atol=0.05)
    assert np.abs(np.diff(masks, axis=1)).max() <= 1 / 3  # a cell is 4 pixels high, and a little more when enlarged


@pixels
def test_saliency_is_captums(case_of, network):
    case = case_of(network)
    wanted = captum.attr.Saliency(case.network).attribute(case.x.requires_grad_(), target=case.index)
    check_same(case.explained("saliency"), wanted[0].amax(0).numpy())


@pixels
def test_smooth_grad_is_captums_with_the_same_noise(case_of, network, monkeypatch):
    case = case_of(network)
    deviation = NOISE * float(case.x.max() - case.x.min())
    noise = np.random.default_rng(1).standard_normal((20, *case.x.shape[1:]), np.float32)
    monkeypatch.setattr(torch, "normal", lambda *_: torch.from_numpy(deviation * noise).float())
    tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(case.network))
    wanted = tunnel.attribute(
        case.x.requires_grad_(), nt_type="smoothgrad", nt_samples=20, stdevs=deviation, target=case.index, abs=False
    )
    check_same(case.explained("smoothgrad", samples=20, seed=1), wanted[0].detach().abs().amax(0).numpy())


@pixels
def test_integrated_gradients_are_captums(case_of, network):
    case = case_of(network)
    wanted = captum.attr.IntegratedGradients(case.network).attribute(case.x, target=case.index, n_steps=50)
    found = case.explained("integrated_gradients", samples=50)
    check_same(found, wanted[0].sum(0).detach().numpy())


def test_integrated_gradients_sum_up_to_the_difference_of_the_logits(case_of):
    case = case_of(LENET)
    with torch.no_grad():
        difference = case.network(case.x) - case.network(torch.zeros_like(case.x))
    total = case.explained("integrated_gradients", samples=400).sum()
    assert total == pytest.approx(float(difference[0, case.index]), rel=0.02, abs=0.01)
