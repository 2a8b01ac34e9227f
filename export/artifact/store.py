"""BentoML's model store: registers artifacts as its models `NAME:VERSION`, and finds them by that tag.

The store is the folder `models` of BENTOML_HOME, by default of `~/bentoml`. A model in it is an artifact directory with
BentoML's `model.yaml` beside the manifest. Nothing is pickled or unpickled.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import bentoml
from bentoml.exceptions import NotFound

from export.artifact.formats import GRAPH_FORMATS
from export.artifact.manifest import MANIFEST_FILE, STORE_PREFIX, ArtifactError, Manifest, check_files, read_manifest

_PROJECT = {"project": "convscope"}


def register(artifact: Path) -> str:
    """Copies an artifact into the store, with labels and metadata. Registering it again changes nothing.

    Args:
        artifact: an artifact directory; the manifest and its files are copied.

    Returns:
        The tag, for example `lenet-mnist:1`.

    Raises:
        ArtifactError: the artifact is damaged, its name is not a valid tag, or the store has another with that tag.
    """
    manifest = read_manifest(artifact)
    check_files(artifact, manifest)
    tag = _tag_of(manifest)
    try:
        there = bentoml.models.list(tag)
        if not there:
            _create(tag, artifact, manifest)
            return tag
    except Exception as error:  # a damaged model.yaml raises its parser's exceptions
        raise ArtifactError(f"{tag} cannot be registered in BentoML's store: {_one_line(error)}") from error
    _check_same(tag, Path(there[0].path), manifest)
    return tag


def find_in_store(tag: str) -> Path:
    """The artifact directory inside the store.

    Args:
        tag: `NAME:VERSION`; `NAME` or `NAME:latest` for the one registered last, which is BentoML's meaning of
            latest.

    Raises:
        ArtifactError: the store has no model with that tag, or it is not an artifact; lists the available artifacts.
    """
    asked = repr(f"{STORE_PREFIX}{tag}")
    try:
        wanted = bentoml.Tag.from_str(tag)
        if wanted.version in (None, "latest"):
            found = [bentoml.models.get(wanted)]
        else:
            found = bentoml.models.list(wanted)  # `get` would take version 12 for version 1
    except NotFound:
        found = []
    except Exception as error:
        raise ArtifactError(f"{asked}: {_one_line(error)}") from error
    if not found:
        raise ArtifactError(f"{asked} is not in BentoML's model store; artifacts there: {_known()}")
    path = Path(found[0].path)
    if not (path / MANIFEST_FILE).is_file():
        raise ArtifactError(f"{asked} is no artifact: no {MANIFEST_FILE} in {path}; artifacts there: {_known()}")
    return path


def _tag_of(manifest: Manifest) -> str:
    try:
        if manifest.name != manifest.name.lower():  # BentoML would lower it, and two names could become one
            raise ValueError
        return str(bentoml.Tag(manifest.name, str(manifest.version)))
    except ValueError:
        raise ArtifactError(
            f"{manifest.name!r} cannot be a model's name in BentoML's store; that has lower-case letters, digits, '.', "
            "'_' and '-', at most 63, and ends with a letter or digit: export again with another --name"
        ) from None


def _create(tag: str, artifact: Path, manifest: Manifest) -> None:
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")  # otherwise it posts usage statistics for every saved model
    with bentoml.models.create(tag, module=__name__, labels=_labels(manifest), metadata=_metadata(manifest)) as model:
        for name in (*manifest.files, MANIFEST_FILE):
            shutil.copyfile(artifact / name, model.path_of(name))


def _labels(manifest: Manifest) -> dict[str, str]:
    return {**_PROJECT, "network": manifest.model, "dataset": str(manifest.dataset.get("name", ""))}


def _metadata(manifest: Manifest) -> dict[str, Any]:
    return {
        "classes": list(manifest.classes),
        "input": manifest.input.to_json()["input"],
        "temperature": manifest.temperature,
        "accuracy": {split: values["accuracy"] for split, values in manifest.metrics.items() if "accuracy" in values},
        "precisions": sorted({form.precision for form in GRAPH_FORMATS if form.file in manifest.files}),
        "files": {name: entry.size_bytes for name, entry in manifest.files.items()},
    }


def _check_same(tag: str, there: Path, manifest: Manifest) -> None:
    remedy = f"`bentoml models delete {tag}` removes it"
    try:
        stored = read_manifest(there)
        check_files(there, stored)
    except ArtifactError as error:
        raise ArtifactError(f"BentoML's store has a damaged {tag}: {error}; {remedy}") from None
    if stored != manifest:
        raise ArtifactError(f"BentoML's store has another {tag}, of other content, in {there}; {remedy}")


def _known() -> str:
    try:
        models = [model for model in bentoml.models.list() if _PROJECT.items() <= model.info.labels.items()]
    except Exception as error:
        return f"unknown, as it cannot be listed ({_one_line(error)})"
    return ", ".join(str(model.tag) for model in models) or "none"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
