import numpy as np
import pytest

from export.predictor import Predictor
from models.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1)).astype(np.uint8)


def random_images(model, count):
    spec = model.manifest.input
    return np.random.default_rng(0).integers(0, 256, (count, *spec.shape)).astype(np.uint8)


# Exporting every kind of network in each process of the suite would take a minute more.
SOME = pytest.mark.parametrize("exported", ["lenet", "resnet20", "mobilenet_small"], indirect=True)


@SOME
def test_the_tail_of_every_value_gives_the_results_of_the_whole(exported):
    """Also of values beside a skip connection, and in batches of which each is another image's value."""
    model = Predictor.open(exported.artifact)
    images = random_images(model, 3)
    wanted, logits = model.engine.run(images)
    values = [node.value for node in model.manifest.nodes if node.value][::3]
    _, whole = model.extractor.run(images, values)
    for value, contents in zip([*values, "image"], [*whole, images], strict=True):
        tail = model.extractor.tail(images[:1], value)
        np.testing.assert_allclose(tail.start, contents[:1], atol=1e-5)
        np.testing.assert_allclose(tail.run(tail.start)[1], logits[:1], rtol=1e-4, atol=1e-4)
        found = tail.run(contents)
        if not tail.others:
            np.testing.assert_allclose(found[0], wanted, atol=1e-5)
            np.testing.assert_allclose(found[1], logits, rtol=1e-4, atol=1e-4)


@SOME
def test_a_value_beside_a_skip_connection_takes_the_skipped_values_too(exported):
    model = Predictor.open(exported.artifact)
    inside = [node for node in model.manifest.nodes if node.name == "layer2.1.conv2"]
    for node in inside:
        tail = model.extractor.tail(random_images(model, 1), node.value)
        assert len(tail.others) == 1


def test_few_tails_are_kept(lenet_artifact):
    model = Predictor.open(lenet_artifact)
    for node in model.manifest.nodes:
        model.extractor.tail(IMAGES[:1], node.value)
    assert len(model.extractor._tails) == 3


def test_a_value_that_does_not_reach_the_logits_has_no_tail(lenet_artifact):
    model = Predictor.open(lenet_artifact)
    with pytest.raises(UserError, match="the logits do not depend on 'probabilities'"):
        model.extractor.tail(IMAGES[:1], "probabilities")
