"""Compares one exported file with the trained network: parity, accuracy and limits."""

from dataclasses import dataclass

from export.artifact.formats import GraphFormat
from export.engines.cuda import Device
from export.engines.protocol import Engine, Run
from export.verify.accuracy import Correct
from export.verify.limits import Limits
from export.verify.parity import BATCHES, Parity, compare
from models.images.decode import Pixels
from training.data.streaming import Dataset
from training.evaluate.evaluation import logits_of


def checking_device(form: GraphFormat) -> Device:
    """The device for comparing a file: the CPU, or an available GPU for half precision in torch."""
    return "auto" if form.engine == "torchscript" and form.precision != "fp32" else "cpu"


def correct_of(run: Run, test: Dataset) -> Correct:
    """True for each labelled image whose top-1 class is correct, (N,)."""
    logits = logits_of(lambda images: run(images.numpy())[1], test, batch_size=64)
    correct: Correct = logits.numpy().argmax(axis=1) == test.labels.numpy()
    return correct


@dataclass(frozen=True)
class CheckedFile:
    """An open file, and its results."""

    engine: Engine
    form: GraphFormat
    parity: Parity
    correct: Correct | None

    @property
    def accuracy(self) -> float | None:
        """Share of the test images whose top-1 class is correct, in [0, 1]; None without a test split."""
        return None if self.correct is None else float(self.correct.mean())


def check_graph(
    engine: Engine, form: GraphFormat, network: Run, images: Pixels | Dataset, test: Dataset | None, limits: Limits
) -> CheckedFile:
    """Compares an open file with the trained network on `images`, and measures its accuracy on `test`.

    Raises:
        ParityError: an fp32 file differs by more than the limit.
    """
    limit = limits.difference if form.precision == "fp32" else None
    parity = compare(engine.run, network, images, batches=BATCHES, limit=limit)
    return CheckedFile(engine, form, parity, None if test is None else correct_of(engine.run, test))
