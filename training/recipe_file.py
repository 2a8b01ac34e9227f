"""Recipes in files: as `--print-recipe` prints them, or inside a checkpoint's config.json."""

import json
from pathlib import Path
from typing import Any

from training.recipe import Recipe


def read_recipe(path: Path) -> dict[str, Any]:
    """The fields of a recipe, some or all, from a JSON object or from its key `recipe`.

    Raises:
        ValueError: not such a file, an unknown field, or a value out of its range; the message names the file.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a recipe: {error}") from None
    fields = content.get("recipe", content) if isinstance(content, dict) else None
    if not isinstance(fields, dict):
        raise ValueError(f"{path} is not a recipe: it must be a JSON object of settings")
    try:
        Recipe().override(with_epochs_for_warmup(fields))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return fields


def with_epochs_for_warmup(fields: dict[str, Any]) -> dict[str, Any]:
    """With enough epochs for their warm-up, if their number is left to the default: to check the other settings."""
    warm = fields.get("warmup_epochs", 0)
    return {"epochs": int(warm) + 1, **fields} if isinstance(warm, int | float) else fields
