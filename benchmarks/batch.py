"""Batch jobs beside their bound and beside what people write themselves, in one run.

    python -m benchmarks.batch artifacts/lenet-mnist mnist.tar --weights runs/lenet-mnist
    python -m benchmarks.batch artifacts/resnet18-224 photographs --weights runs/resnet18-224

With d and e the rates of decoding alone and of the engine alone, each on all cores, no job on these cores is faster
than 1 / (1 / d + 1 / e), and with a GPU none is faster than the slower one. The peers read the same images, decode them
with Pillow and transforms of torchvision, and write no rows: torch's DataLoader with a loop of eager torch and with
ONNX Runtime, and Ray Data.
"""

import io
import os
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
import onnxruntime
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torchvision.transforms import v2

from export.artifact.directory import newest_version
from export.artifact.formats import EngineName, PrecisionName
from export.artifact.manifest import read_manifest
from export.engines.cuda import Device
from models.checkpoint.directory import load_checkpoint
from models.images.input_spec import InputSpec
from service.batch.decoding import Decoders, Slots
from service.batch.entries import Batch, batches_of
from service.batch.network import Network, Opening, Wanted
from service.batch.reading import encoded
from service.batch.sources.find import open_source

BATCH = 64  # of the peers
Measured = tuple[int, float]  # images and seconds
_ENGINE_S = 4.0
SUFFIXES = (".png", ".jpg", ".jpeg")


def main(
    artifact: Path,
    source: Path,
    *,
    weights: Path,
    precision: PrecisionName = "fp32",
    device: Device = "cpu",
    rounds: int = 3,
    peers: bool = True,
    ray: bool = True,
) -> None:
    """Prints images/s: medians over rounds, in which all take turns.

    Args:
        artifact: the artifact.
        source: a folder of images or a tar file.
        weights: the checkpoint directory, for the loop of eager torch.
        precision: of the artifact's file.
        device: on which networks run; on a GPU from TorchScript.
        rounds: measured in turns.
        peers: measure the peers too.
        ray: measure Ray Data too.
    """
    opening = opening_of(newest_version(artifact), precision, device)
    ways = ways_of(opening, source, weights, peers=peers, ray=ray)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            rates[name].append(rate_of(way))
            print(f"{name}: {rates[name][-1]:,.0f} images/s", file=sys.stderr, flush=True)
    found = {name: statistics.median(values) for name, values in rates.items()}
    bound = bound_of(found, device)
    name = opening.artifact.parent.name
    table = Table("", "images/s", "of the bound", "convscope is", title=f"{name}, {precision}, {source.name}")
    for name, rate in found.items():
        alone = name.endswith("alone")
        ratio = "" if alone or name == "convscope batch" else f"{found['convscope batch'] / rate:.2f}x"
        table.add_row(name, f"{rate:,.0f}", "" if alone else f"{rate / bound:.0%}", ratio)
    table.add_row("bound", f"{bound:,.0f}", "", "")
    Console().print(table)


def opening_of(directory: Path, precision: PrecisionName, device: Device) -> Opening:
    """How the artifact is opened: on a GPU from TorchScript, as the server is measured there."""
    engine: EngineName = "auto" if device == "cpu" else "torchscript"
    return Opening(artifact=directory, precision=precision, engine=engine, device=device)


def ways_of(
    opening: Opening, source: Path, weights: Path, *, peers: bool, ray: bool
) -> dict[str, Callable[[], Measured]]:
    """What is measured, by name; each is to be called in a process of its own."""
    spec = read_manifest(opening.artifact).input
    ways: dict[str, Callable[[], Measured]] = {
        "decoding alone": partial(_decode_all, source, opening),
        "engine alone": partial(_run_all, opening),
        "convscope batch": partial(_job, source, opening),
    }
    if peers:
        ways["DataLoader, eager torch"] = partial(_loop, source, spec, partial(_eager, weights, spec, opening))
        if opening.device == "cpu":
            ways["DataLoader, ONNX Runtime"] = partial(_loop, source, spec, partial(_onnx, opening.artifact))
        if ray:
            ways["Ray Data, ONNX Runtime"] = partial(_ray_data, source, opening.artifact, spec)
    return ways


def rate_of(way: Callable[[], Measured]) -> float:
    """Images/s, measured in a process of its own: a loader must not fork from another's threads."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        count, seconds = pool.submit(way).result()
    return count / seconds


def bound_of(rates: Mapping[str, float], device: Device) -> float:
    """Images/s that no job exceeds: the network shares the cores with decoding, or has a GPU of its own."""
    decoding, engine = rates["decoding alone"], rates["engine alone"]
    return 1 / (1 / decoding + 1 / engine) if device == "cpu" else min(decoding, engine)


def _batches(source: Path, network: Network) -> Iterator[Batch]:
    found = open_source(str(source), classes=network.predictor.manifest.classes)
    for number, shard in enumerate(found.shards(lambda key, reason: None, 2048)):
        size = network.batch_size
        yield from batches_of(shard, number, rows=2048, size=size, needed=lambda block, position: True)


def _decode_all(source: Path, opening: Opening) -> Measured:
    """Reading and decoding in as many processes as there are cores, without a network."""
    network = Network(Opening(artifact=opening.artifact, device="cpu"), Wanted(top_k=5))
    spec, cores = network.predictor.manifest.input, len(os.sched_getaffinity(0))
    slots = Slots(2 * cores + 2, (network.batch_size, *spec.shape))
    decoders, count = Decoders(cores, slots, spec, 10**9), 0
    for decoding in [decoders.submit(0, [None]) for _ in range(4 * cores)]:  # lets the processes start
        decoders.result(decoding)
    began, waiting = time.perf_counter(), list[Any]()
    for number, batch in enumerate(_batches(source, network)):
        if len(waiting) == slots.count:
            decoders.result(waiting.pop(0))
        waiting.append(decoders.submit(number % slots.count, [encoded(entry) for entry in batch.entries]))
        count += len(batch.entries)
    for decoding in waiting:
        decoders.result(decoding)
    seconds = time.perf_counter() - began
    decoders.close()
    slots.close()
    return count, seconds


def _run_all(opening: Opening) -> Measured:
    """The engine on images that are decoded already."""
    network = Network(opening, Wanted(top_k=5))
    shape = (network.batch_size, *network.predictor.manifest.input.shape)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    network.run(pixels)
    began, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - began) < _ENGINE_S:
        network.run(pixels)
        count += len(pixels)
    return count, seconds


def _job(source: Path, opening: Opening) -> Measured:
    """The command, in a process of its own: the start of its processes and its rows included, its imports not."""
    with tempfile.TemporaryDirectory() as folder:
        words: list[Any] = ["batch", source, "--artifact", opening.artifact, "--out", Path(folder, "rows.parquet")]
        words += ["--precision", opening.precision, "--engine", opening.engine, "--device", opening.device]
        done = subprocess.run([sys.executable, "-m", "convscope", *words], capture_output=True, text=True, check=False)
    found = re.search(r"^([\d,]+) images in ([\d.]+) s", done.stdout, re.M)
    if found is None:
        raise SystemExit(done.stderr)
    return int(found[1].replace(",", "")), float(found[2])


class _Files(IterableDataset):  # type: ignore[type-arg]
    """What a script has: files of a folder or a tar file, opened by Pillow and transformed by torchvision."""

    def __init__(self, source: Path, spec: InputSpec) -> None:
        self._source, self._mode = source, spec.mode
        resize = spec.resize if isinstance(spec.resize, int) else list(spec.resize)
        steps: list[Any] = [v2.Resize(resize), *([v2.CenterCrop(spec.crop)] if spec.crop else [])]
        self._transform = v2.Compose([*steps, v2.PILToTensor()])

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        if self._source.is_dir():
            files = sorted(path for path in self._source.rglob("*") if path.suffix in SUFFIXES)
            for path in files[first::step]:
                yield self._decoded(path.read_bytes())
            return
        with tarfile.open(self._source) as archive:
            for number, member in enumerate(archive):
                if number % step == first and (file := archive.extractfile(member)) is not None:
                    yield self._decoded(file.read())

    def _decoded(self, data: bytes) -> torch.Tensor:
        found: torch.Tensor = self._transform(Image.open(io.BytesIO(data)).convert(self._mode))
        return found


def _loop(source: Path, spec: InputSpec, make: Callable[[], Callable[[torch.Tensor], Any]]) -> Measured:
    workers, gpu = len(os.sched_getaffinity(0)), torch.cuda.is_available()
    loader = iter(DataLoader(_Files(source, spec), batch_size=BATCH, num_workers=workers, pin_memory=gpu))
    run, count, began = make(), 0, time.perf_counter()
    for images in loader:
        run(images).argmax(1).tolist()  # waits for the GPU
        count += len(images)
    return count, time.perf_counter() - began


def _eager(weights: Path, spec: InputSpec, opening: Opening) -> Callable[[torch.Tensor], Any]:
    dtype = torch.float16 if opening.precision == "fp16" else torch.float32
    layout = torch.contiguous_format if opening.device == "cpu" else torch.channels_last
    network = load_checkpoint(weights).network.eval().to(opening.device, dtype, memory_format=layout)
    mean, std = (
        torch.tensor(values, dtype=dtype, device=opening.device).view(1, -1, 1, 1) for values in (spec.mean, spec.std)
    )

    def run(images: torch.Tensor) -> Any:
        with torch.no_grad():
            x = images.to(opening.device, non_blocking=True).to(dtype, memory_format=layout)
            return network((x / 255 - mean) / std)

    return run


def _onnx(directory: Path) -> Callable[[torch.Tensor], Any]:
    session = onnxruntime.InferenceSession(directory / "model.onnx", providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"image": images.permute(0, 2, 3, 1).contiguous().numpy()})[0]


def _ray_data(source: Path, directory: Path, spec: InputSpec) -> Measured:
    """`read_images`, or `read_webdataset` for a tar file, and ONNX Runtime in an actor."""
    import ray

    from benchmarks import batch  # as `__main__`, workers would not find it

    cores = len(os.sched_getaffinity(0))
    ray.init(num_cpus=cores, log_to_driver=False, configure_logging=False, include_dashboard=False)
    files = batch._Files(source, spec)

    class Model:
        def __init__(self) -> None:
            self.run = batch._onnx(directory)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            images = torch.stack([files._decoded(data) for data in batch["bytes"]])
            return {"label": self.run(images).argmax(1)}

    if source.is_dir():
        data = ray.data.read_binary_files(str(source), file_extensions=[suffix[1:] for suffix in SUFFIXES])
    else:
        data = ray.data.read_webdataset(str(source), decoder=False).map(
            lambda row: {"bytes": row.get("png") or row["jpg"]}
        )
    began = time.perf_counter()
    labelled = data.map_batches(Model, batch_size=BATCH, concurrency=1)
    count = sum(len(batch["label"]) for batch in labelled.iter_batches())
    seconds = time.perf_counter() - began
    ray.shutdown()
    return count, seconds


if __name__ == "__main__":
    cyclopts.run(main)
