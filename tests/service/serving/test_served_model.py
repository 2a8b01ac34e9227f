"""Serving from an engine on a GPU, with a stand-in that runs on the CPU and gives `cuda` as its device."""

import asyncio
import logging
import threading
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from export.artifact.manifest import read_manifest
from export.engines.selection import open_engine
from models.cores import available_cores
from service.asgi.application import build_application
from service.inspection.feature_maps import inspect_image, select_nodes
from service.serving.decode_pool import Decoders, stack_images
from service.serving.served_model import describe, open_model
from service.serving.version_catalog import VersionCatalog
from service.settings import read_settings
from tests.in_process import client_for, digit, encoded

NO_PROVIDER = "no CUDA provider in this build of ONNX Runtime"


@pytest.fixture
def a_gpu(monkeypatch):
    """There is a GPU as far as anybody can see, and `cpu_only` makes ONNX Runtime's package that without CUDA."""
    for module in ("export.engines.onnxruntime", "export.engines.selection", "service.serving.served_model"):
        monkeypatch.setattr(f"{module}.cuda_unavailable_reason", lambda: None)

    def cpu_only():
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])

    return SimpleNamespace(cpu_only=cpu_only)


@pytest.fixture
def torch_on_it(a_gpu, monkeypatch):
    """TorchScript gives the GPU as its device; ONNX Runtime cannot use it."""

    def opened(directory, manifest, **settings):
        engine = open_engine(directory, manifest, **{**settings, "engine": "torchscript", "device": "cpu"})
        return SimpleNamespace(name=engine.name, file=engine.file, device="cuda", run=engine.run)

    a_gpu.cpu_only()
    monkeypatch.setattr("export.predictor.open_engine", opened)


def test_inspection_runs_on_the_cpu_where_onnx_runtime_cannot_use_the_gpu(lenet_artifact, torch_on_it):
    model = open_model(lenet_artifact, read_manifest(lenet_artifact), read_settings())
    image = np.resize(digit(), (28, 28, 1))
    maps = inspect_image(model.predictor, image, select_nodes(model.predictor, ["conv1"]))
    assert maps.layers[0][1].shape == (6, 28, 28) and maps.served_difference < 1e-5
    assert "model.ts on torchscript (cuda)" in describe(model)
    assert f"inspection runs on the CPU, as there is {NO_PROVIDER}" in describe(model)


def test_inspection_on_the_models_own_device_is_not_logged(lenet_artifact):
    assert "inspection" not in describe(open_model(lenet_artifact, read_manifest(lenet_artifact), read_settings()))


def test_larger_batches_are_tried_and_two_are_under_way_at_once(lenet_artifact, torch_on_it, monkeypatch):
    tried = {}

    def measured(run, shape, **given):
        tried.update(given)
        return SimpleNamespace(images=256, seconds=0.02, inline=False)

    monkeypatch.setattr("service.serving.served_model.measure_batch_size", measured)
    monkeypatch.setattr("service.serving.served_model.ThreadPoolExecutor", lambda threads, **_: f"{threads} threads")
    monkeypatch.setattr("service.serving.served_model.Batcher", lambda run, **given: SimpleNamespace(**given))
    model = open_model(lenet_artifact, read_manifest(lenet_artifact), read_settings())
    assert tried == {"device": "cuda", "fixed": 0}
    assert (model.batcher.in_flight, model.batcher.executor, model.batcher.max_batch_size) == (2, "2 threads", 256)


@pytest.mark.parametrize("cpu_only", [True, False])
def test_a_model_that_auto_leaves_on_the_cpu_beside_a_gpu_is_logged(
    lenet_artifact, a_gpu, monkeypatch, caplog, cpu_only
):
    def on_cpu(directory, manifest, **settings):
        return open_engine(directory, manifest, **{**settings, "device": "cpu"})

    monkeypatch.setattr("export.predictor.open_engine", on_cpu)
    if cpu_only:
        a_gpu.cpu_only()
    with caplog.at_level(logging.WARNING):
        open_model(lenet_artifact, read_manifest(lenet_artifact), read_settings(engine="onnxruntime"))
        open_model(lenet_artifact, read_manifest(lenet_artifact), read_settings(engine="onnxruntime", device="cpu"))
    (record,) = caplog.records
    assert "runs on the CPU, although there is a GPU" in record.getMessage()
    assert (NO_PROVIDER in record.getMessage()) == cpu_only


@pytest.mark.parametrize(
    ("given", "threads"), [({"threads": 1}, "all"), ({"threads": 1, "workers": 200}, 1), ({}, "all")]
)
def test_beside_a_gpu_every_core_decodes(lenet_artifact, torch_on_it, monkeypatch, given, threads):
    assert decoding_threads(lenet_artifact, monkeypatch, given) == (available_cores() if threads == "all" else 1)


@pytest.mark.parametrize("threads", [1, 3])
def test_on_the_cpu_as_many_threads_decode_as_infer(lenet_artifact, monkeypatch, threads):
    assert decoding_threads(lenet_artifact, monkeypatch, {"threads": threads}) == threads


def decoding_threads(artifact, monkeypatch, given):
    """How many threads a server has for decoding, once an image has come that is decoded in one."""
    counted = []

    def count_and_note(count):
        counted.append(count())
        return counted[-1]

    monkeypatch.setattr("service.asgi.application.Decoders", lambda count: Decoders(lambda: count_and_note(count)))
    client = client_for(artifact, **given)
    large = encoded(np.random.default_rng(0).integers(0, 256, (300, 300), np.uint8))
    assert client.post("/v1/classify", content=large).status_code == 200
    assert len(counted) == 1
    return counted[0]


def test_nothing_is_counted_before_an_image_is_decoded(tmp_path):
    chosen = read_settings(artifacts=tmp_path)
    build_application(VersionCatalog(chosen), chosen)  # as at import, when CUDA must not be asked for anything yet
    counted = []
    decoders = Decoders(lambda: counted.append(True) or 1)
    assert not counted
    assert [decoders.submit(pow, 2, n).result() for n in (3, 4)] == [8, 16] and len(counted) == 1


@pytest.mark.parametrize(("count", "size", "where"), [(1, 2000, "loop"), (2, 28, "loop"), (2, 1000, "decode_0")])
def test_many_megabytes_are_stacked_in_a_thread_and_one_image_nowhere(monkeypatch, count, size, where):
    threads, stack, images = [], np.stack, [np.full((size, size, 1), index, np.uint8) for index in range(count)]

    def watched(arrays):
        threads.append(threading.current_thread().name)
        return stack(arrays)

    monkeypatch.setattr(np, "stack", watched)
    found = asyncio.run(stack_images(images, Decoders(lambda: 1)))
    assert found.shape == (count, size, size, 1) and found[:, 0, 0, 0].tolist() == list(range(count))
    assert threads == ([] if count == 1 else [threading.current_thread().name if where == "loop" else where])
    assert np.shares_memory(found, images[0]) == (count == 1)
