import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import SqueezeExcitation

from export.pipeline.export import export_checkpoint
from export.predictor import Predictor
from export.verify.reference import rebuild
from service.errors import NoKernels, NotInspectable, UnknownLayer
from service.inspection.kernels import kernel_shape, layer_kernels
from tests.conftest import make_checkpoint


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """ResNet-20 and the trained network that it was exported from."""
    folder = tmp_path_factory.mktemp("resnet")
    checkpoint = make_checkpoint(folder / "run", model="resnet20", size=32, channels=3, count=12)
    artifact = export_checkpoint(checkpoint, out=folder / "artifacts", formats=("onnx",))
    predictor = Predictor.open(artifact)
    return predictor, rebuild(artifact, predictor.manifest).network


class Mixed(nn.Module):
    """A depthwise convolution, a squeeze-and-excitation block, and a linear layer at every position."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, 2 * channels, 3, groups=channels)
        self.excitation = SqueezeExcitation(2 * channels, 4)
        self.token = nn.Linear(2 * channels, 8)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, K)."""
        x = self.excitation(self.depthwise(x))
        x = self.token(x.flatten(2).transpose(1, 2))  # (N, H * W, 8)
        return self.head(x.mean(dim=1))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("mixed"), "tests.service.inspection.test_kernels:Mixed"
    checkpoint = make_checkpoint(folder / "run", model=model, size=16, channels=3, count=12)
    artifact = export_checkpoint(checkpoint, out=folder / "artifacts", formats=("onnx",))
    predictor = Predictor.open(artifact)
    return predictor, rebuild(artifact, predictor.manifest).network


def test_kernels_are_the_trained_weights(resnet):
    predictor, network = resnet
    modules = {name: module for name, module in network.named_modules() if hasattr(module, "weight")}
    layers = [name for name, module in modules.items() if module.weight.ndim in (2, 4)]
    assert len(layers) > 19
    for name in layers:
        kernels = layer_kernels(predictor, name)
        np.testing.assert_array_equal(kernels.weights, modules[name].weight.detach().numpy())
        bias = modules[name].bias
        np.testing.assert_array_equal(kernels.bias, 0 if bias is None else bias.detach().numpy())
        assert kernel_shape(predictor, name) == kernels.weights.shape


def test_effective_kernels_do_what_convolution_and_batch_norm_do(resnet):
    predictor, network = resnet
    kernels = layer_kernels(predictor, "layer1.0.conv1", effective=True)
    assert kernels.batch_norm == "layer1.0.bn1"
    block = network.layer1[0]
    x = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = block.bn1(block.conv1(x))
    found = functional.conv2d(x, torch.from_numpy(kernels.weights), torch.from_numpy(kernels.bias), padding=1)
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=1e-4)


def test_effective_kernels_without_a_batch_norm_are_the_plain_ones(resnet):
    predictor, _ = resnet
    plain, effective = (layer_kernels(predictor, "fc", effective=one) for one in (False, True))
    assert effective.batch_norm == ""
    np.testing.assert_array_equal(plain.weights, effective.weights)


def test_a_product_and_a_sum_are_one_linear_layer(mixed):
    predictor, network = mixed
    kernels, module = layer_kernels(predictor, "token"), network.token
    assert kernels.operator == "MatMul"
    np.testing.assert_array_equal(kernels.weights, module.weight.detach().numpy())
    np.testing.assert_array_equal(kernels.bias, module.bias.detach().numpy())


def test_depthwise_convolutions_say_their_groups(mixed):
    predictor, _ = mixed
    depthwise = layer_kernels(predictor, "depthwise")
    assert (depthwise.groups, depthwise.weights.shape) == (3, (6, 1, 3, 3))


def test_a_layer_with_several_kernels_names_them(mixed):
    predictor, network = mixed
    with pytest.raises(NoKernels, match="several kernels; take one of") as refused:
        layer_kernels(predictor, "excitation")
    names = str(refused.value).partition("one of ")[2].split(", ")
    shapes = [layer_kernels(predictor, name).weights.shape for name in names]
    module = network.excitation
    assert shapes == [tuple(module.fc1.weight.shape), tuple(module.fc2.weight.shape)]


def test_what_has_no_kernels_is_refused_with_what_has(resnet, lenet_checkpoint, tmp_path):
    predictor, _ = resnet
    with pytest.raises(NoKernels, match=r"relu has no kernels; layers that have: conv1, layer1\.0\.conv1"):
        layer_kernels(predictor, "relu")
    with pytest.raises(UnknownLayer, match="near are conv1"):
        layer_kernels(predictor, "conv")
    without = Predictor.open(export_checkpoint(lenet_checkpoint, out=tmp_path, formats=("torchscript",)))
    with pytest.raises(NotInspectable):
        layer_kernels(without, "conv1")
