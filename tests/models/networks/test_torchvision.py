"""torchvision's classifiers by name: theirs unchanged, for grey images too, of sizes they can take."""

from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import get_model, get_model_weights, list_models

from models.networks.registry import NETWORKS, build_network, find_network, input_size_for
from models.networks.resnet import resnet50

SMALL = ["mobilenet_v2", "torchvision:resnet18", "squeezenet1_1", "shufflenet_v2_x0_5", "googlenet", "regnet_y_400mf"]


def build(name: str, size: int = 64, channels: int = 3, **more: Any) -> nn.Module:
    return build_network(name, **{"channels": channels, "height": size, "width": size, "classes": 7, **more})


def test_every_classifier_of_torchvision_has_an_entry() -> None:
    names = list_models(module=torchvision.models)
    assert len(names) >= 80
    for name in names:
        entry = find_network(f"torchvision:{name}")
        assert not {"num_classes", "weights", "image_size"} & set(entry.options)
        if name not in NETWORKS:
            assert find_network(name).about == entry.about


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "convnext_tiny"])
def test_the_network_is_torchvisions(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(name).eval()
        torch.manual_seed(0)
        reference = get_model(name, weights=None, num_classes=7).eval()
    torch.testing.assert_close(network.state_dict(), reference.state_dict(), rtol=0, atol=0)
    x = torch.randn(2, 3, 64, 64, generator=torch.manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(network(x), reference(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_logits_gradients_and_state_dict(name: str, channels: int) -> None:
    network = build(name, channels=channels)
    assert network.training
    x = torch.randn(3, channels, 64, 64, generator=torch.manual_seed(1))
    logits = network(x)
    assert logits.shape == (3, 7)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    other = build(name, channels=channels).eval()
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(other(x), network.eval()(x), rtol=0, atol=0)


def test_a_grey_image_gives_what_three_copies_of_it_gave() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        grey = build("mobilenet_v2", channels=1).eval()
        torch.manual_seed(0)
        colour = build("mobilenet_v2", channels=3).eval()
    x = torch.randn(2, 1, 64, 64, generator=torch.manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(grey(x), colour(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


def test_our_names_come_first_and_the_prefix_means_torchvisions() -> None:
    assert find_network("resnet50").build is resnet50
    assert type(build("resnet50", 32).maxpool) is nn.Identity
    assert type(build("torchvision:resnet50", 32).maxpool) is nn.MaxPool2d


def test_they_are_fed_the_size_of_their_weights() -> None:
    for name in ("mobilenet_v2", "efficientnet_b1", "inception_v3"):
        size = get_model_weights(name).DEFAULT.transforms.keywords["crop_size"]
        assert input_size_for(name, (32, 32)) == (size, size)


def test_options_reach_the_network() -> None:
    narrow = build("mobilenet_v2", width_mult=0.5)
    assert sum(p.numel() for p in narrow.parameters()) == sum(
        p.numel() for p in get_model("mobilenet_v2", width_mult=0.5, num_classes=7).parameters()
    )


def test_vit_is_built_for_the_images() -> None:
    with torch.device("meta"):
        assert build("vit_b_32", 96).encoder.pos_embedding.shape == (1, 10, 768)


@pytest.mark.parametrize(
    ("name", "size", "more", "says"),
    [
        ("vgg19", 16, {}, "vgg19 does not take 16x16 images of 3 channels: "),
        ("squeezenet1_1", 8, {}, "squeezenet1_1 does not take 8x8 images of 3 channels: "),
        ("alexnet", 28, {"channels": 1}, "alexnet does not take 28x28 images of 1 channels: "),
        ("vit_b_32", 100, {}, "vit_b_32 cannot be built for 100x100 with {}: .*divisible"),
        ("vit_b_32", 64, {"width": 32}, "vit_b_32 takes square images, got 64x32"),
        ("mobilenet_v2", 64, {"depth": 3}, "mobilenet_v2 has no option 'depth'; it has dropout, round_nearest"),
        ("mobilenet_v2", 64, {"width_mult": "wide"}, "mobilenet_v2 cannot be built for 64x64 with .*'wide'"),
        ("mobilnet_v2", 64, {}, "no network is called 'mobilnet_v2'; did you mean mobilenet_v2"),
        ("torchvision:resnet51", 64, {}, "no network is called 'torchvision:resnet51'; did you mean torchvision:r"),
        ("torchvision:zzz", 64, {}, "no network is called 'torchvision:zzz'; known are lenet"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_said(name: str, size: int, more: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build(name, size, **more)
