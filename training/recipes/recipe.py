"""The settings of a training run, and their command-line flags."""

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args, get_type_hints

from models.errors import UserError

_KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of a training run besides the data and the network.

    Attributes:
        epochs: Passes over the training images; 0, with initial weights, skips training.
        batch_size: Images per step, over all processes.
        optimizer: adamw, sgd with Nesterov momentum, or muon for convolutions and adamw for the rest.
        learning_rate: Peak rate of the schedule.
        weight_decay: Weight decay; none for biases and normalisation parameters.
        momentum: Momentum of sgd.
        schedule: onecycle, or cosine after a linear warm-up.
        warmup_epochs: Epochs in which the rate rises to its peak; 0 is 30 % of them for onecycle, none for cosine.
        clip_norm: Maximum Euclidean norm of gradients, longer ones are scaled down; 0 is off.
        ema: Evaluate and keep a moving average of the weights with this decay, for example 0.999; 0 is off.
        label_smoothing: Share of a label that is spread over all classes, 0 to below 1.
        mixup: Alpha for blending two images, for example 0.2; 0 is off.
        cutmix: Alpha for pasting a part of another image, for example 1; 0 is off. With mixup, one of them at random.
        shift: Maximum random shift of training images in pixels: a random crop after padding.
        flip: Flip half of the training images horizontally.
        crop: Minimum area of a random crop scaled to full size, as a share of the image; for photographs, for
            example 0.35; 0 is off.
        rotation: Maximum random rotation of training images in degrees.
        reflect: Fill areas uncovered by shift and rotation with the mirrored image, not with the background's grey.
        erasing: Share of the training images in which a random rectangle is overwritten with noise.
        initial_scale: Sides of training images in the first half of the epochs, as a share of the full size used in
            the last fifth; for networks that take any size.
        freeze_epochs: First epochs in which only the last layer trains, for fine-tuning.
        unfreeze_epochs: Following epochs in which further layers join, from last to first; 0 adds all at once.
        validation_fraction: Share of the training images held out to monitor training and to fit the temperature.
        seed: Seed of initialisation, order, augmentation, dropout and the validation split.
        precision: auto is bf16 autocast with CUDA, and on a CPU with bf16 instructions; otherwise fp32.
        channels_last: Use the channels-last memory layout; faster for networks with many channels.
        compile: Train with torch.compile; slow to start.
        device: auto is CUDA if available.

    Raises:
        ValueError: a value is out of range.
    """

    epochs: int = 20
    batch_size: int = 128
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    momentum: float = 0.9
    schedule: Literal["onecycle", "cosine"] = "onecycle"
    warmup_epochs: float = 0.0
    clip_norm: float = 0.0
    ema: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    shift: int = 2
    flip: bool = False
    crop: float = 0.0
    rotation: float = 0.0
    reflect: bool = False
    erasing: float = 0.0
    initial_scale: float = 1.0
    freeze_epochs: int = 0
    unfreeze_epochs: int = 0
    validation_fraction: float = 0.1
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    channels_last: bool = False
    compile: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        def check(name: str, good: bool, wanted: str) -> None:
            if not good:
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be {wanted}")

        for name, hint in get_type_hints(Recipe).items():
            kinds, wanted = _KINDS.get(hint, ((str,), "a word"))
            value = getattr(self, name)
            check(name, isinstance(value, kinds) and isinstance(value, bool) == (hint is bool), wanted)
            if hint is not bool and get_args(hint):
                check(name, value in get_args(hint), "one of " + ", ".join(get_args(hint)))
        check("epochs", self.epochs >= 0, "at least 0")
        check("batch_size", self.batch_size >= 2, "at least 2")
        check("learning_rate", 0 < self.learning_rate < math.inf, "above 0 and finite")
        for name in ("weight_decay", "clip_norm", "mixup", "cutmix"):
            check(name, 0 <= getattr(self, name) < math.inf, "at least 0 and finite")
        for name in ("momentum", "ema", "label_smoothing"):
            check(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        check(
            "warmup_epochs",
            0 <= self.warmup_epochs < max(1, self.epochs),
            f"at least 0 and below the {self.epochs} epochs",
        )
        check("shift", self.shift >= 0, "at least 0 pixels")
        check("rotation", 0 <= self.rotation <= 180, "between 0 and 180 degrees")
        check("crop", 0 <= self.crop <= 1, "between 0 and 1")
        check("erasing", 0 <= self.erasing <= 1, "between 0 and 1")
        check("initial_scale", 0 < self.initial_scale <= 1, "above 0 and at most 1")
        for name in ("freeze_epochs", "unfreeze_epochs"):
            check(name, getattr(self, name) >= 0, "at least 0")
        left = self.epochs - self.freeze_epochs
        check(
            "unfreeze_epochs",
            not self.unfreeze_epochs or self.unfreeze_epochs < left,
            f"0 or below {left}, or the first layers would never train in {self.epochs} epochs"
            + (f", {self.freeze_epochs} of which are frozen" if self.freeze_epochs else ""),
        )
        check("validation_fraction", 0 < self.validation_fraction < 1, "between 0 and 1")
        check("seed", 0 <= self.seed < 2**63, "between 0 and 2**63 - 1")
        kind, _, number = self.device.partition(":")
        check(
            "device", kind in ("auto", "cpu", "cuda") and (not number or number.isdigit()), "auto, cpu, cuda or cuda:1"
        )

    def to_json(self) -> dict[str, Any]:
        """The fields for config.json and resume.pt."""
        return asdict(self)

    def override(self, values: dict[str, Any]) -> "Recipe":
        """A copy with some fields replaced; raises ValueError for an unknown field or a value out of range."""
        known = [field.name for field in fields(self)]
        if unknown := sorted(set(values) - set(known)):
            raise UserError(f"a recipe has no {unknown[0]!r}; it has {', '.join(known)}")
        return replace(self, **values)


if TYPE_CHECKING:
    RecipeFlags = dict[str, Any]
else:
    # The command-line flags: the same fields with the same help, all optional.
    RecipeFlags = TypedDict("RecipeFlags", get_type_hints(Recipe), total=False)
    RecipeFlags.__doc__ = Recipe.__doc__


def read_recipe(path: Path, *, fresh: bool = False) -> dict[str, Any]:
    """Reads some or all fields of a recipe from a JSON object or its key `recipe`.

    Args:
        fresh: the run begins with random weights, so the config.json of a run that did not is refused.

    Raises:
        ValueError: not a recipe, an unknown field, or a value out of range.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a recipe: {error}") from None
    fields = content.get("recipe", content) if isinstance(content, dict) else None
    if not isinstance(fields, dict):
        raise UserError(f"{path} is not a recipe: it must be a JSON object of settings")
    begun = content.get("weights") if "recipe" in content else None
    if fresh and begun:
        name = begun.get("name") if isinstance(begun, dict) else begun
        raise UserError(
            f"{path} is of a run that began with the weights {name!r}; give them with --weights, or its "
            "recipe alone (--print-recipe prints it) to begin with random ones"
        )
    try:
        Recipe().override(with_minimum_epochs(fields))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    return fields


def with_minimum_epochs(fields: dict[str, Any]) -> dict[str, Any]:
    """Adds a sufficient number of epochs if none is given, so that the other settings can be checked."""
    counts = [fields.get(name, 0) for name in ("warmup_epochs", "freeze_epochs", "unfreeze_epochs")]
    numbers = all(isinstance(count, int | float) and math.isfinite(count) for count in counts)
    return {"epochs": max(0, int(sum(counts))) + 1, **fields} if numbers else fields
