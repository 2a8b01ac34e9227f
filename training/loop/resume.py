"""resume.pt: the state from which an interrupted training continues with identical results."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.checkpoint.names import RESUME_FILE
from models.checkpoint.weights import Weights
from models.errors import UserError
from models.files import atomic_write
from training.recipes.recipe import Recipe

SCHEMA = 2


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A training between two epochs; tensors and primitives only, so that it loads with `weights_only=True`.

    Attributes:
        facts: values that must be equal to continue: network, options, classes, input, data set.
        recipe: every setting.
        epoch: number of finished epochs.
        history: one dict per epoch.
        average: weights and steps of the moving average, or None without one.
        generators: for each process, states by name, including torch's global generators.
    """

    facts: dict[str, Any]
    recipe: dict[str, Any]
    epoch: int
    history: list[dict[str, Any]]
    weights: Weights
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    average: dict[str, Any] | None
    generators: list[dict[str, Tensor]]

    def write(self, workdir: Path) -> None:
        """Writes resume.pt atomically."""
        with (
            atomic_write(workdir / RESUME_FILE) as path,
            path.open("wb") as file,
        ):  # with a path, torch's error has no reason
            torch.save({"schema": SCHEMA, **vars(self)}, file)


def read_state(workdir: Path) -> RunState:
    """Reads a file from `RunState.write`, onto the CPU.

    Raises:
        ValueError: it is missing, damaged or of another version.
    """
    path = workdir / RESUME_FILE
    if not path.is_file():
        raise UserError(f"{path} does not exist; there is nothing to resume")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        schema = content.pop("schema")
    except Exception as error:  # torch.load raises arbitrary exceptions from its unpickler
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is damaged: {reason}") from None
    if schema != SCHEMA:
        raise UserError(f"{path}: schema is {schema!r}; this version reads {SCHEMA}")
    for once in ("best_epoch", "best_weights"):  # from versions that selected the best epoch
        content.pop(once, None)
    try:
        state = RunState(**content)
        Recipe(**state.recipe)
    except (TypeError, ValueError) as error:
        reason = str(error).partition("__init__() ")[2] or str(error)
        raise UserError(
            f"{path} was written by another version of convscope, which has to continue it: {reason}"
        ) from None
    return state


def resume_hint(epoch: int) -> str:
    """The hint for a file that could not be written; `epoch` is the last one in resume.pt."""
    return f"{RESUME_FILE} is as it was after epoch {epoch}, and --resume continues from there"


@contextmanager
def fork_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch's global generators of the CPU and of `device` inside the block, and restores them afterwards."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for each in cuda:
            with torch.cuda.device(each):
                torch.cuda.manual_seed(seed)
        yield


def generator_states(own: dict[str, torch.Generator], device: torch.device) -> dict[str, Tensor]:
    """The states of `own` by name, and of torch's global generators, on the CPU."""
    states = {name: generator.get_state() for name, generator in own.items()}
    states["torch.cpu"] = torch.get_rng_state()
    if device.type == "cuda":
        states["torch.cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generator_states(own: dict[str, torch.Generator], device: torch.device, states: dict[str, Tensor]) -> None:
    """Restores states from `generator_states`."""
    for name, generator in own.items():
        generator.set_state(states[name])
    torch.set_rng_state(states["torch.cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["torch.cuda"], device)
