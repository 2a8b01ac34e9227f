"""The settings of a training run, their defaults for each network and data set, and the command's flags for them."""

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args, get_type_hints


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides how a network is trained, besides the data and the network.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a step.
        learning_rate: The highest rate of the one-cycle schedule.
        weight_decay: AdamW's; biases and normalisation parameters have none.
        label_smoothing: Share of a label that is spread over all classes, 0 to below 1.
        shift: Move training images at random by up to so many pixels.
        flip: Mirror half of the training images left to right.
        optimizer: AdamW under a one-cycle schedule; there is no other yet.
        validation_fraction: Share of the training images that decides which epoch is kept.
        seed: Of initialisation, order, augmentation, dropout and the validation split.
        precision: auto is bf16 autocast with CUDA and fp32 on the CPU.
        channels_last: Keep images with their channels innermost; faster for networks of many channels.
        device: auto is CUDA where there is a device.

    Raises:
        ValueError: a value out of its range; the message quotes it.
    """

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.0
    shift: int = 2
    flip: bool = False
    optimizer: Literal["adamw+onecycle"] = "adamw+onecycle"
    validation_fraction: float = 0.1
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    channels_last: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        def check(name: str, good: bool, wanted: str) -> None:
            if not good:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {wanted}")

        check("epochs", self.epochs >= 1, "at least 1")
        check("batch_size", self.batch_size >= 2, "at least 2")
        check("learning_rate", 0 < self.learning_rate < math.inf, "above 0 and finite")
        check("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0 and finite")
        check("label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and below 1")
        check("shift", self.shift >= 0, "at least 0 pixels")
        check("validation_fraction", 0 < self.validation_fraction < 1, "between 0 and 1")
        check("seed", 0 <= self.seed < 2**63, "between 0 and 2**63 - 1")
        for name in ("optimizer", "precision"):
            known = get_args(get_type_hints(Recipe)[name])
            check(name, getattr(self, name) in known, "one of " + ", ".join(known))
        kind, _, number = self.device.partition(":")
        check(
            "device", kind in ("auto", "cpu", "cuda") and (not number or number.isdigit()), "auto, cpu, cuda or cuda:1"
        )

    def to_json(self) -> dict[str, Any]:
        """The fields, as config.json and resume.pt have them."""
        return asdict(self)

    def override(self, values: dict[str, Any]) -> "Recipe":
        """A copy with some fields replaced.

        Raises:
            ValueError: an unknown field, or a value out of its range.
        """
        known = [field.name for field in fields(self)]
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"a recipe has no {unknown[0]!r}; it has {', '.join(known)}")
        return replace(self, **values)


if TYPE_CHECKING:
    RecipeFlags = dict[str, Any]
else:
    # What the command takes: the same fields with the same help, all of which may be left out.
    RecipeFlags = TypedDict("RecipeFlags", get_type_hints(Recipe), total=False)
    RecipeFlags.__doc__ = Recipe.__doc__


def default_recipe(
    model: str, dataset: str, *, images: int, size: tuple[int, int], mode: Literal["L", "RGB"]
) -> Recipe:
    """The recipe that a network gets for a data set unless the caller says otherwise.

    Args:
        model: name of the network.
        dataset: name of the data set; folders go by their mode and their count.
        images: how many there are to train on.
        size: (height, width) as the network sees them.
        mode: of the images as the network sees them.
    """
    epochs = {"digits": 30, "stripes": 8, "mnist": 10, "fashion-mnist": 20, "cifar10": 30}
    recipe = Recipe(
        epochs=epochs.get(dataset, min(100, max(20, 40_000 // images))),  # small sets need more passes to learn at all
        batch_size=256 if images >= 20_000 else 64 if images >= 5_000 else 32,
        shift=round(min(size) * (0.125 if mode == "RGB" else 0.07)),
        flip=mode == "RGB" or dataset == "fashion-mnist",
        channels_last=model.startswith("resnet"),
    )
    if model == "lenet1998":  # sigmoids pass little gradient: larger steps, and no decay that pulls back
        recipe = replace(recipe, learning_rate=1e-2, weight_decay=0.0)
    return recipe
