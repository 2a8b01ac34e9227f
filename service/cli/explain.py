"""The verb `convscope explain`: maps of one image, with a record from which they can be made again."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import CycloptsError, Parameter
from rich.progress import Progress, TaskID

from export.engines.machine import installed_version
from export.predictor import Predictor, top_predictions
from models.files import atomic_write
from models.images.decode import decode_picture
from service.cli.opening import decode_file, open_as_served, pixel_limit
from service.errors import NotInspectable
from service.inspection.explain.explanation import Explainer, Explanation, Refused, class_index
from service.inspection.explain.maps import to_picture
from service.inspection.explain.methods import METHODS, find_method
from service.inspection.explain.overlay import draw_overlay
from service.inspection.explain.watch import Watch
from service.inspection.references.index import find_index, image_normality, normality_text
from training.cli.console import make_console

RECORD_FILE = "explanation.json"
_ALL = "all"
_LIBRARIES = ("convscope", "numpy", "pillow", "onnxruntime", "torch")


def explain(
    artifact: Path,
    image: Path,
    *,
    method: str = "",
    class_name: Annotated[str | None, Parameter(name="--class")] = None,
    layer: str | None = None,
    samples: int | None = None,
    seed: int = 0,
    evaluate: bool = False,
    out: Path,
    image_limit_pixels: int | None = None,
) -> None:
    """Draws which places of one image speak for a class, and writes down how.

    For example `convscope explain artifacts/resnet20-cifar10 cat.jpg --method all --out why`. The folder gets a picture
    for each method, and explanation.json: hashes of artifact and image, methods, parameters and versions, from which
    somebody else can make the same maps.

    Args:
        artifact: An artifact directory, or its name's folder for the newest version.
        image: A PNG, JPEG, GIF, BMP, WebP, TIFF, PPM or AVIF file.
        method: all, or one of cam, scorecam, ablationcam, eigencam, occlusion, rise, gradcam, gradcam++, layercam,
            saliency, smoothgrad, integrated_gradients [default: gradcam where torch and the weights are there].
        class_name: A class by name or number from 0 [default: the predicted one].
        layer: The layer whose value is explained, for methods that explain one [default: the last with a grid].
        samples: Random masks, noisy images or steps, for methods that have them.
        seed: Of random numbers.
        evaluate: Measure how far each map can be trusted; --method all always does.
        out: The folder to write.
        image_limit_pixels: Largest image, as width x height of what is decoded [default:
            CONVSCOPE_IMAGE_LIMIT_PIXELS, else 50 million].
    """
    if method and method != _ALL and method not in METHODS:
        raise CycloptsError(msg=f"--method is {method!r}; wanted all or one of {', '.join(METHODS)}")
    if method == _ALL and samples is not None:
        raise CycloptsError(msg="--samples goes with one method; with all, each has its own number")
    limit = pixel_limit(image_limit_pixels)
    model = open_as_served(artifact)
    data = image.read_bytes()
    pixels = decode_file(model, data, limit)
    with _progress() as watch:
        explainer = Explainer(model, pixels, watch)
        classes = model.manifest.classes
        index = explainer.predicted if class_name is None else class_index(classes, class_name)
        if method == _ALL:
            found = explainer.explain_all(index, layer=layer, seed=seed)
        else:
            chosen = find_method(method) if method else explainer.default_method()
            found = [explainer.explain(chosen, index, layer=layer, samples=samples, seed=seed, evaluate=evaluate)]
    out.mkdir(parents=True, exist_ok=True)
    picture = decode_picture(data, model.manifest.input, limit_pixels=limit)
    for one in found:
        if isinstance(one, Explanation):
            values, _ = to_picture(one.values, model.manifest.input, picture.shape[:2])
            draw_overlay(picture, one.strengths(values)).save(out / f"{one.method.name}.png")
    record = _record(model, explainer, index, found)
    normality = image_normality(model, pixels)
    record["normality"] = [asdict(one) for one in normality]
    record["image"] = {"name": image.name, "sha256": hashlib.sha256(data).hexdigest()}
    record["parameters"] = {"layer": layer, "samples": samples, "seed": seed}
    with atomic_write(out / RECORD_FILE) as path:
        path.write_text(json.dumps(record, indent=1))
    drawn = [one for one in found if isinstance(one, Explanation)]
    for one in found:
        print(_line(one))
    label, probability = classes[index], float(explainer.served.probabilities[0, index])
    print(f"{image.name}: {label} ({probability:.1%}); {len(drawn)} maps and {RECORD_FILE} in {out}")
    if references := find_index(model):
        print(f"{image.name}: {normality_text(normality, references)}")
    if not drawn:
        raise NotInspectable(f"no method works for {model.label}")


@contextmanager
def _progress() -> Iterator[Watch]:
    """Shows on a terminal how far each method is."""
    console = make_console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def report(method: str, done: int, total: int) -> None:
            if method not in tasks:
                tasks[method] = bar.add_task(METHODS[method].title if method else "")
            bar.update(tasks[method], completed=done, total=total)

        yield Watch(report=report)


def _record(model: Predictor, explainer: Explainer, index: int, found: list[Explanation | Refused]) -> dict[str, Any]:
    manifest = model.manifest
    probabilities = explainer.served.probabilities[0]
    best = top_predictions(probabilities, manifest.classes, 5)
    return {
        "artifact": model.label,
        "files": {name: entry.sha256 for name, entry in manifest.files.items()},
        "class": {"index": index, "label": manifest.classes[index], "probability": float(probabilities[index])},
        "predictions": [{**row, "probability": float(row["probability"])} for row in best],
        "methods": [_row(one) for one in found],
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: installed_version(name) for name in _LIBRARIES},
    }


def _row(one: Explanation | Refused) -> dict[str, Any]:
    if isinstance(one, Refused):
        return {"method": one.method.name, "refused": one.reason}
    row: dict[str, Any] = {
        "method": one.method.name,
        "source": one.method.source,
        "file": one.file,
        "layer": one.layer and one.layer.name,
        "minimum": float(one.values.min()),
        "maximum": float(one.values.max()),
        "empty": one.empty,
        "sha256": hashlib.sha256(one.values.tobytes()).hexdigest(),
    }
    if one.trust:
        row["trust"] = {
            "deletion_area": one.trust.deletion_area,
            "insertion_area": one.trust.insertion_area,
            "drop": one.trust.drop,
            "increase": one.trust.increase,
        }
    return row


def _line(one: Explanation | Refused) -> str:
    if isinstance(one, Refused):
        return f"{one.method.title}: {one.reason}"
    what = f" of {one.layer.name}" if one.layer else ""
    if one.empty:
        return f"{one.method.title}{what}: empty, no place speaks for the class"
    trust = one.trust
    measured = f"; deletion {trust.deletion_area:.3f}, insertion {trust.insertion_area:.3f}" if trust else ""
    return f"{one.method.title}{what}: {one.values.min():.3g} to {one.values.max():.3g}{measured}"
