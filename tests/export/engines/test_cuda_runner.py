"""Batches on a GPU, as far as a machine without one can show: a stand-in for `torch.cuda` computes on the processor."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from export.engines import cuda_runner
from export.engines.cuda import cuda_unavailable_reason, explain
from export.engines.cuda_runner import GRAPH_BATCHES, IN_FLIGHT, CudaRunner
from export.engines.onnxruntime import OnnxEngine
from export.engines.protocol import DeviceLost, DeviceMemoryFull
from models.images.decode import Pixels

SHAPE = (4, 4, 1)


class FakeGraph:
    """Computes again into the same tensors, as the replay of a CUDA graph does."""

    def __init__(self, cuda: "FakeCuda") -> None:
        self.cuda = cuda
        self.step: Callable[[], None] = lambda: None

    def replay(self) -> None:
        self.cuda.replays += 1
        self.step()


class FakeStream:
    def __init__(self, cuda: "FakeCuda") -> None:
        self.cuda = cuda

    def synchronize(self) -> None:
        self.cuda.synchronized += 1


class FakeCuda:
    """The part of `torch.cuda` that is used; `limit` is how many images fit into its memory."""

    def __init__(self, *, limit: int = 1000, capture_fails: str = "") -> None:
        self.limit, self.capture_fails = limit, capture_fails
        self.replays = self.synchronized = self.emptied = self.streams = 0
        self.batches: list[int] = []
        self.capturing: FakeGraph | None = None
        self.started: Callable[[], None] = lambda: None

    def module(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if len(images) > self.limit:
            raise RuntimeError("The following operation failed in the TorchScript interpreter.\nCUDA out of memory.")
        self.batches.append(len(images))
        self.started()
        outputs = self.compute(images)
        if self.capturing is not None:

            def step() -> None:
                for output, again in zip(outputs, self.compute(images), strict=True):
                    output.copy_(again)

            self.capturing.step = step
        return outputs

    @staticmethod
    def compute(images: Tensor) -> tuple[Tensor, Tensor]:
        logits = images.flatten(1).float()[:, :3].contiguous()
        return logits.softmax(1), logits

    def Stream(self, device: torch.device) -> FakeStream:
        self.streams += 1
        return FakeStream(self)

    def CUDAGraph(self) -> FakeGraph:
        return FakeGraph(self)

    def graph_pool_handle(self) -> tuple[int, int]:
        return 0, 1

    def synchronize(self) -> None:
        self.synchronized += 1

    def empty_cache(self) -> None:
        self.emptied += 1

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        yield

    @contextmanager
    def graph(self, graph: FakeGraph, *, pool: Any, stream: FakeStream, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        self.capturing = graph
        try:
            yield
        finally:
            self.capturing = None
        if self.capture_fails:
            raise RuntimeError(self.capture_fails)


def images(count: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def runner(cuda: FakeCuda) -> CudaRunner:
    return CudaRunner(cuda.module, device=torch.device("cpu"), cuda=cuda)


def expected(batch: Pixels) -> tuple[Any, Any]:
    probabilities, logits = FakeCuda.compute(torch.from_numpy(batch))
    return probabilities.numpy(), logits.numpy()


@pytest.fixture
def graphs_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is timed first, then the launch."""
    rising = iter(range(10**6))
    monkeypatch.setattr(cuda_runner, "median_seconds", lambda run: run() and next(rising))


@pytest.fixture
def graphs_are_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    falling = iter(range(10**6, 0, -1))
    monkeypatch.setattr(cuda_runner, "median_seconds", lambda run: run() and next(falling))


@pytest.mark.usefixtures("graphs_are_faster")
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 31, 32, 33, 100])
def test_every_batch_size_gives_the_modules_answers(count: int) -> None:
    run = runner(FakeCuda())
    for seed in range(3):
        batch = images(count, seed)
        for found, wanted in zip(run(batch), expected(batch), strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.usefixtures("graphs_are_faster")
def test_small_batches_replay_a_graph_and_large_ones_do_not() -> None:
    cuda = FakeCuda()
    run = runner(cuda)
    for count in (3, 4, GRAPH_BATCHES[-1] + 1):
        run(images(count))  # captures what there is to capture
    cuda.replays, cuda.batches = 0, []
    run(images(3)), run(images(4))
    assert (cuda.replays, cuda.batches) == (2, [])
    run(images(GRAPH_BATCHES[-1] + 1))
    assert (cuda.replays, cuda.batches) == (2, [GRAPH_BATCHES[-1] + 1])


@pytest.mark.usefixtures("graphs_are_slower")
def test_a_graph_that_is_no_faster_is_not_used() -> None:
    cuda = FakeCuda()
    run = runner(cuda)
    run(images(2))
    cuda.replays = 0
    np.testing.assert_array_equal(run(images(2))[0], expected(images(2))[0])
    assert cuda.replays == 0


@pytest.mark.parametrize("reason", ["CUDA error: operation not permitted when stream is capturing", "out of memory"])
def test_a_network_that_cannot_be_captured_runs_without_a_graph(reason: str) -> None:
    cuda = FakeCuda(capture_fails=reason)
    run = runner(cuda)
    for _ in range(2):
        np.testing.assert_array_equal(run(images(2))[0], expected(images(2))[0])
    assert cuda.replays == 0


def test_answers_do_not_change_when_the_next_batch_runs() -> None:
    run = runner(FakeCuda())
    first = run(images(4, seed=1))
    kept = [rows.copy() for rows in first]
    run(images(4, seed=2))
    for rows, before in zip(first, kept, strict=True):
        np.testing.assert_array_equal(rows, before)


@pytest.mark.parametrize("count", [1, 7, 64, 65])
def test_a_batch_that_does_not_fit_runs_in_parts(count: int) -> None:
    cuda = FakeCuda(limit=9)
    found = runner(cuda)(images(count))
    for rows, wanted in zip(found, expected(images(count)), strict=True):
        np.testing.assert_array_equal(rows, wanted)
    assert (cuda.emptied > 0) == (count > 9)


def test_memory_in_which_no_image_fits_is_an_error_of_its_own() -> None:
    with pytest.raises(DeviceMemoryFull, match="the GPU's memory is full"):
        runner(FakeCuda(limit=0))(images(2))


def test_batches_of_two_threads_are_under_way_together() -> None:
    cuda, both = FakeCuda(), threading.Barrier(IN_FLIGHT, timeout=30)
    run, found = runner(cuda), {}
    cuda.started = lambda: both.wait() and None

    def one(seed: int) -> None:
        found[seed] = run(images(40, seed))

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(IN_FLIGHT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(IN_FLIGHT):
        np.testing.assert_array_equal(found[seed][0], expected(images(40, seed))[0])


def test_models_that_are_loaded_one_after_the_other_use_the_same_stream() -> None:
    cuda = FakeCuda()
    for _ in range(20):
        runner(cuda)(images(3))
    assert cuda.streams == 1


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 139 GiB", DeviceMemoryFull),
        ("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported", DeviceMemoryFull),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", DeviceMemoryFull),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", DeviceMemoryFull),
        ("bfc_arena.cc:359 Failed to allocate memory for requested buffer of size 205520896", DeviceMemoryFull),
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; file=cuda_allocator.cc ; line=74", DeviceMemoryFull),
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", DeviceLost),
        ("CUDA error: an illegal memory access was encountered", DeviceLost),
        ("CUDA error: unspecified launch failure", DeviceLost),
        ("CUDA error: uncorrectable ECC error encountered", DeviceLost),
        ("Traceback of TorchScript (most recent call last):\n  ...\nRuntimeError: CUDA error: device lost", DeviceLost),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", DeviceLost),
    ],
)
def test_the_message_decides_what_a_failure_means(text: str, kind: type[Exception]) -> None:
    assert type(explain(RuntimeError(text))) is kind


def test_other_errors_stay_what_they_are() -> None:
    error = RuntimeError("Given groups=1, weight of size [6, 1, 5, 5], expected input to have 1 channels")
    assert explain(error) is error

    def failing(batch: Tensor) -> tuple[Tensor, Tensor]:
        raise error

    with pytest.raises(RuntimeError, match="weight of size"):
        CudaRunner(failing, device=torch.device("cpu"), cuda=FakeCuda())(images(40))


@pytest.mark.skipif(cuda_unavailable_reason() is not None, reason="there is no GPU here")
@pytest.mark.parametrize("count", [1, 3, 32, 70])
def test_a_real_gpu_gives_the_processors_answers(count: int) -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(32, 3))

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.layers(batch.permute(0, 3, 1, 2).float() / 255)
            return logits.softmax(1), logits

    with torch.inference_mode():
        wanted = Whole()(torch.from_numpy(images(count)))[1].numpy()
    run = CudaRunner(Whole().cuda(), device=torch.device("cuda"))
    for _ in range(3):
        np.testing.assert_allclose(run(images(count))[1], wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("device", "kind"), [("cuda", DeviceMemoryFull), ("cpu", RuntimeError)])
def test_onnx_runtimes_failures_on_a_gpu_are_told_apart(
    lenet_artifact: Path, device: Any, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def run(self, *arguments: Any) -> None:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 7")

        def get_providers(self) -> list[str]:
            return [f"{device.upper()}ExecutionProvider"]

    monkeypatch.setattr("export.engines.onnxruntime.open_session", lambda content, **settings: Failing())
    engine = OnnxEngine(lenet_artifact / "model.onnx", device=device)
    assert engine.device == device
    with pytest.raises(kind) as caught:
        engine.run(images(1))
    assert type(caught.value) is kind
