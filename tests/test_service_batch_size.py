from types import SimpleNamespace

import pytest
from in_process import client_for

from service.batch_size import BatchSize, measure_batch_size


@pytest.fixture
def timed(monkeypatch):
    """Makes an engine whose runs take what `seconds` says of a batch's size, on a clock of its own."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("service.batch_size.time", SimpleNamespace(perf_counter=lambda: clock.now))

    def make(seconds):
        def run(images):
            tried.append(len(images))
            clock.now += seconds(len(images)) * (1.5 if tried.count(len(images)) == 1 else 1)  # the first is slower
            return None, None

        tried = []
        return run, tried

    return make


@pytest.mark.parametrize(
    ("seconds", "images", "inline", "largest"),
    [
        (lambda n: 10e-6 * n, 64, True, 64),
        (lambda n: 100e-6 * n, 64, False, 64),
        (lambda n: 20e-3 * n, 16, False, 16),  # 32 would take longer than half a second
        (lambda n: 20e-3 + 1e-3 * n, 64, False, 64),  # ever more a second
        (lambda n: 1e-3 * n**1.1, 2, False, 64),  # ever fewer a second
        (lambda n: 0.3 * n, 1, False, 1),
        (lambda n: 3.0, 1, False, 1),
    ],
)
def test_the_size_is_the_largest_that_is_fast_and_short(timed, seconds, images, inline, largest):
    run, tried = timed(seconds)
    found = measure_batch_size(run, (2, 2, 1))
    assert (found.images, found.inline, max(tried)) == (images, inline, largest)
    assert found.seconds == pytest.approx(seconds(images))


def test_a_size_that_is_set_is_all_that_is_tried(timed):
    run, tried = timed(lambda n: 1e-3 * n)
    assert measure_batch_size(run, (2, 2, 1), fixed=7) == BatchSize(7, pytest.approx(7e-3))
    assert set(tried) == {7}


@pytest.mark.parametrize(("setting", "found"), [(0, {1, 2, 4, 8, 16, 32, 64}), (24, {24})])
def test_a_model_says_how_many_run_together(lenet_artifact, setting, found):
    client = client_for(lenet_artifact.parent.parent, max_batch_size=setting)
    assert client.get("/v1/models").json()["models"][0]["max_batch_size"] in found
