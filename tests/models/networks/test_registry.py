"""Every network maps images to logits, has its published size, learns everywhere and says what it wants."""

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from models.networks.registry import NETWORKS, build_network, find_network, input_size_for
from tests.registered import HEAVY, LIGHT, SIZES


def build(name: str, size: int, channels: int = 1, classes: int = 10, **options: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_network(name, channels=channels, height=size, width=size, classes=classes, **options)


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("name", "size"), SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_logits_have_one_number_per_image_and_class(name: str, size: int, channels: int, classes: int) -> None:
    with torch.device("meta"):  # shapes without arithmetic
        network = build(name, size, channels, classes).eval()
        assert network(torch.empty(2, channels, size, size)).shape == (2, classes)


@pytest.mark.parametrize("name", LIGHT)
def test_images_do_not_influence_each_other_in_evaluation(name: str) -> None:
    size = NETWORKS[name].sizes[0]
    network, x = build(name, size).eval(), torch.randn(3, 1, size, size, generator=torch.manual_seed(1))
    with torch.no_grad():
        together, apart = network(x), torch.cat([network(image[None]) for image in x])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-5)


@pytest.mark.parametrize(("name", "size"), [(n, s) for n, s in SIZES if s < 100 and n not in HEAVY])
def test_every_parameter_gets_a_finite_gradient(name: str, size: int) -> None:
    network = build(name, size, channels=3)
    x = torch.randn(4, 3, size, size, generator=torch.manual_seed(1))
    nn.functional.cross_entropy(network(x), torch.tensor([0, 3, 5, 9])).backward()
    for path, parameter in network.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path
        assert parameter.grad.abs().sum() > 0, path


@pytest.mark.parametrize("name", LIGHT)
def test_a_state_dict_brings_back_the_logits(name: str) -> None:
    size = NETWORKS[name].sizes[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = build_network(name, channels=1, height=size, width=size, classes=10).eval()
    other, x = build(name, size).eval(), torch.randn(2, 1, size, size)
    with torch.no_grad():
        assert not torch.equal(other(x), network(x))
        other.load_state_dict(network.state_dict())
        torch.testing.assert_close(other(x), network(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "size", "channels", "parameters"),
    [
        # LeCun et al. 1998 with a dense second convolution: 156 + 2416 + 48120 + 10164 + 850.
        ("lenet", 28, 1, 61_706),
        ("lenet", 32, 1, 61_706),
        ("lenet1998", 28, 1, 61_706),
        # He et al. 2015, table 6 ("0.27M"); by hand: 432 + 96 blocks' weights + batch norms + 650.
        ("resnet20", 32, 3, 269_722),
        # 5x5x16 + 16, 5x5x16x32 + 32, 1568x128 + 128, 128x10 + 10
        ("simple_cnn", 28, 1, 416 + 12_832 + 200_832 + 1_290),
        ("simple_cnn", 32, 3, 896 + 18_496 + 73_856 + 1_049_088 + 5_130),
        ("mlp", 28, 1, 784 * 128 + 128 + 128 * 10 + 10),
        ("compact_cnn", 28, 1, 72 + 16 + 1_152 + 32 + 7 * 7 * 16 * 128 + 128 + 128 * 10 + 10),
        # The same with two 1x1 convolutions, n to n / 4 and back, in each of the nine blocks.
        ("se_resnet20", 32, 3, 269_722 + 3 * sum(2 * n * (n // 4) + n // 4 + n for n in (16, 32, 64))),
        # torchvision's features with batch norm, and 512-K
        ("vgg11", 32, 3, 9_225_984 + 5_130),
        ("vgg16", 32, 3, 14_723_136 + 5_130),
        ("stripes_conv1", 8, 1, 80 + 90),
        ("stripes_conv2_relu", 8, 1, 80 + 584 + 90),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, size: int, channels: int, parameters: int) -> None:
    with torch.device("meta"):
        assert count(build(name, size, channels)) == parameters


def test_the_short_lenet_has_one_hidden_layer() -> None:
    network = build("lenet", 28, hidden=(84,))
    assert [(layer.in_features, layer.out_features) for layer in network.fc] == [(400, 84), (84, 10)]
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "theirs", "options"),
    [
        ("resnet18", "resnet18", {}),
        ("resnet34", "resnet34", {}),
        ("resnet50", "resnet50", {}),
        ("vgg11", "vgg11_bn", {}),
        ("vgg13", "vgg13", {"batch_norm": False}),
    ],
)
def test_the_large_networks_are_torchvisions(name: str, theirs: str, options: dict[str, Any]) -> None:
    weights = torchvision.models.get_model_weights(theirs).DEFAULT
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        reference = torchvision.models.get_model(theirs).eval()
    with torch.device("meta"):
        network = build(name, 224, channels=3, classes=1000, **options).eval()
    assert count(network) == count(reference) == weights.meta["num_params"]
    network.load_state_dict(reference.state_dict(), assign=True)
    x = torch.randn(1, 3, 64, 64, generator=torch.manual_seed(2))  # any size will do to compare arithmetic
    with torch.no_grad():
        torch.testing.assert_close(network(x), reference(x), rtol=0, atol=0)


def test_the_small_stem_keeps_the_image_size() -> None:
    with torch.device("meta"):
        network = build("resnet18", 32, channels=3)
        shapes = [tuple(network.layer1(network.maxpool(network.conv1(torch.empty(1, 3, 32, 32)))).shape)]
    assert shapes == [(1, 64, 32, 32)]
    assert type(build_network("resnet18", channels=3, height=64, width=64, classes=2).maxpool) is nn.Identity
    assert type(build_network("resnet18", channels=3, height=65, width=65, classes=2).maxpool) is nn.MaxPool2d


def test_vgg_has_the_head_of_its_image_size() -> None:
    with torch.device("meta"):
        heads = {size: [n.in_features for n in build("vgg11", size).classifier if isinstance(n, nn.Linear)]
                 for size in (32, 64, 65, 224)}  # fmt: skip
    assert heads == {32: [512], 64: [512], 65: [25088, 4096, 4096], 224: [25088, 4096, 4096]}


@pytest.mark.parametrize(
    ("classes", "head", "kind"),
    [(10, "auto", nn.Linear), (11, "auto", nn.Sequential), (11, "plain", nn.Linear), (2, "hidden", nn.Sequential)],
)
def test_the_class_count_chooses_the_head(classes: int, head: str, kind: type[nn.Module]) -> None:
    network = build("two_head_cnn", 28, classes=classes, head=head).eval()
    assert type(network.head) is kind
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, classes)


def test_dropout_acts_in_training_only() -> None:
    network, x = build("simple_cnn", 32), torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        assert not torch.equal(network.train()(x), network(x))
        assert torch.equal(network.eval()(x), network(x))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("lenett", "no network is called 'lenett'; did you mean lenet"),
        ("resnet19", "no network is called 'resnet19'; did you mean resnet18"),
        ("zzz", "no network is called 'zzz'; known are lenet, lenet1998, simple_cnn"),
    ],
)
def test_an_unknown_name_lists_the_nearest(name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        find_network(name)


@pytest.mark.parametrize(
    ("name", "size", "more", "says"),
    [
        ("lenet", 30, {}, "LeNet takes 28x28 or 32x32 images, got 30x30"),
        ("lenet1998", 64, {}, "LeNet takes 28x28 or 32x32 images, got 64x64"),
        ("simple_cnn", 7, {}, "at least 8x8, got 7x7"),
        ("resnet20", 4, {}, "at least 8x8, got 4x4"),
        ("se_resnet20", 32, {"reduction": 32}, "reduction is 32; it must be between 1 and 16"),
        ("compact_cnn", 3, {}, "at least 4x4, got 3x3"),
        ("two_head_cnn", 3, {}, "at least 4x4, got 3x3"),
        ("two_head_cnn", 28, {"head": "third"}, "head is 'third'; known are 'auto', 'plain'"),
        ("skip_cnn", 7, {}, "at least 8x8, got 7x7"),
        ("mobilenet_small", 7, {}, "at least 8x8, got 7x7"),
        ("mobilenet_small", 28, {"multiplier": 0}, "multiplier is 0; it must be between 0.1 and 4"),
        ("vgg16", 28, {}, "at least 32x32, got 28x28: it halves them five times"),
        ("vgg11", 32, {"head": "large"}, "head is 'large'; known are 'auto', 'small'"),
        ("vgg11", 32, {"dropout": 2}, "dropout is 2; it must be in"),
        ("mlp", 28, {"hidden": (0,)}, r"hidden is \(0,\); every width must be at least 1"),
        ("stripes_conv2", 4, {}, "2 3x3 convolutions need images of at least 5x5, got 4x4"),
        ("mlp", 0, {}, "images are 0x0; both must be at least 1"),
        ("resnet18", 7, {}, "small stem needs images of at least 8x8, got 7x7"),
        ("resnet34", 31, {"stem": "imagenet"}, "imagenet stem needs images of at least 32x32, got 31x31"),
        ("resnet18", 32, {"stem": "large"}, "stem is 'large'; known are 'auto'"),
        ("simple_cnn", 32, {"dropout": 1.0}, r"dropout is 1.0; it must be in \[0, 1\)"),
        ("simple_cnn", 32, {"dropout": -0.1}, "dropout is -0.1"),
        ("lenet", 28, {"dropout": 0.1}, "lenet has no option 'dropout'; it has hidden"),
        ("resnet20", 32, {"stem": "auto"}, "resnet20 has no option 'stem'; it has none"),
        ("lenet", 28, {"channels": 4}, r"channels is 4; images are grey \(1\) or RGB \(3\)"),
        ("lenet", 28, {"classes": 1}, "classes is 1; a classifier needs at least 2"),
    ],
)
def test_what_a_network_cannot_take_is_refused(name: str, size: int, more: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build_network(name, **{"channels": 1, "height": size, "width": size, "classes": 10, **more})


@pytest.mark.parametrize(
    ("name", "natural", "size"),
    [
        ("lenet", (28, 28), (28, 28)),
        ("lenet", (32, 32), (32, 32)),
        ("lenet", (8, 8), (28, 28)),
        ("resnet18", (28, 32), (32, 32)),
        ("resnet18", (224, 224), (224, 224)),
    ],
)
def test_a_network_is_fed_the_images_size_if_it_was_made_for_it(
    name: str, natural: tuple[int, int], size: tuple[int, int]
) -> None:
    assert input_size_for(name, natural) == size
