import numpy as np
import pytest
from sklearn.decomposition import PCA

from service.inspection.references import normal
from service.inspection.references.normal import Distribution, normality

RNG = np.random.default_rng(0)


def correlated(count, channels=12):
    mixing = np.eye(channels) + 0.2 * np.random.default_rng(1).normal(size=(channels, channels))
    return RNG.normal(size=(count, channels)) @ mixing + 5


@pytest.mark.parametrize("components", [0, 3, 12])
def test_distances_are_those_of_scikit_learns_probabilistic_pca(monkeypatch, components):
    monkeypatch.setattr(normal, "COMPONENTS", components)
    sample, others = correlated(400), correlated(20)
    mean, std = sample.mean(axis=0), sample.std(axis=0)
    standardised, there = (sample - mean) / std, (others - mean) / std
    precision = PCA(n_components=components).fit(standardised).get_precision()
    squares = np.einsum("nc,cd,nd->n", there, precision, there)
    found = Distribution.fit(sample, mean, std).distances(others)
    np.testing.assert_allclose(found, np.sqrt(squares / 12), rtol=2e-3)  # it divides by 399, not by 400


def test_few_images_give_few_components_and_a_typical_distance_of_one():
    sample = correlated(20, 50)
    mean, std = sample.mean(axis=0), sample.std(axis=0)
    fitted = Distribution.fit(sample, mean, std)
    assert fitted.components.shape == (5, 50)
    assert np.sqrt((fitted.distances(sample) ** 2).mean()) == pytest.approx(1, abs=0.1)


def test_what_is_unlike_any_image_is_far_though_each_channel_is_in_its_range():
    pairs = RNG.normal(size=(1000, 1)) * np.ones((1, 2)) + 0.05 * RNG.normal(size=(1000, 2))  # both rise together
    mean, std = pairs.mean(axis=0), pairs.std(axis=0)
    fitted = Distribution.fit(pairs, mean, std)
    quantiles = np.quantile(fitted.distances(pairs), np.linspace(0, 1, 101))
    opposite = normality("layer", mean + std * [1, -1], fitted, quantiles)
    together = normality("layer", mean + std * [1, 1], fitted, quantiles)
    assert opposite.unusual and opposite.nearer == 1
    assert not together.unusual and together.nearer < 0.9


def test_the_furthest_channels_come_first():
    sample = RNG.normal(size=(500, 6))
    mean, std = sample.mean(axis=0), sample.std(axis=0)
    fitted = Distribution.fit(sample, mean, std)
    found = normality("layer", mean + std * [0, 1, -9, 2, 7, 0], fitted, np.linspace(0, 3, 101))
    assert [one.channel for one in found.channels] == [2, 4, 3]
    assert found.channels[0].mean == pytest.approx(mean[2] - 9 * std[2])


def test_a_channel_that_is_always_zero_does_not_decide_by_rounding():
    sample = RNG.normal(size=(500, 4))
    sample[:, 2] = 0
    mean, std = sample.mean(axis=0), sample.std(axis=0)
    fitted = Distribution.fit(sample, mean, std)
    assert fitted.distances(np.add(mean, [[0, 0, 1e-6, 0]]))[0] < 0.01
    assert fitted.distances(np.add(mean, [[0, 0, 1, 0]]))[0] > 10
    constant = Distribution.fit(np.ones((8, 3)), np.ones(3), np.zeros(3))
    assert constant.distances(np.ones((1, 3))).tolist() == [0]
