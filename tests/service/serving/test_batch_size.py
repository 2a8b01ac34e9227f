from types import SimpleNamespace

import pytest

from export.engines.protocol import DeviceMemoryFull
from service.serving.batch_size import BatchSize, measure_batch_size
from tests.in_process import client_for


@pytest.fixture
def timed(monkeypatch):
    """Makes an engine whose runs take what `seconds` says of a batch's size, on a clock of its own."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("service.serving.batch_size.time", SimpleNamespace(perf_counter=lambda: clock.now))

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
        (lambda n: 40e-3 * n, 8, False, 8),  # 16 would take longer than half a second
        (lambda n: 20e-3 * n, 16, False, 16),
        (lambda n: 4.8e-3 * n, 16, False, 16),  # 32 would take longer than 0.15 s
        (lambda n: 4.6e-3 * n, 32, False, 32),
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


def test_on_a_gpu_larger_sizes_are_tried_each_after_three_runs_that_do_not_count(timed):
    def seconds(size):
        return (1 if tried.count(size) <= 3 else 1e-3) if tried else 0  # CUDA graphs are recorded in the first

    run, tried = timed(seconds)
    assert measure_batch_size(run, (2, 2, 1), device="cuda") == BatchSize(256, pytest.approx(1e-3))
    assert {size: tried.count(size) for size in tried} == {2**power: 7 for power in range(9)}


def holding(most, run):
    def limited(images):
        if len(images) > most:
            raise DeviceMemoryFull("the GPU's memory is full")
        return run(images)

    return limited


@pytest.mark.parametrize(("most", "images"), [(1, 1), (3, 2), (100, 64), (256, 256)])
def test_the_search_ends_where_the_gpus_memory_does(timed, most, images):
    run, _ = timed(lambda n: 1e-5 * n)
    assert measure_batch_size(holding(most, run), (2, 2, 1), device="cuda").images == images


@pytest.mark.parametrize("fixed", [0, 8])
def test_a_memory_that_does_not_hold_what_must_be_held_is_an_error(timed, fixed):
    run, _ = timed(lambda n: 1e-5 * n)
    with pytest.raises(DeviceMemoryFull, match="the GPU's memory is full"):
        measure_batch_size(holding(0, run), (2, 2, 1), device="cuda", fixed=fixed)


@pytest.mark.parametrize(("setting", "found"), [(0, 16), (24, 24)])
def test_a_model_says_how_many_run_together(lenet_artifact, monkeypatch, setting, found):
    def measured(run, shape, *, device, fixed):
        return BatchSize(fixed or 16, 1e-3)

    monkeypatch.setattr("service.serving.served_model.measure_batch_size", measured)
    client = client_for(lenet_artifact.parent.parent, max_batch_size=setting)
    assert client.get("/v1/models").json()["models"][0]["max_batch_size"] == found
