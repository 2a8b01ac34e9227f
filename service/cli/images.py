"""The verbs `convscope classify` and `convscope inspect` for image files, with an artifact or a server."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cyclopts import CycloptsError

from export.engines.cuda import Device
from export.predictor import BATCH, Predictor, top_predictions
from models.errors import ConvscopeError
from models.results import Result
from service.client.client import Client, NoAnswer, Policy
from service.inspection.feature_maps import inspect_image, select_nodes
from service.inspection.tiles import draw_sheet
from service.settings import read_settings

SOME_FAILED = 3
Row = dict[str, Any]


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
        images: PNG, JPEG, GIF, BMP, WebP or TIFF files.
        artifact: An artifact directory, or its name's folder for the newest version.
        url: URL of a server, instead of --artifact; sends CONVSCOPE_TOKEN if it is set.
        model: NAME or NAME:VERSION, on a server with several models.
        top_k: Number of classes to show [default: 5].
        device: Device that runs --artifact.
        json: Print one JSON object per line instead of text.
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
    """Draws the feature maps of one image for every layer of an artifact's ONNX file.

    For example `convscope inspect artifacts/lenet-mnist seven.png --layers "conv*,pool*" --out sheet.png`.

    Args:
        artifact: An artifact directory, or its name's folder for the newest version.
        image: A PNG, JPEG, GIF, BMP, WebP or TIFF file.
        layers: Comma-separated names or globs.
        out: The PNG file to write.
    """
    if out.suffix.lower() != ".png":
        raise CycloptsError(msg=f"--out is {out}; the sheet is a .png")
    settings = read_settings()
    model = Predictor.open(
        artifact,
        engine=settings.engine,
        precision=settings.precision,
        device=settings.device,
        threads=settings.threads_per_run,
        check_all=True,
    )
    pixels = model.decode(image)
    maps = inspect_image(model, pixels, select_nodes(model, layers.split(",")))
    best = top_predictions(maps.probabilities, model.manifest.classes, 1)[0]
    title = f"{image.name}: {best['label']} ({best['probability']:.1%})"
    draw_sheet(title, pixels, maps.layers).save(out)
    print(f"{title}; {len(maps.layers)} layers of {maps.file} in {out}")


def _local(artifact: Path, top_k: int | None, device: Device, images: Sequence[Path]) -> Iterator[Row]:
    model = Predictor.open(artifact, device=device)
    classes = len(model.manifest.classes)
    if top_k is not None and not 1 <= top_k <= classes:
        raise CycloptsError(msg=f"--top-k is {top_k}; {model.manifest.name} has {classes} classes")
    for start in range(0, len(images), BATCH):
        yield from map(_row, model.classify(images[start : start + BATCH], top_k=top_k))


def _remote(url: str, model: str | None, top_k: int | None, images: Sequence[Path]) -> Iterator[Row]:
    token, policy = read_settings().token, Policy(retries=3)
    try:
        with Client(url, token=token.get_secret_value() if token else None, policy=policy) as client:
            for start in range(0, len(images), policy.batch):
                for result in client.classify(images[start : start + policy.batch], model=model, top_k=top_k):
                    yield _row(result)
    except NoAnswer as error:
        raise ConvscopeError(f"no answer from {url}: {error}" if not error.status else f"{url}: {error}") from None


def _row(result: Result) -> Row:
    if result.error:
        return {"error": asdict(result.error)}
    return {"predictions": [asdict(prediction) for prediction in result.predictions]}


def _as_json(path: Path, result: Row) -> str:
    return json.dumps({"image": str(path), **result})


def _as_text(path: Path, result: Row) -> str:
    if "error" in result:
        print(f"convscope: {path}: {result['error']['message']}", file=sys.stderr)
        return f"{path}: error ({result['error']['code']})"
    return f"{path}: " + ", ".join(f"{row['label']} {row['probability']:.1%}" for row in result["predictions"])
