"""Artifacts under another name or version, and damaged ones."""

import json
from pathlib import Path
from typing import Any

from export.artifact.manifest import Manifest


def rename(directory: Path, **changes: Any) -> Path:
    """Writes an artifact's manifest anew with other fields, under a hash that fits; returns its directory."""
    content = json.loads((directory / "manifest.json").read_text())
    manifest = Manifest.from_json(content)
    fields = {name: getattr(manifest, name) for name in Manifest.__dataclass_fields__}
    (directory / "manifest.json").write_text(json.dumps(Manifest(**{**fields, **changes}).to_json()))
    return directory


def flip_byte(path: Path) -> None:
    """Damages a file in its middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
