"""Networks with random weights and real photographs, as checkpoints and artifacts that all sections share.

The running statistics of batch norms are taken from photographs, so that activations neither vanish nor grow and every
precision has real values to compute with. Speed does not depend on the weights otherwise.
"""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor, nn

import export.verify.check
import export.verify.speed
from benchmarks.gpu.options import Options
from benchmarks.gpu.report import last_line
from export.artifact.formats import Precision, find_format
from export.artifact.manifest import read_manifest
from export.pipeline.export import ExportData, export_checkpoint
from export.verify.limits import Limits
from export.writers.deployable import Deployable
from models.checkpoint.directory import CheckpointConfig, load_checkpoint, save_checkpoint
from models.checkpoint.names import CONFIG_FILE
from models.checkpoint.samples import SAMPLES_FILE, VerificationImages, save_samples
from models.images.decode import Pixels, decode_image
from models.images.input_spec import InputSpec
from training.data.in_memory import InMemoryDataset

WIDTH, HEIGHT = 640, 480  # of a photograph
QUALITY = 90
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 1000
FORMATS = ("onnx", "torchscript")
INSPECTED = "resnet18"  # inspection reads its ONNX file; the others in `artifacts` export faster without one

_SEED = 0
_CALIBRATION = 48  # images, in batches of 16
_BATCH = 16
_CANDIDATES = 24  # the source of the samples
_SAMPLES, _RAW = 8, 4
_LARGEST_SCALE = 20  # of the last layer; more would magnify rounding


def photographs(count: int, seed: int) -> list[bytes]:
    """JPEG files of 640x480 pixels: parts of scikit-learn's two photographs, at random places and scales."""
    generator = np.random.default_rng(seed)
    originals = [Image.fromarray(image) for image in load_sample_images().images]
    return [_cut(originals[index % len(originals)], generator) for index in range(count)]


def digits(count: int) -> list[bytes]:
    """PNG files of 28x28 pixels in grey: scikit-learn's digits, enlarged."""
    grey = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    images = [Image.fromarray(grey[index % len(grey)]) for index in range(count)]
    return [_encoded(image.resize((28, 28), Image.Resampling.BILINEAR), "PNG") for image in images]


def input_of(name: str, size: int = 224) -> InputSpec:
    """The input of a network: 28x28 grey of LeNet, a crop from RGB photographs of all others."""
    if name == "lenet":
        grey = {"background": (0,), "mean": (0.1307,), "std": (0.3081,)}
        return InputSpec(mode="L", height=28, width=28, resize=(28, 28), **grey)
    return InputSpec(
        mode="RGB",
        height=size,
        width=size,
        resize=round(size * 256 / 224),
        crop=(size, size),
        background=(0, 0, 0),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def precisions_for(options: Options) -> tuple[Precision, ...]:
    """The precisions of the artifacts; servers run in the last one."""
    return ("fp32", "fp16") if options.device == "cuda" else ("fp32",)


def files_for(name: str, count: int, seed: int = _SEED) -> list[bytes]:
    """Encoded images for requests to a network: digits for LeNet, photographs for all others."""
    return digits(count) if name == "lenet" else photographs(count, seed)


def pixels_for(name: str, count: int, size: int = 224) -> Pixels:
    """The same at the network's size, uint8 (N, H, W, C)."""
    spec = input_of(name, size)
    return np.stack([decode_image(file, spec) for file in files_for(name, count)])


def checkpoint(name: str, folder: Path, size: int = 224) -> Path:
    """Writes a checkpoint of `lenet`, `resnet18`, `resnet50` or another network with sample images.

    Returns:
        Its directory in `folder`; an existing one stays unchanged.
    """
    spec = input_of(name, size)
    directory = folder / (name if name == "lenet" else f"{name}-{size}")
    if (directory / CONFIG_FILE).is_file():
        return directory
    classes = 10 if name == "lenet" else CLASSES
    config = CheckpointConfig(model=name, classes=tuple(map(str, range(classes))), input=spec)
    files = files_for(name, _CALIBRATION + _CANDIDATES)
    images = np.stack([decode_image(file, spec) for file in files])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        network = config.build_network()
    calibrate(network, normalised(images[:_CALIBRATION], spec))
    _write(directory, config, network, files[_CALIBRATION:], images[_CALIBRATION:])
    return directory


def artifact(
    directory: Path, out: Path, formats: Sequence[str] = FORMATS, precisions: Sequence[Precision] = ("fp32",)
) -> Path:
    """Exports a checkpoint to `out`, checked on few images; keeps files of lower precision whatever their accuracy."""
    data = None if set(precisions) == {"fp32"} else export_data(directory)
    with _checked_briefly():
        return export_checkpoint(
            directory,
            out=out,
            formats=formats,
            precisions=precisions,
            data=data,
            limits=Limits(accuracy_loss=1.0),
        )


@contextmanager
def _checked_briefly() -> Iterator[None]:
    """Export compares batches of up to 256 images and times batches of 32, which takes minutes on few cores."""
    with patch.object(export.verify.check, "BATCHES", (1, 2, 7)), patch.object(export.verify.speed, "BATCHES", (1,)):
        yield


@dataclass(frozen=True)
class Artifacts:
    """Artifact directories by network, and the reasons for those that could not be made."""

    made: dict[str, Path]
    failed: dict[str, str]

    def lacking(self, precision: Precision) -> dict[str, str]:
        """Networks that have no TorchScript file of a precision, with the reason."""
        form = find_format("torchscript", precision)
        assert form is not None, "precisions that are measured have one"
        manifests = {name: read_manifest(path) for name, path in self.made.items()}
        return {
            name: manifest.dropped.get(form.file, "not exported")
            for name, manifest in manifests.items()
            if form.file not in manifest.files
        }


def artifacts(names: Iterable[str], folder: Path, precisions: Sequence[Precision] = ("fp32",)) -> Artifacts:
    """Makes checkpoints and artifacts of several networks, in parallel where there are enough cores; existing ones
    stay unchanged.
    """
    names = list(names)
    side_by_side = min(len(names), max(1, len(os.sched_getaffinity(0)) // 4))
    found = Artifacts({}, {})
    with ProcessPoolExecutor(side_by_side, get_context("spawn")) as pool:  # each has its own torch threads
        jobs = {name: pool.submit(_artifact, name, folder, tuple(precisions), side_by_side) for name in names}
        for name, job in jobs.items():
            try:
                found.made[name] = job.result()
            except Exception as error:  # an export may raise anything; the other networks are still measured
                found.failed[name] = last_line(error)
    return found


def export_data(directory: Path) -> ExportData:
    """Photographs labelled with the network's own top-1 classes, for precisions that are judged by their accuracy."""
    found = load_checkpoint(directory)
    pixels = pixels_for(found.config.model, _CANDIDATES, found.config.input.height)
    images = torch.from_numpy(pixels)
    with torch.inference_mode():
        labels = Deployable(found)(images)[1].argmax(1)
    return ExportData(test=InMemoryDataset(images, labels.clone()), calibration=pixels)


def normalised(images: Pixels, spec: InputSpec) -> Tensor:
    """uint8 (N, H, W, C) as float32 (N, C, H, W) with the mean and standard deviation of `spec` taken out."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255  # (N, C, H, W)
    return (x - torch.tensor(spec.mean).view(1, -1, 1, 1)) / torch.tensor(spec.std).view(1, -1, 1, 1)


def calibrate(network: nn.Module, x: Tensor) -> None:
    """Sets running statistics of batch norms to their averages over `x` (N, C, H, W), and scales the last layer so that
    its logits differ from image to image; leaves the network in evaluation mode.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average over all batches
    with torch.no_grad():
        network.train()
        for batch in x.split(_BATCH) if norms else ():
            network(batch)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
        logits = torch.cat([network.eval()(batch) for batch in x.split(_BATCH)])  # (N, K)
        scale = (1 / logits.std(0)).clamp(max=_LARGEST_SCALE)
        last.bias.copy_((last.bias - logits.mean(0)) * scale)
        last.weight.mul_(scale.view(-1, 1))


def _write(
    directory: Path, config: CheckpointConfig, network: nn.Module, files: Sequence[bytes], images: Pixels
) -> None:
    """Keeps the images whose top-1 class is clearest: on other processors sums differ in their last bits."""
    with torch.no_grad():
        best = network(normalised(images, config.input)).topk(2).values  # (N, 2)
    clearest = (best[:, 0] - best[:, 1]).argsort(descending=True)[:_SAMPLES].tolist()
    raw = tuple(np.asarray(Image.open(io.BytesIO(files[index]))) for index in clearest[:_RAW])
    labels = np.zeros(_SAMPLES, np.int64)
    directory.mkdir(parents=True, exist_ok=True)
    save_samples(directory / SAMPLES_FILE, VerificationImages(images[clearest], labels, raw, labels[:_RAW]))
    save_checkpoint(directory, config, network.state_dict())  # last: a directory with a config is complete


def _artifact(name: str, folder: Path, precisions: tuple[Precision, ...], share: int) -> Path:
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // share))
    directory = checkpoint(name, folder / "checkpoints")
    out = folder / f"artifacts-{'-'.join(precisions)}"
    for version in sorted((out / directory.name).glob("[0-9]*")):
        return version
    formats = FORMATS if name == INSPECTED else ("torchscript",)
    return artifact(directory, out, formats=formats, precisions=precisions)


def _cut(original: Image.Image, generator: np.random.Generator) -> bytes:
    scale = generator.uniform(max(WIDTH / original.width, HEIGHT / original.height), 2.5)
    width, height = WIDTH / scale, HEIGHT / scale
    left, top = generator.uniform(0, original.width - width), generator.uniform(0, original.height - height)
    box = (left, top, left + width, top + height)
    return _encoded(original.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=box), "JPEG", quality=QUALITY)


def _encoded(image: Image.Image, form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
