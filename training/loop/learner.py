"""A network with its device, forward pass, optimizer and schedule, and the single training step."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from models.errors import UserError
from models.graph.source_line import users_line
from models.images.input_spec import InputSpec
from models.images.normalize import Normalize
from training.augment.mixing import MixedLabels
from training.loop.process_group import SINGLE_PROCESS, ProcessGroup
from training.optim.ema import ExponentialMovingAverage
from training.optim.schedules import make_optimizer, make_schedule
from training.recipes.recipe import Recipe

Forward = Callable[[Tensor], Tensor]


@dataclass
class Learner:
    """The state that a training step uses and changes.

    Attributes:
        forward: images (N, H, W, C) in [0, 255] to logits (N, K), through `network`; see `training_forward`.
        autocast: use bf16 autocast.
    """

    network: nn.Module
    forward: Forward
    optimizer: Optimizer
    schedule: LRScheduler
    average: ExponentialMovingAverage | None
    label_smoothing: float
    clip_norm: float
    autocast: bool

    @property
    def evaluation_network(self) -> nn.Module:
        """The network to evaluate and keep."""
        return self.network if self.average is None else self.average.network


def pick_device(name: str, *, local_rank: int | None = None) -> torch.device:
    """The device of a recipe; `auto` is CUDA if available.

    `local_rank` is the GPU's number if each of several processes has its own.

    Raises:
        ValueError: the CUDA device does not exist.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and local_rank is not None:
        device = torch.device("cuda", local_rank)
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise UserError(f"device is {str(device)!r}; torch sees {count} CUDA devices here")
    return device


def pick_precision(recipe: Recipe, device: torch.device) -> str:
    """The precision of a recipe, "fp32" or "bf16".

    `auto` is bf16 with CUDA and on processors with instructions for it: `benchmarks/training.py` measures the gain, and
    docs/training.md the accuracies.
    """
    if recipe.precision != "auto":
        return recipe.precision
    if device.type == "cuda":
        return "bf16"
    processor: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # newer than the oldest supported torch
    fast = processor.get("avx512_bf16") or processor.get("amx_bf16")
    return "bf16" if fast else "fp32"


def make_forward(
    network: Callable[[Tensor], Tensor], spec: InputSpec, *, device: torch.device, channels_last: bool = False
) -> Forward:
    """The network preceded by the exported normalisation: uint8 (N, H, W, C) to logits (N, K)."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    normalize = Normalize(spec, memory_format=layout).to(device)

    def forward(images: Tensor) -> Tensor:
        logits: Tensor = network(normalize(images))  # (N, K)
        return logits

    return forward


def training_forward(
    network: nn.Module, spec: InputSpec, recipe: Recipe, *, group: ProcessGroup = SINGLE_PROCESS
) -> Forward:
    """The forward pass for training, with gradients averaged over the group, and compiled if the recipe enables it.

    Create it again when the set of trainable parameters changes.
    """
    device = next(network.parameters()).device
    module: Callable[[Tensor], Tensor] = group.data_parallel(network)
    if recipe.compile:
        module = torch.compile(module)
    return make_forward(module, spec, device=device, channels_last=recipe.channels_last)


def make_learner(
    network: nn.Module, spec: InputSpec, recipe: Recipe, *, steps: int, device: torch.device | None = None
) -> Learner:
    """Moves the network to the device, by default the recipe's, and adds the recipe's optimizer for `steps` steps."""
    device = device or pick_device(recipe.device)
    network.to(device)
    if recipe.channels_last:
        network.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(network, recipe)
    return Learner(
        network=network,
        forward=make_forward(network, spec, device=device, channels_last=recipe.channels_last),
        optimizer=optimizer,
        schedule=make_schedule(optimizer, recipe, steps=steps),
        average=ExponentialMovingAverage(network, recipe.ema) if recipe.ema else None,
        label_smoothing=recipe.label_smoothing,
        clip_norm=recipe.clip_norm,
        autocast=pick_precision(recipe, device) == "bf16",
    )


def train_step(
    learner: Learner, images: Tensor, labels: Tensor, *, partners: MixedLabels | None = None, weight: float = 1.0
) -> Tensor:
    """Takes one step down the gradient.

    Args:
        images: uint8, or float32 in [0, 255], (N, H, W, C).
        labels: int64 (N,).
        partners: mixing partners of the images, if any.
        weight: weight of the loss.

    Returns:
        float64 (2,), on the device: the loss summed over the images, and the number of correct predictions.

    Raises:
        ValueError: the loss depends on no trainable parameter, or an operation of the network fails for these images or
            in bf16.
    """
    try:
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=learner.autocast):
            logits = learner.forward(images).float()  # (N, K)
    except RuntimeError as error:
        if (ours := _explained(learner, images, error)) is None:
            raise
        raise ours from error
    loss = functional.cross_entropy(logits, labels, label_smoothing=learner.label_smoothing)
    if partners is not None:
        mixed_in = functional.cross_entropy(logits, partners.labels, label_smoothing=learner.label_smoothing)
        loss = loss.lerp(mixed_in, partners.weight)
    if not loss.requires_grad:
        raise UserError("no trainable parameter affects the network's output; freeze fewer epochs or layers")
    learner.optimizer.zero_grad()
    try:
        (loss if weight == 1 else loss * weight).backward()  # type: ignore[no-untyped-call]  # torch's own
    except RuntimeError as error:
        if (ours := _explained(learner, images, error)) is None:
            raise
        raise ours from error
    if learner.clip_norm:
        clip_grad_norm_(learner.network.parameters(), learner.clip_norm)
    learner.optimizer.step()
    learner.schedule.step()
    if learner.average is not None:
        learner.average.update()
    right = (logits.detach().argmax(1) == labels).sum()
    return torch.stack((loss.detach() * len(labels), right)).double()


def _explained(learner: Learner, images: Tensor, error: RuntimeError) -> UserError | None:
    """The error of a step for the user, if bf16 or code outside our packages is the cause; otherwise None."""
    if isinstance(error, torch.OutOfMemoryError):
        return None
    line = users_line(error.__traceback__)
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    name = type(learner.network).__name__
    place = f"{line}: " if line else ""
    if learner.autocast and _runs_in_fp32(learner, images):
        return UserError(f"{name} does not run in bf16: {place}{reason}; train with --precision fp32")
    return UserError(f"{name} fails in training: {place}{reason}") if place else None


def _runs_in_fp32(learner: Learner, images: Tensor) -> bool:
    try:
        learner.forward(images).float().sum().backward()  # type: ignore[no-untyped-call]  # torch's own
    except RuntimeError:
        return False
    return True
