"""The names of a checkpoint directory's files, and the check that they are there; needs no torch."""

from pathlib import Path

from models.errors import UserError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
RESUME_FILE = "resume.pt"  # of a run that is not finished


class CheckpointError(UserError):
    """A checkpoint directory that is missing something, damaged, or of another schema."""


def check_finished(directory: Path) -> None:
    """Raises CheckpointError unless the directory holds a finished checkpoint."""
    if not (directory / CONFIG_FILE).is_file():
        unfinished = (directory / RESUME_FILE).is_file()
        hint = "the training there is not finished; continue it with --resume" if unfinished else "no checkpoint there"
        raise CheckpointError(f"{directory / CONFIG_FILE} does not exist: {hint}")
