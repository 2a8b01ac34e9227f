"""A broken export is caught, and the message names what was broken."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.engines.protocol import Run
from export.verify.diagnosis import diagnose
from export.verify.parity import ParityError, compare
from export.verify.reference import reference
from export.writers.deployable import Deployable
from models.checkpoint.directory import Checkpoint, load_checkpoint
from models.checkpoint.samples import load_samples
from models.images.decode import Floats, Pixels
from tests.conftest import make_checkpoint

KINDS: dict[str, dict[str, Any]] = {
    "grey": {"model": "lenet", "size": 28},
    "rgb": {"model": "simple_cnn", "size": 32, "channels": 3},
    "batch norm": {"model": "resnet20", "size": 8, "channels": 3},
}


def running(module: Deployable) -> Run:
    def run(images: Pixels) -> tuple[Floats, Floats]:
        with torch.no_grad():
            probabilities, logits = module(torch.from_numpy(images))
        return probabilities.numpy(), logits.numpy()

    return run


def moved_mean(levels: float) -> Callable[[Checkpoint], Run]:
    def broken(checkpoint: Checkpoint) -> Run:
        wrong = Deployable(checkpoint)
        wrong.normalize.mean += levels
        return running(wrong)

    return broken


def swapped_classes(checkpoint: Checkpoint) -> Run:
    right = running(Deployable(checkpoint))

    def run(images: Pixels) -> tuple[Floats, Floats]:
        probabilities, logits = right(images)
        order = [1, 0, *range(2, probabilities.shape[1])]
        return probabilities[:, order], logits[:, order]

    return run


def blue_first(checkpoint: Checkpoint) -> Run:
    right = running(Deployable(checkpoint))
    return lambda images: right(images[..., ::-1].copy())


def training_mode(checkpoint: Checkpoint) -> Run:
    return running(Deployable(checkpoint).train())


def other_weights(checkpoint: Checkpoint) -> Run:
    with torch.no_grad():
        for parameter in checkpoint.network.parameters():
            parameter.copy_(parameter.flip(0))
    return running(Deployable(checkpoint))


BREAKS = [
    ("grey", moved_mean(25), "with images about 24 grey levels brighter it agrees, so the mean"),
    ("grey", moved_mean(-25), "with images about 24 grey levels darker it agrees, so the mean"),
    ("rgb", moved_mean(-32), "with images about 32 grey levels darker it agrees, so the mean"),
    ("grey", swapped_classes, "another order, so the classes are swapped"),
    ("rgb", swapped_classes, "another order, so the classes are swapped"),
    ("rgb", blue_first, "with red and blue exchanged it agrees"),
    ("rgb", training_mode, "written in training mode"),  # dropout
    ("batch norm", training_mode, "written in training mode"),
    ("grey", other_weights, r"of 80 images differ$"),
]


@pytest.mark.parametrize(("kind", "broken", "says"), BREAKS)
def test_what_was_broken_is_named(kind: str, broken: Callable[[Checkpoint], Run], says: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "run", **KINDS[kind])
    images, right = load_samples(path / "samples.npz").images, reference(load_checkpoint(path))
    told = rf"at batch 1 image \d+ differs by \d.* in probability .*it says class \d+ with .*{says}"
    with pytest.raises(ParityError, match=told):
        compare(broken(load_checkpoint(path)), right, images)


def test_a_file_that_runs_at_batch_1_only_is_given_no_cause(lenet_checkpoint: Path) -> None:
    right = reference(load_checkpoint(lenet_checkpoint))

    def frozen(images: Pixels) -> tuple[Floats, Floats]:
        if len(images) > 1:
            raise RuntimeError("invalid dimensions")
        return right(255 - images)

    assert diagnose(frozen, right, np.zeros((2, 28, 28, 1), np.uint8)) == ""
