"""Shows a training run: a live bar on a terminal, otherwise a line per epoch."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from models.checkpoint.names import RESUME_FILE
from training.events import EpochFinished, Event, RunFinished, RunStarted, StepFinished
from training.run.directory import UNUSED_FILE

READ_EVERY_S = 0.5  # reading the running loss synchronises with the accelerator
CLASSES_NAMED = 10


class TrainingProgress:
    """A `Report` and context manager that always restores the terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            refresh_per_second=4,
            disable=not console.is_terminal,
        )
        self.task: TaskID | None = None
        self.processes = 1
        self.directory: Path | None = None  # known after the run begins
        self.epochs = self.train_images = self.first_epoch = 0
        self.read_at = self.epoch_began = 0.0

    def __enter__(self) -> "TrainingProgress":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._start(event)
            case StepFinished():
                self._step(event)
            case EpochFinished():
                self._line(
                    f"epoch {event.epoch}/{self.epochs}  loss {event.train_loss:.4f}  "
                    f"validation loss {event.validation_loss:.4f}, accuracy {event.validation_accuracy:.2%}  "
                    f"{event.images_per_s:,.0f} images/s  {event.seconds:.1f} s"
                )
                self.epoch_began = time.perf_counter()
            case RunFinished():
                self.bar.stop()
                test = event.metrics["test"]
                self._line(f"test accuracy {test['accuracy']:.2%} after {event.seconds:.1f} s of training")
                self._line(f"lowest recall of a class: {test['worst_recall']:.2%} ({event.worst_class})")
                if event.missing_pictures:
                    self._line(f"the pictures could not be drawn: {event.missing_pictures}")

    def print_resume_command(self, model: str, data: str, options: Sequence[str]) -> None:
        """Prints the command that resumes the interrupted run, if it had begun; `options` are its data options."""
        self.bar.stop()
        if self.directory is None or not (self.directory / RESUME_FILE).is_file():
            self._line("interrupted before the first step; nothing to resume")
            return
        words = ["convscope", "train"]
        if self.processes > 1:
            words = ["torchrun", "--nproc-per-node", str(self.processes), "-m", "convscope", "train"]
        words = [*words, model, "--data", data, "--out", str(self.directory), "--resume", *options]
        self._line(f"interrupted; resume with: {shlex.join(words)}")

    def _start(self, event: RunStarted) -> None:
        counts = ", ".join(f"{count:,} {name}" for name, count in event.counts.items())
        height, width, channels = event.shape
        self._line(
            f"{event.model}, {event.parameters:,} parameters, on {event.device} in {event.precision}; "
            f"{event.dataset} at {height}x{width}x{channels}: {counts}"
        )
        named = ", ".join(event.classes[:CLASSES_NAMED])
        more = ", ..." if len(event.classes) > CLASSES_NAMED else ""
        self._line(f"{len(event.classes)} classes: {named}{more}")
        if event.processes > 1:
            self._line(f"{event.processes} processes train together")
        if event.streamed:
            self._line("the images are more than --memory-limit-mb: decoded from their files in every epoch")
        if event.weights:
            self._line(f"initial weights: {event.weights}")
        if event.left_out:
            self._line(f"{event.left_out} damaged files are left out; {UNUSED_FILE} has their names and the reasons")
        if event.passed_over:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in event.passed_over.items())
            self._line(f"passed over, as they are no images by their names: {kinds}; {UNUSED_FILE} lists them")
        if event.ambiguous:
            count, (one, other) = event.ambiguous
            are = "image is" if count == 1 else "images are"
            self._line(f"{count} {are} in two classes, for example {one} and {other}: at least one is mislabelled")
        if event.no_onnx:
            self._line(
                f"{event.no_onnx}: this network can be exported with `--formats torchscript` only, and not be inspected"
            )
        if event.dark:
            self._line(event.dark)
        if event.test_folder:
            self._line(
                f"there is no test/: {event.test_folder}/ is measured on, and the validation images are of train/"
            )
        if event.duplicates:
            self._line(f"{event.duplicates} test images are also training images: the test accuracy will be too high")
        if event.first_epoch > 1:
            left = f"epoch {event.first_epoch} of {event.epochs}"
            self._line(f"continuing with {left if event.first_epoch <= event.epochs else 'the evaluation'}")
        self.directory, self.processes = event.directory, event.processes
        self.epochs, self.train_images, self.first_epoch = event.epochs, event.counts["train"], event.first_epoch
        total = self.train_images * (event.epochs - event.first_epoch + 1)
        self.task = self.bar.add_task("", total=total, epoch=f"{event.first_epoch}/{event.epochs}", figures="")
        self.epoch_began = time.perf_counter()

    def _step(self, event: StepFinished) -> None:
        now = time.perf_counter()
        if self.task is None or self.bar.disable or now - self.read_at < READ_EVERY_S:
            return
        self.read_at = now
        loss, accuracy = (event.totals / event.images).tolist()
        rate = event.images * event.processes / (now - self.epoch_began)
        self.bar.update(
            self.task,
            completed=(event.epoch - self.first_epoch) * self.train_images + event.images * event.processes,
            epoch=f"{event.epoch}/{self.epochs}",
            figures=f"loss {loss:.4f}  accuracy {accuracy:.2%}  {rate:,.0f} images/s",
        )

    def _line(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
