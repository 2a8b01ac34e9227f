"""Parameters, multiplications and receptive fields of well-known networks are the published ones."""

import pytest
import torch
import torchvision
from torchvision.models.feature_extraction import get_graph_node_names

from models.graph.node import Node
from models.graph.node_table import node_table
from models.networks.registry import build_network
from tests.conftest import make_spec

# GMACs as torchvision's documentation lists them (`_ops`); parameters likewise.
FIGURES = {
    "mobilenet_v2": (224, 3_504_872, 0.301),
    "mobilenet_v3_small": (224, 2_542_856, 0.057),
    "efficientnet_b0": (224, 5_288_548, 0.386),
    "vgg16": (224, 138_357_544, 15.470),
    "resnet50": (224, 25_557_032, 4.089),
    "convnext_tiny": (224, 28_589_128, 4.456),
    "vit_b_16": (224, 86_567_656, 17.564),
    "swin_t": (224, 28_288_354, 4.491),
    "densenet121": (224, 7_978_856, 2.834),
    "shufflenet_v2_x1_0": (224, 2_278_604, 0.145),
    "squeezenet1_1": (224, 1_235_496, 0.349),
    "resnext50_32x4d": (224, 25_028_904, 4.230),
}


def rows_of(name: str, size: int) -> list[Node]:
    with torch.device("meta"):  # shapes without arithmetic
        network = torchvision.models.get_model(name)
    rows = node_table(network, make_spec(size, 3))
    shown = {row.name for row in rows}
    assert [name for name in get_graph_node_names(network)[1] if name in shown] == [row.name for row in rows]
    assert {parent for row in rows for parent in row.parents} <= shown | {"input"}
    return list(rows)


@pytest.mark.parametrize("name", FIGURES)
def test_parameters_and_multiplications(name: str) -> None:
    size, parameters, gmacs = FIGURES[name]
    meta = torchvision.models.get_model_weights(name).DEFAULT.meta
    rows = rows_of(name, size)
    assert sum(row.parameters for row in rows) == parameters
    assert round(sum(row.macs for row in rows) / 1e9, 3) == gmacs
    if name != "resnet50":  # whose newest weights are for the same network, at the same size
        assert (parameters, gmacs) == (meta["num_params"], meta["_ops"])


@pytest.mark.parametrize(
    ("name", "node", "field", "jump"),
    [
        # Araujo, Norris and Sim (Distill 2019), table 1
        ("alexnet", "features.12", 195, 32),
        ("vgg16", "features.30", 212, 32),
        # 3 + 2 * (the jump at every depthwise 3x3: 2 * 2 + 2 * 4 + 3 * 8 + 7 * 16 + 3 * 32)
        ("mobilenet_v2", "features.18", 491, 32),
        # stem 4x4 stride 4; depthwise 7x7 in blocks of 3, 3, 9, 3 at jumps 4, 8, 16, 32; 2x2 stride 2 between:
        # 4 + 3*6*4 + 4 + 3*6*8 + 8 + 9*6*16 + 16 + 3*6*32
        ("convnext_tiny", "features.7.2.add", 1688, 32),
        ("vit_b_16", "conv_proj", 16, 16),
    ],
)
def test_receptive_fields(name: str, node: str, field: int, jump: int) -> None:
    (row,) = [row for row in rows_of(name, 224) if row.name == node]
    assert row.receptive_field == (field, field)
    assert row.jump == (jump, jump)


def test_the_receptive_field_of_inception_is_the_published_one() -> None:
    rows = node_table(build_network("inception_v3", channels=3, height=299, width=299, classes=7), make_spec(299, 3))
    fields = [row.receptive_field for row in rows if row.receptive_field]
    assert fields[-1] == (1311, 1311)  # Araujo, Norris and Sim (Distill 2019), table 1


def test_a_convolution_with_its_norm_and_activation_is_one_row_with_its_window() -> None:
    rows = {row.name: row for row in rows_of("mobilenet_v2", 224)}
    depthwise = rows["features.2.conv.1"]
    assert depthwise.op == "Conv2dNormActivation"
    assert (depthwise.kernel, depthwise.stride, depthwise.padding) == ((3, 3), (2, 2), (1, 1))
    assert depthwise.macs == 56 * 56 * 96 * 9
    assert depthwise.parameters == 96 * 9 + 2 * 96


def test_attention_and_the_class_token_are_counted_where_they_are_used_first() -> None:
    rows = {row.name: row for row in rows_of("vit_b_16", 224)}
    attention = rows["encoder.layers.encoder_layer_0.getitem"]
    assert attention.op == "MultiheadAttention"
    assert attention.parents == ("encoder.layers.encoder_layer_0.ln",)
    assert attention.parameters == 4 * (768 * 768 + 768)
    assert attention.macs == 4 * 197 * 768 * 768 + 2 * 197 * 197 * 768  # four projections, scores and their use
    assert rows["expand"].parameters == 768
    assert rows["encoder.add"].parameters == 197 * 768


def test_squeeze_and_excitation_sees_the_whole_image() -> None:
    rows = {row.name: row for row in rows_of("efficientnet_b0", 224)}
    squeeze = rows["features.1.0.block.1"]
    assert squeeze.op == "SqueezeExcitation"
    assert squeeze.receptive_field is None
    assert squeeze.macs == 2 * 32 * 8
    assert rows["features.1.0.block.0"].receptive_field == (7, 7)
