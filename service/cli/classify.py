"""The verb `convscope classify`, with an artifact or a server."""

import glob
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import CycloptsError

from export.artifact.formats import EngineName, PrecisionName
from export.engines.cuda import Device
from models.errors import ConvscopeError
from models.files import printable
from models.results import ImageFailure, Result

if TYPE_CHECKING:
    from service.batch.entries import Entry

# Engines and batch jobs are imported after the arguments are checked.
SOME_FAILED = 3
_FEW = 32  # images that are done before processes have started
Emit = Callable[[str, Result], None]  # takes a name and what was found


def classify(
    *images: Path,
    artifact: Path | None = None,
    url: str | None = None,
    model: str | None = None,
    top_k: int | None = None,
    engine: EngineName = "auto",
    precision: PrecisionName = "fp32",
    device: Device = "auto",
    json: bool = False,
    image_limit_pixels: int | None = None,
) -> int:
    """Classifies image files with an artifact, or on a running server.

    For example `convscope classify cat.jpg --artifact artifacts/resnet20-cifar10`,
    `convscope classify photos "more/**/*.jpg" --artifact artifacts/resnet20-cifar10` or
    `convscope classify *.png --url http://127.0.0.1:3000 --json`. `convscope batch` writes files and can be resumed.

    Args:
        images: PNG, JPEG, GIF, BMP, WebP, TIFF, PPM or AVIF files, folders of them, and patterns in quotes.
        artifact: An artifact directory, or its name's folder for the newest version.
        url: URL of a server, instead of --artifact; sends CONVSCOPE_TOKEN if it is set.
        model: NAME or NAME:VERSION, on a server with several models.
        top_k: Number of classes to show [default: 5].
        engine: Engine that runs --artifact; auto takes what `convscope bench --use` chose.
        precision: Precision of the file that runs; auto likewise.
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
    for name, value in (("engine", engine), ("precision", precision), ("device", device)):
        if url and value not in ("auto", "fp32"):
            raise CycloptsError(msg=f"--{name} goes with --artifact; a server chose its own")
    if top_k is not None and top_k < 1:
        raise CycloptsError(msg=f"--top-k is {top_k}; it must be at least 1")
    counts = {"images": 0, "failed": 0}

    def emit(name: str, result: Result) -> None:
        counts["images"] += 1
        counts["failed"] += result.error is not None
        print(_as_json(name, result) if json else _as_text(name, result), flush=True)

    if artifact:
        opening = {"engine": engine, "precision": precision, "device": device}
        _here(artifact, opening, top_k, images, image_limit_pixels, emit)
    else:
        _remote(str(url), model, top_k, images, emit)
    if not counts["images"]:
        raise ConvscopeError(f"no images in {', '.join(map(printable, images))}")
    return 0 if not counts["failed"] else 1 if counts["failed"] == counts["images"] else SOME_FAILED


def _here(
    artifact: Path,
    opening: dict[str, Any],
    top_k: int | None,
    images: Sequence[Path],
    limit_pixels: int | None,
    emit: Emit,
) -> None:
    """A few images in this process; more as in a batch job, with a process that decodes for each core."""
    from export.predictor import DEFAULT_TOP_K, Predictor
    from service.cli.opening import pixel_limit

    limit = pixel_limit(limit_pixels)
    entries = _entries(images)
    first = list(islice(entries, _FEW + 1))
    if len(first) > _FEW:
        _many(artifact, opening, top_k or DEFAULT_TOP_K, first, entries, limit, emit)
        return
    model = Predictor.open(artifact, **opening)
    files = [entry for entry in first if entry.path is not None]
    results = iter(model.classify([Path(str(entry.path)) for entry in files], top_k=top_k, limit_pixels=limit))
    for entry in first:
        emit(entry.key, _with_advice(Result(error=entry.failure) if entry.failure else next(results)))


def _many(
    artifact: Path,
    opening: dict[str, Any],
    top_k: int,
    first: "list[Entry]",
    rest: "Iterator[Entry]",
    limit: int,
    emit: Emit,
) -> None:
    from export.predictor import notes_on_scores
    from models.cores import available_cores
    from service.batch.entries import Batch, batched
    from service.batch.local import Pipeline, Work
    from service.batch.network import Network, Opening, Wanted

    network = Network(Opening(artifact=artifact, **opening), Wanted(top_k=top_k))
    common = notes_on_scores(network.predictor.manifest)

    def finish(work: Work) -> None:
        found = work.outputs
        for place, entry in enumerate(work.entries):
            if failure := found.failures.get(place):
                emit(entry.key, _with_advice(Result(error=failure)))
            else:
                notes = (*common, *found.notes.get(place, ()))
                emit(entry.key, network.predictor.result(found.probabilities[place], top_k, notes))

    size = network.batch_size
    pipeline = Pipeline(network, batch_size=size, processes=available_cores(), limit_pixels=limit, finish=finish)
    pipeline.run(
        Batch(f"{number}", 0, entries, tuple(range(len(entries))), closes=True, last=False)
        for number, entries in enumerate(batched(chain(first, rest), size))
    )


def _entries(images: Sequence[Path]) -> "Iterator[Entry]":
    """Files under their own names; those of folders and patterns under their keys, as in a batch job."""
    from service.batch.entries import Entry, key_of
    from service.batch.sources.find import open_source

    for image in images:
        pattern = glob.has_magic(str(image)) and not image.exists()
        if not image.is_dir() and not pattern:
            yield Entry(printable(image), path=str(image))
            continue
        prefix = "" if len(images) == 1 or pattern else f"{key_of(str(image))}/"
        source = open_source(str(image), classes=())
        for shard in source.shards(lambda key, reason: None, 2048):
            for entry in shard.entries(lambda index: True):
                entry.key = prefix + entry.key
                yield entry


def _remote(url: str, model: str | None, top_k: int | None, images: Sequence[Path], emit: Emit) -> None:
    from service.batch.entries import batched
    from service.client.client import Client, NoAnswer, Policy
    from service.settings import read_settings

    token, policy = read_settings().token, Policy(retries=3)
    try:
        with Client(url, token=token.get_secret_value() if token else None, policy=policy) as client:
            for entries in batched(_entries(images), policy.batch):
                files = [Path(str(entry.path)) for entry in entries if entry.path is not None]
                results = iter(client.classify(files, model=model, top_k=top_k))
                for entry in entries:
                    emit(entry.key, Result(error=entry.failure) if entry.failure else next(results))
    except NoAnswer as error:
        raise ConvscopeError(f"no answer from {url}: {error}" if not error.status else f"{url}: {error}") from None


def _with_advice(result: Result) -> Result:
    from models.images.errors import ImageTooLarge

    error = result.error
    if error is None or error.code != ImageTooLarge.code or "the limit is" not in error.message:
        return result
    return Result(error=ImageFailure(error.code, f"{error.message}; --image-limit-pixels raises it"))


def _as_json(name: str, result: Result) -> str:
    found: dict[str, Any] = {"image": name}
    if result.error:
        return json.dumps(found | {"error": asdict(result.error)})
    found |= {"predictions": [asdict(prediction) for prediction in result.predictions]}
    return json.dumps(found | ({"notes": list(result.notes)} if result.notes else {}))


def _as_text(name: str, result: Result) -> str:
    if result.error:
        print(f"convscope: {name}: {result.error.message}", file=sys.stderr)
        return f"{name}: error ({result.error.code})"
    for note in result.notes:
        print(f"convscope: {name}: {note}", file=sys.stderr)
    return f"{name}: " + ", ".join(f"{one.label} {one.probability:.1%}" for one in result.predictions)
