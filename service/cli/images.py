"""The verbs `convscope classify` and `convscope inspect`: image files, here or on a server."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from cyclopts import CycloptsError

from export.artifact.directory import newest_version
from export.artifact.manifest import read_manifest
from export.engines.cuda import Device
from export.engines.selection import open_engine
from models.images.decode import decode_image
from models.images.errors import ImageError
from service.client.client import Client, NoAnswer, Policy
from service.client.client import Result as Answer
from service.errors import RequestError
from service.inspection.feature_maps import inspect_image, select_nodes
from service.inspection.tiles import draw_sheet
from service.serving.batch_size import BatchSize
from service.serving.predictions import default_top_k, top_predictions
from service.serving.served_model import open_model
from service.settings import read_settings

SOME_FAILED = 3
Result = dict[str, Any]


def classify(
    *images: Path,
    artifact: Path | None = None,
    url: str | None = None,
    model: str | None = None,
    top_k: int | None = None,
    device: Device = "auto",
    json: bool = False,
) -> int:
    """Classifies image files with an artifact, or on a running server.

    For example `convscope classify cat.jpg --artifact artifacts/resnet20-cifar10` or
    `convscope classify *.png --url http://127.0.0.1:3000 --json`.

    Args:
        images: Files: PNG, JPEG, GIF, BMP, WebP or TIFF.
        artifact: An artifact directory, or its name's folder for the newest version.
        url: Of a server, in place of --artifact; CONVSCOPE_TOKEN is sent if it is set.
        model: On a server with several: NAME or NAME:VERSION.
        top_k: How many classes to show [default: 5].
        device: Where --artifact runs.
        json: One JSON object a line in place of text.
    """
    if not images:
        raise CycloptsError(msg="no images were given")
    if (artifact is None) == (url is None):
        raise CycloptsError(msg="give either --artifact DIR or --url URL")
    if artifact and model:
        raise CycloptsError(msg="--model goes with --url; --artifact is one model")
    if url and device != "auto":
        raise CycloptsError(msg="--device goes with --artifact; a server chose its own")
    results = _local(artifact, top_k, device, images) if artifact else _remote(str(url), model, top_k, images)
    failed = 0
    for path, result in zip(images, results, strict=True):
        failed += "error" in result
        print(_as_json(path, result) if json else _as_text(path, result), flush=True)
    return 0 if not failed else 1 if failed == len(images) else SOME_FAILED


def inspect(artifact: Path, image: Path, *, layers: str = "*", out: Path) -> None:
    """Draws what every layer of an artifact's ONNX file makes of one image.

    For example `convscope inspect artifacts/lenet-mnist seven.png --layers "conv*,pool*" --out sheet.png`.

    Args:
        artifact: An artifact directory, or its name's folder for the newest version.
        image: A PNG, JPEG, GIF, BMP, WebP or TIFF file.
        layers: Comma-separated names or globs.
        out: The picture to write, PNG.
    """
    if out.suffix.lower() != ".png":
        raise CycloptsError(msg=f"--out is {out}; the sheet is a .png")
    directory = newest_version(artifact)
    one = BatchSize(1, seconds=1.0)  # nothing is to be timed for one image
    model = open_model(directory, read_manifest(directory), read_settings(), batch_size=one)
    pixels = decode_image(image.read_bytes(), model.manifest.input)
    maps = inspect_image(model, pixels, select_nodes(model, layers.split(",")))
    best = top_predictions(maps.probabilities, model.manifest.classes, 1)[0]
    title = f"{image.name}: {best['label']} ({best['probability']:.1%})"
    draw_sheet(title, pixels, maps.layers).save(out)
    print(f"{title}; {len(maps.layers)} layers of {maps.file} in {out}")


def _local(artifact: Path, top_k: int | None, device: Device, images: Sequence[Path]) -> Iterator[Result]:
    directory = newest_version(artifact)
    manifest = read_manifest(directory)
    engine = open_engine(directory, manifest, device=device)
    if top_k is not None and not 1 <= top_k <= len(manifest.classes):
        raise CycloptsError(msg=f"--top-k is {top_k}; {manifest.name} has {len(manifest.classes)} classes")
    count = top_k or default_top_k(manifest)

    def run(data: bytes) -> Result:
        probabilities, _ = engine.run(decode_image(data, manifest.input)[np.newaxis])
        predictions = top_predictions(probabilities[0], manifest.classes, count)
        return {"predictions": [{**row, "probability": float(row["probability"])} for row in predictions]}

    for path in images:
        yield _read_and(run, path)


def _remote(url: str, model: str | None, top_k: int | None, images: Sequence[Path]) -> Iterator[Result]:
    token, policy = read_settings().token, Policy(retries=3)
    try:
        with Client(url, token=token.get_secret_value() if token else None, policy=policy) as client:
            for start in range(0, len(images), policy.batch):
                for result in client.classify(images[start : start + policy.batch], model=model, top_k=top_k):
                    yield {"error": asdict(result.error)} if result.error else _predictions(result)
    except NoAnswer as error:
        raise RuntimeError(f"no answer from {url}: {error}" if not error.status else f"{url}: {error}") from None


def _predictions(result: Answer) -> Result:
    return {"predictions": [asdict(prediction) for prediction in result.predictions]}


def _read_and(run: Callable[[bytes], Result], path: Path) -> Result:
    try:
        return run(path.read_bytes())
    except OSError as error:
        return {"error": {"code": "file_unreadable", "message": f"{error.strerror}"}}
    except (ImageError, RequestError) as error:
        return {"error": {"code": error.code, "message": str(error)}}


def _as_json(path: Path, result: Result) -> str:
    return json.dumps({"image": str(path), **result})


def _as_text(path: Path, result: Result) -> str:
    if "error" in result:
        print(f"convscope: {path}: {result['error']['message']}", file=sys.stderr)
        return f"{path}: error ({result['error']['code']})"
    return f"{path}: " + ", ".join(f"{row['label']} {row['probability']:.1%}" for row in result["predictions"])
