"""Channels of layers that have them last, beside the values as they are in the file."""

import numpy as np
import pytest

from service.inspection.channels import EVERYTHING, Selection
from service.inspection.chosen_channels import choose_channels, layer_contributions
from service.inspection.explain.watch import Stopped, Watch
from service.inspection.feature_maps import inspect_image, select_nodes
from tests.service.inspection.explain.networks import NETWORKS


@pytest.fixture(scope="module")
def swin(opened, pixels_of):
    model = opened(f"{NETWORKS}small_swin", 32, 3)
    return model, pixels_of(model)


def maps_of(model, image, layers):
    return inspect_image(model, image, select_nodes(model, layers))


def test_the_channels_of_swin_are_its_last_axis(swin):
    model, image = swin
    maps = maps_of(model, image, ["features.0.2", "features.3.0.add"])
    (first, last) = choose_channels(maps, model.manifest.input, Selection(top=4, rank="max"), "channel")
    for one, (_, value) in zip((first, last), maps.layers, strict=True):
        assert value.ndim == 3 and one.axis == 2
        wanted = np.argsort(-value.max(axis=(0, 1)), kind="stable")[:4]
        assert one.channels.tolist() == wanted.tolist()
        np.testing.assert_array_equal(one.values, value[:, :, wanted])
        np.testing.assert_array_equal(one.maps, value[:, :, wanted].transpose(2, 0, 1))
        again = one.low + one.to_bytes() / 255 * (one.high - one.low)
        assert np.abs(again - one.values).max() <= ((one.high - one.low) / 255).max() * 0.501


def test_tokens_are_drawn_in_their_grid(opened, pixels_of):
    model = opened(f"{NETWORKS}small_vit", 16, 3)
    maps = maps_of(model, pixels_of(model), ["encoder.layers.encoder_layer_0.add"])
    (one,) = choose_channels(maps, model.manifest.input, EVERYTHING, "layer")
    ((_, value),) = maps.layers
    assert (value.shape, one.axis) == ((17, 16), 1)
    np.testing.assert_array_equal(one.values, value)
    np.testing.assert_array_equal(one.maps, value[1:].T.reshape(16, 4, 4))


def test_contributions_of_channels_that_come_last(swin):
    model, image = swin
    nodes = select_nodes(model, ["features.3.0.add"])
    ((found,), index) = layer_contributions(model, image, nodes, None, Watch())
    batch, value = image[np.newaxis], nodes[0].value
    tail = model.extractor.tail(batch, value)
    for channel in (0, 5, 23):
        changed = tail.start.copy()
        changed[..., channel] = 0
        wanted = tail.run(tail.start)[1][0, index] - tail.run(changed)[1][0, index]
        assert found[channel] == pytest.approx(wanted, abs=1e-4)


def test_nobody_waits_for_the_contributions(swin):
    model, image = swin
    with pytest.raises(Stopped):
        layer_contributions(model, image, select_nodes(model, ["features.3.0.add"]), 0, Watch(cancelled=lambda: True))
