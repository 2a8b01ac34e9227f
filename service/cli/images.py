"""The verbs `convscope classify` and `convscope inspect` for image files, with an artifact or a server."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cyclopts import CycloptsError

from export.engines.cuda import Device
from models.errors import ConvscopeError
from models.files import printable
from models.results import Result

# Engines and inspection are imported after the arguments are checked.
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
    image_limit_pixels: int | None = None,
) -> int:
    """Classifies image files with an artifact, or on a running server.

    For example `convscope classify cat.jpg --artifact artifacts/resnet20-cifar10` or
    `convscope classify *.png --url http://127.0.0.1:3000 --json`.

    Args:
        images: PNG, JPEG, GIF, BMP, WebP, TIFF, PPM or AVIF files.
        artifact: An artifact directory, or its name's folder for the newest version.
        url: URL of a server, instead of --artifact; sends CONVSCOPE_TOKEN if it is set.
        model: NAME or NAME:VERSION, on a server with several models.
        top_k: Number of classes to show [default: 5].
        device: Device that runs --artifact.
        json: Print one JSON object per line instead of text.
        image_limit_pixels: Largest image, as width x height of what is decoded [default:
            CONVSCOPE_IMAGE_LIMIT_PIXELS, else 50 million].
    """
    if not images:
        raise CycloptsError(msg="no images were given")
    if (artifact is None) == (url is None):
        raise CycloptsError(msg="give either --artifact DIR or --url URL")
    if artifact and model:
        raise CycloptsError(msg="--model goes with --url; --artifact is one model")
    if url and image_limit_pixels is not None:
        raise CycloptsError(msg="--image-limit-pixels goes with --artifact; a server has CONVSCOPE_IMAGE_LIMIT_PIXELS")
    if url and device != "auto":
        raise CycloptsError(msg="--device goes with --artifact; a server chose its own")
    if top_k is not None and top_k < 1:
        raise CycloptsError(msg=f"--top-k is {top_k}; it must be at least 1")
    if artifact:
        results = _local(artifact, top_k, device, images, image_limit_pixels)
    else:
        results = _remote(str(url), model, top_k, images)
    failed = 0
    for path, result in zip(images, results, strict=True):
        failed += "error" in result
        print(_as_json(path, result) if json else _as_text(path, result), flush=True)
    return 0 if not failed else 1 if failed == len(images) else SOME_FAILED


def inspect(
    artifact: Path,
    image: Path,
    *,
    layers: str = "*",
    channel: int = 0,
    out: Path,
    image_limit_pixels: int | None = None,
) -> None:
    """Writes the feature maps of one image as a picture, as arrays, or as an animation of a sliding kernel.

    For example `convscope inspect artifacts/lenet-mnist seven.png --layers "conv*,pool*" --out sheet.png` or
    `convscope inspect artifacts/lenet-mnist seven.png --layers conv1 --channel 2 --out slide.gif`.

    Args:
        artifact: An artifact directory, or its name's folder for the newest version.
        image: A PNG, JPEG, GIF, BMP, WebP, TIFF, PPM or AVIF file.
        layers: Comma-separated names or globs; one convolution or pool for an animation.
        channel: Channel of the layer that an animation shows.
        out: The file to write: .png, a sheet of all channels; .npz, arrays by layer; .gif, an animation.
        image_limit_pixels: Largest image, as width x height of what is decoded [default:
            CONVSCOPE_IMAGE_LIMIT_PIXELS, else 50 million].
    """
    kind = out.suffix.lower()
    if kind not in (".png", ".npz", ".gif"):
        raise CycloptsError(msg=f"--out is {out}; it must end in .png, .npz or .gif")
    if channel and kind != ".gif":
        raise CycloptsError(msg="--channel goes with an animation, --out FILE.gif")
    import numpy as np

    from export.predictor import top_predictions
    from service.cli.opening import decode_file, open_as_served, pixel_limit
    from service.inspection.feature_maps import inspect_image, select_nodes
    from service.inspection.references.index import find_index, normality_text
    from service.inspection.slide import draw_slide
    from service.inspection.tiles import draw_sheet

    limit = pixel_limit(image_limit_pixels)
    model = open_as_served(artifact)
    pixels = decode_file(model, image, limit)
    if kind == ".gif":
        slide = draw_slide(model, pixels, layers, channel)
        slide.save(out)
        print(f"{image.name}: {len(slide.frames)} positions of channel {channel} of {layers} in {out}")
        return
    maps = inspect_image(model, pixels, select_nodes(model, layers.split(",")))
    best = top_predictions(maps.probabilities, model.manifest.classes, 1)[0]
    title = f"{image.name}: {best['label']} ({best['probability']:.1%})"
    if kind == ".npz":
        arrays: dict[str, Any] = {node.name: value for node, value in maps.layers}
        np.savez(out, **{"probabilities": maps.probabilities, **arrays})
    else:
        draw_sheet(title, pixels, maps.layers).save(out)
    print(f"{title}; {len(maps.layers)} layers of {maps.file} in {out}")
    if references := find_index(model):
        found = [one for one in references.normality(maps.layers) if one]
        print(f"{image.name}: {normality_text(found, references)}")


def unit(artifact: Path, image: Path, layer: str, index: str, *, image_limit_pixels: int | None = None) -> None:
    """Prints the arithmetic of one number inside an artifact's ONNX file for one image.

    For example `convscope unit artifacts/lenet-mnist seven.png conv1 2,5,7`.

    Args:
        artifact: An artifact directory, or its name's folder for the newest version.
        image: A PNG, JPEG, GIF, BMP, WebP, TIFF, PPM or AVIF file.
        layer: A layer's name, input, image or probabilities, or the source of another unit's term.
        index: CHANNEL,ROW,COLUMN in a feature map, or an element's number in a vector.
        image_limit_pixels: Largest image, as width x height of what is decoded [default:
            CONVSCOPE_IMAGE_LIMIT_PIXELS, else 50 million].
    """
    parts = index.split(",")
    from service.http.requests import is_number

    if not all(is_number(part) for part in parts):
        raise CycloptsError(msg=f"INDEX is {index!r}; wanted whole numbers with commas between them, such as 2,5,7")
    from service.cli.opening import decode_file, open_as_served, pixel_limit
    from service.inspection.unit_text import unit_text
    from service.inspection.units import inspect_unit

    limit = pixel_limit(image_limit_pixels)
    model = open_as_served(artifact)
    print(unit_text(inspect_unit(model, decode_file(model, image, limit), layer, [int(part) for part in parts])))


def _local(
    artifact: Path, top_k: int | None, device: Device, images: Sequence[Path], limit_pixels: int | None
) -> Iterator[Row]:
    from export.predictor import BATCH, Predictor
    from models.images.errors import ImageTooLarge
    from service.cli.opening import pixel_limit

    limit = pixel_limit(limit_pixels)
    model = Predictor.open(artifact, device=device)
    for start in range(0, len(images), BATCH):
        for result in model.classify(images[start : start + BATCH], top_k=top_k, limit_pixels=limit):
            row = _row(result)
            if result.error and result.error.code == ImageTooLarge.code and "the limit is" in result.error.message:
                row["error"]["message"] += "; --image-limit-pixels raises it"
            yield row


def _remote(url: str, model: str | None, top_k: int | None, images: Sequence[Path]) -> Iterator[Row]:
    from service.client.client import Client, NoAnswer, Policy
    from service.settings import read_settings

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
    found: Row = {"predictions": [asdict(prediction) for prediction in result.predictions]}
    return found | ({"notes": list(result.notes)} if result.notes else {})


def _as_json(path: Path, result: Row) -> str:
    return json.dumps({"image": printable(path), **result})


def _as_text(path: Path, result: Row) -> str:
    name = printable(path)
    if "error" in result:
        print(f"convscope: {name}: {result['error']['message']}", file=sys.stderr)
        return f"{name}: error ({result['error']['code']})"
    for note in result.get("notes", ()):
        print(f"convscope: {name}: {note}", file=sys.stderr)
    return f"{name}: " + ", ".join(f"{row['label']} {row['probability']:.1%}" for row in result["predictions"])
