"""A network with what changes it: device, forward pass, optimizer, schedule, and the single training step."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from models.inputs import InputSpec
from models.normalize import Normalize
from training.recipe import Recipe

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Learner:
    """What a step needs and changes.

    Attributes:
        network: on its device, in training mode while it learns.
        forward: uint8 (N, H, W, C) to logits (N, K), through `network`.
        autocast: compute in bf16 where that is safe.
    """

    network: nn.Module
    forward: Forward
    optimizer: AdamW
    schedule: OneCycleLR
    label_smoothing: float
    autocast: bool


def pick_device(name: str) -> torch.device:
    """The device of a recipe; `auto` is CUDA where there is one.

    Raises:
        ValueError: a CUDA device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ValueError(f"device is {name!r}; torch sees {count} CUDA devices here")
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """The precision of a recipe, "fp32" or "bf16"; `auto` is bf16 with CUDA."""
    if name != "auto":
        return name
    return "bf16" if device.type == "cuda" else "fp32"


def forward_of(network: nn.Module, spec: InputSpec, *, device: torch.device, channels_last: bool = False) -> Forward:
    """The network behind the normalisation that is also exported: uint8 (N, H, W, C) to logits (N, K)."""
    normalize = Normalize(spec).to(device)
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def forward(images: Tensor) -> Tensor:
        x = normalize(images).contiguous(memory_format=layout)  # (N, C, H, W)
        logits: Tensor = network(x)  # (N, K)
        return logits

    return forward


def make_learner(network: nn.Module, spec: InputSpec, recipe: Recipe, *, steps: int) -> Learner:
    """Moves the network to the recipe's device and adds AdamW under a one-cycle schedule of `steps` steps.

    Parameters of one dimension, which are biases and those of normalisations, are not decayed.
    """
    device = pick_device(recipe.device)
    network.to(device)
    if recipe.channels_last:
        network.to(memory_format=torch.channels_last)
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = AdamW(groups, lr=recipe.learning_rate, fused=True)
    return Learner(
        network=network,
        forward=forward_of(network, spec, device=device, channels_last=recipe.channels_last),
        optimizer=optimizer,
        schedule=OneCycleLR(optimizer, max_lr=recipe.learning_rate, total_steps=steps),
        label_smoothing=recipe.label_smoothing,
        autocast=pick_precision(recipe.precision, device) == "bf16",
    )


def train_step(learner: Learner, images: Tensor, labels: Tensor) -> Tensor:
    """One step down the gradient on uint8 images (N, H, W, C) and labels (N,).

    Returns:
        float64 (2,), on the device: the loss summed over the images, and how many were right before the step.
    """
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=learner.autocast):
        logits = learner.forward(images).float()  # (N, K)
    loss = functional.cross_entropy(logits, labels, label_smoothing=learner.label_smoothing)
    learner.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch's own
    learner.optimizer.step()
    learner.schedule.step()
    right = (logits.detach().argmax(1) == labels).sum()
    return torch.stack((loss.detach() * len(labels), right)).double()
