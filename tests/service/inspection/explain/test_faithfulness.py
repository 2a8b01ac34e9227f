import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from export.verify.reference import rebuild
from models.images.normalize import Normalize
from service.inspection.explain.faithfulness import measure_trust
from service.inspection.explain.served import ServedImage
from service.inspection.explain.watch import Watch


@pytest.fixture
def network(opened, pixels_of):
    model = opened("resnet20", 16, 3)
    image = pixels_of(model)
    trained = rebuild(model.directory, model.manifest).network
    x = Normalize(model.manifest.input)(torch.from_numpy(image[np.newaxis].copy()))
    return ServedImage(model, image, Watch()), nn.Sequential(trained, nn.Softmax(1)), x


def test_the_curves_are_those_of_the_trained_network(network):
    served, trained, x = network
    values = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    trust = measure_trust(served, values, 4)
    order = np.argsort(-values.ravel())
    assert (trust.fractions[0], trust.fractions[-1]) == (0, 1)
    for fraction, found in list(zip(trust.fractions, trust.deletion, strict=True))[::10]:
        changed = x.clone().flatten(2)
        changed[:, :, order[: round(fraction * 256)].copy()] = 0
        with torch.no_grad():
            assert found == pytest.approx(float(trained(changed.view_as(x))[0, 4]), abs=1e-4)
    with torch.no_grad():
        original, nothing = float(trained(x)[0, 4]), float(trained(torch.zeros_like(x))[0, 4])
        dimmed = float(trained(x * torch.from_numpy(np.maximum(values, 0) / values.max()))[0, 4])
    assert trust.deletion[0] == pytest.approx(original, abs=1e-4)
    assert trust.insertion[-1] == pytest.approx(original, abs=1e-4)
    assert trust.deletion[-1] == pytest.approx(nothing, abs=1e-4)
    assert trust.drop == pytest.approx(max(0, original - dimmed) / original, abs=1e-3)
    assert trust.increase == (dimmed > original)
    assert trust.deletion_area == pytest.approx(np.trapezoid(trust.deletion, trust.fractions))


def test_the_true_order_is_trusted_more_than_its_reverse(network):
    """A map whose deletion was found greedily must delete faster than its negative."""
    served, trained, x = network
    index = int(served.logits[0].argmax())
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(trained[0](x)[0, index], x)
    values = (gradient * x).sum(1)[0].detach().numpy()
    good, bad = measure_trust(served, values, index), measure_trust(served, -values, index)
    assert good.deletion_area < bad.deletion_area
    assert good.insertion_area > bad.insertion_area


@pytest.mark.parametrize(("original", "sigma"), [(2.0, 1.0), (0.0, 2 / 5 * 16)])
def test_insertion_begins_at_the_weakest_blur_that_takes_half_of_the_probability(network, original, sigma):
    """Every blur takes half of 2 away, and none takes anything of 0: then it is the strongest."""
    served, trained, x = network
    served.probabilities = np.full((1, 10), original, np.float32)
    blurred = gaussian_filter(x[0].numpy(), (0, sigma, sigma), mode="nearest", truncate=3)
    with torch.no_grad():
        wanted = float(trained(torch.from_numpy(blurred[np.newaxis]))[0, 4])
    trust = measure_trust(served, np.ones(served.size, np.float32), 4)
    assert trust.insertion[0] == pytest.approx(wanted, abs=1e-4)
