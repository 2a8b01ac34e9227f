"""One exported file against the trained network: parity, accuracy and limits."""

from dataclasses import dataclass

from export.artifact.formats import GraphFormat
from export.engines.cuda import Device
from export.engines.protocol import Engine, Run
from export.verify.parity import BATCHES, LIMIT_FP32, Parity, compare
from models.images.decode import Pixels
from training.data.streaming import Dataset
from training.evaluate.evaluation import logits_of


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an exported file must keep.

    Attributes:
        difference: fp32: the largest difference of a probability; then every first class is the same too.
        accuracy_loss: fp16, bf16 and int8: of the accuracy on the test split, as a share; 0.002 is 0.2 points.
    """

    difference: float = LIMIT_FP32
    accuracy_loss: float = 0.002


def checking_device(form: GraphFormat) -> Device:
    """The device on which a file is compared: the CPU, but a GPU, if there is one, for half precision in torch."""
    return "auto" if form.engine == "torchscript" and form.precision != "fp32" else "cpu"


def accuracy_of(run: Run, test: Dataset) -> float:
    """Share of labelled images whose first class is right, in [0, 1]."""
    logits = logits_of(lambda images: run(images.numpy())[1], test, batch_size=64)
    return float((logits.numpy().argmax(axis=1) == test.labels.numpy()).mean())


@dataclass(frozen=True)
class CheckedFile:
    """An open file, and what was found of it."""

    engine: Engine
    form: GraphFormat
    parity: Parity
    accuracy: float | None


def check_graph(
    engine: Engine, form: GraphFormat, network: Run, images: Pixels | Dataset, test: Dataset | None, limits: Limits
) -> CheckedFile:
    """Compares an open file with the trained network on `images`, and counts what it has right of `test`.

    Raises:
        ParityError: an fp32 file differs by more than the limit.
    """
    limit = limits.difference if form.precision == "fp32" else None
    parity = compare(engine.run, network, images, batches=BATCHES, limit=limit)
    return CheckedFile(engine, form, parity, None if test is None else accuracy_of(engine.run, test))
