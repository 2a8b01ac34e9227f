"""Recipes in files: as `--print-recipe` prints them, or inside a checkpoint's config.json."""

import json
import math
from pathlib import Path
from typing import Any

from training.recipes.recipe import Recipe


def read_recipe(path: Path, *, fresh: bool = False) -> dict[str, Any]:
    """The fields of a recipe, some or all, from a JSON object or from its key `recipe`.

    Args:
        path: the file.
        fresh: whether a run that begins with random weights is to follow it.

    Raises:
        ValueError: not such a file, an unknown field, or a value out of its range; or the configuration of a run that
            began with weights, and `fresh`. The message names the file.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a recipe: {error}") from None
    fields = content.get("recipe", content) if isinstance(content, dict) else None
    if not isinstance(fields, dict):
        raise ValueError(f"{path} is not a recipe: it must be a JSON object of settings")
    begun = content.get("weights") if "recipe" in content else None
    if fresh and begun:
        name = begun.get("name") if isinstance(begun, dict) else begun
        raise ValueError(
            f"{path} is of a run that began with the weights {name!r}; give them with --weights, or its "
            "recipe alone (--print-recipe prints it) to begin with random ones"
        )
    try:
        Recipe().override(with_enough_epochs(fields))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return fields


def with_enough_epochs(fields: dict[str, Any]) -> dict[str, Any]:
    """With epochs enough for the settings that count them, if none are given: to check all the others."""
    counts = [fields.get(name, 0) for name in ("warmup_epochs", "freeze_epochs", "unfreeze_epochs")]
    numbers = all(isinstance(count, int | float) and math.isfinite(count) for count in counts)
    return {"epochs": max(0, int(sum(counts))) + 1, **fields} if numbers else fields
