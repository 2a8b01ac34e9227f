"""Engines alone: every form and precision of ResNet-18 and -50 by batch size, beside the device's own matrix rate.

A row "engine" is `Engine.run`, from images in ordinary memory to probabilities in ordinary memory, as the server calls
it. All other rows compute on images that are already on the device.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu.networks import checkpoint, photographs
from benchmarks.gpu.options import Options
from benchmarks.gpu.report import Budget, Report
from export.engines.onnxruntime import OnnxEngine
from export.engines.torch import TorchEngine, TorchScriptEngine, forbid_tf32, quiet_torchscript
from export.writers.deployable import Deployable
from export.writers.onnx import write_onnx
from export.writers.onnx_fp16 import write_fp16
from export.writers.torchscript import write_torchscript
from export.writers.torchscript_half import HalfDeployable
from models.checkpoint.directory import Checkpoint, load_checkpoint
from models.graph.node_table import node_table
from models.images.decode import Pixels, decode_image

Forward = Callable[[Tensor], Tensor]  # uint8 (N, H, W, C) to probabilities (N, K)
Module = Callable[[Tensor], tuple[Tensor, Tensor]]

COLUMNS = (
    "network",
    "precision",
    "form",
    "batch",
    "images/s",
    "share of the matrix rate",
    "largest difference",
    "same first class",
)
DTYPES = {"fp32": torch.float32, "TF32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_COMPILE_S = 60  # estimated time for an AOTInductor compilation


@dataclass(frozen=True)
class Candidate:
    """One row's implementation; `make` may take seconds, and `tf32` allows TF32 while it is made and runs."""

    precision: str
    form: str
    make: Callable[[], Forward]
    tf32: bool = False
    seconds: float = 10.0
    benchmark: bool = False  # cuDNN's
    copies: bool = False  # its input is in ordinary memory, and its copy to the device counts


@dataclass(frozen=True)
class Subject:
    """A network on the device, real images of its size, and their probabilities in fp32."""

    name: str
    checkpoint: Checkpoint
    images: Pixels
    wanted: Tensor
    macs: int


def run(report: Report, budget: Budget, options: Options) -> None:
    """Measures the matrix and copy rates, then every candidate of every network."""
    forbid_tf32()
    peaks = _device_rates(report, options)
    batches = (1, 8) if options.quick else (1, 32, 256)
    names = ("resnet18",) if options.quick else ("resnet18", "resnet50")
    report.section("Engines alone at 224x224", COLUMNS)
    for name in names:
        subject = _subject(name, options)
        for candidate in _candidates(subject, options):
            full_name = f"{name}, {candidate.precision}, {candidate.form}"
            if not options.includes(full_name):
                continue
            if not budget.enough(candidate.seconds):
                report.skipped(full_name, budget)
                continue
            row = (name, candidate.precision, candidate.form)
            try:
                _measure(report, row, candidate, subject, batches, peaks, options)
            except (
                Exception
            ) as error:  # engines and compilers raise arbitrary exceptions; the remaining candidates are still measured
                report.error(*row, error=error)


def _measure(
    report: Report,
    row: tuple[str, str, str],
    candidate: Candidate,
    subject: Subject,
    batches: tuple[int, ...],
    peaks: dict[str, float],
    options: Options,
) -> None:
    device, count = "cpu" if candidate.copies else options.device, len(subject.images)
    with _allowed(tf32=candidate.tf32, benchmark=candidate.benchmark):
        forward = candidate.make()
        with torch.inference_mode():
            parts = [torch.from_numpy(subject.images[at : at + 32]).to(device) for at in range(0, count, 32)]
            found = torch.cat([forward(part).cpu() for part in parts])
            difference = float((found - subject.wanted).abs().max())
            same = float((found.argmax(1) == subject.wanted.argmax(1)).float().mean())
            for batch in batches:
                images = torch.from_numpy(subject.images[np.resize(np.arange(count), batch)]).to(device)
                calls_per_s = rate(partial(forward, images), options.device, seconds=0.2 if options.quick else 0.4)
                share = 2 * subject.macs * batch * calls_per_s / peaks[candidate.precision]
                report.row(*row, batch, batch * calls_per_s, f"{share:.1%}", f"{difference:.1e}", f"{same:.1%}")


def _candidates(subject: Subject, options: Options) -> Iterator[Candidate]:
    """The most important first."""
    source, device = subject.checkpoint, torch.device(options.device)
    half = partial(HalfDeployable, source)

    def traced(make: Callable[[], nn.Module]) -> Forward:
        with quiet_torchscript(), torch.no_grad():
            example = torch.from_numpy(subject.images[:2]).to(device)
            frozen = torch.jit.freeze(torch.jit.trace(make().to(device), (example,), check_trace=False))
        return _first(frozen)

    for precision in ("fp16", "bf16"):
        yield Candidate(precision, "engine", partial(_engine, source, precision, device), copies=True)
        yield Candidate(precision, "TorchScript, channels last", partial(traced, partial(half, precision)))
    yield Candidate("fp32", "engine", partial(_engine, source, "fp32", device), copies=True)
    yield Candidate("fp32", "TorchScript", partial(traced, partial(Deployable, source)))
    yield Candidate("fp16", "TorchScript, cuDNN benchmark", partial(traced, partial(half, "fp16")), benchmark=True)
    yield Candidate("fp16", "TorchScript, contiguous", partial(traced, lambda: _contiguous(half("fp16"))))
    yield Candidate("TF32", "TorchScript", partial(traced, partial(Deployable, source)), tf32=True)
    yield Candidate("fp16", ".pt2", partial(_exported, lambda: half("fp16"), subject, device), seconds=20)
    yield from _onnx(source, options)
    compiled = partial(_compiled_ahead, lambda: half("fp16"), subject, device)
    yield Candidate("fp16", "AOTInductor", compiled, seconds=_COMPILE_S)


def _onnx(source: Checkpoint, options: Options) -> Iterator[Candidate]:
    """ONNX Runtime including copies, as it is called in practice; on a GPU only if its CUDA provider is installed."""

    def opened(precision: str) -> Forward:
        source.network.cpu()  # other candidates take it to the device
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            write_onnx(source, node_table(source.network, source.config.input), path)
            if precision == "fp16":
                write_fp16(path, path.with_name("half.onnx"))
                path = path.with_name("half.onnx")
            engine = OnnxEngine(path, device="cuda" if options.device == "cuda" else "cpu")
        return lambda images: torch.from_numpy(engine.run(images.numpy())[0])

    for precision in ("fp32", "fp16") if options.device == "cuda" else ("fp32",):
        yield Candidate(precision, "ONNX Runtime, copies included", partial(opened, precision), seconds=15, copies=True)


def _engine(source: Checkpoint, precision: Any, device: torch.device) -> Forward:
    with tempfile.TemporaryDirectory() as folder:
        path, spec = Path(folder) / "model.ts", source.config.input
        write_torchscript(source, np.zeros((2, *spec.shape), np.uint8), path, precision=precision)
        engine: TorchEngine = TorchScriptEngine(path, device="cuda" if device.type == "cuda" else "cpu")
    return lambda images: torch.from_numpy(engine.run(images.numpy())[0])


def _exported(make: Callable[[], nn.Module], subject: Subject, device: torch.device) -> Forward:
    return _first(_program(make, subject, device).module())


def _compiled_ahead(make: Callable[[], nn.Module], subject: Subject, device: torch.device) -> Forward:
    program = _program(make, subject, device)
    folder = tempfile.mkdtemp()  # loaded modules stay open
    path = torch._inductor.aoti_compile_and_package(program, package_path=f"{folder}/model.pt2")
    return _first(torch._inductor.aoti_load_package(path))


def _program(make: Callable[[], nn.Module], subject: Subject, device: torch.device) -> torch.export.ExportedProgram:
    example = torch.from_numpy(subject.images[:2]).to(device)
    with torch.no_grad():
        return torch.export.export(make().to(device), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))


def _contiguous(module: HalfDeployable) -> nn.Module:
    module.normalize.memory_format = torch.contiguous_format
    return module.to(memory_format=torch.contiguous_format)


def _first(module: Module) -> Forward:
    return lambda images: module(images)[0]


def _subject(name: str, options: Options) -> Subject:
    source = load_checkpoint(checkpoint(name, options.work / "checkpoints"))
    files = photographs(16 if options.quick else 256, seed=1)
    images = np.stack([decode_image(file, source.config.input) for file in files])
    macs = sum(node.macs for node in node_table(source.network, source.config.input))
    module = Deployable(source).to(options.device)
    with torch.inference_mode():
        parts = [
            module(torch.from_numpy(images[at : at + 32]).to(options.device))[0].cpu()
            for at in range(0, len(images), 32)
        ]
    source.network.cpu()
    return Subject(name, source, images, torch.cat(parts), macs)


def _device_rates(report: Report, options: Options) -> dict[str, float]:
    """FLOP/s of a large matrix product in each precision, and copy rates in bytes per second."""
    report.section("The device itself", ("what", "rate", "unit"))
    side = 8192 if options.device == "cuda" else 1024
    peaks: dict[str, float] = {}
    for precision, dtype in DTYPES.items():
        with _allowed(tf32=precision == "TF32", benchmark=False):
            a, b = (torch.randn(side, side, device=options.device).to(dtype) for _ in range(2))
            peaks[precision] = 2 * side**3 * rate(partial(torch.matmul, a, b), options.device, seconds=0.5)
        report.row(f"matrix product of {side}x{side}, {precision}", peaks[precision] / 1e12, "TFLOP/s")
    if options.device == "cuda":
        host = torch.empty(256 * 2**20, dtype=torch.uint8, pin_memory=True)
        for name, source in (("page-locked", host), ("ordinary", torch.empty_like(host, pin_memory=False))):
            copies = rate(partial(source.to, "cuda", non_blocking=True), "cuda", seconds=0.3)
            report.row(f"copy from {name} memory to the GPU", copies * len(host) / 1e9, "GB/s")
    return peaks


def rate(call: Callable[[], object], device: str, *, seconds: float) -> float:
    """Calls per second over `seconds`, after three uncounted warm-up calls; synchronises with the GPU."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        call()
    wait()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        call()
        count += 1
        if count % 8 == 0:
            wait()
    wait()
    return count / (time.perf_counter() - began)


@contextmanager
def _allowed(*, tf32: bool, benchmark: bool) -> Iterator[None]:
    """Sets TF32 and cuDNN's search for the fastest algorithm as requested; turns both off afterwards."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = benchmark
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False
        forbid_tf32()
