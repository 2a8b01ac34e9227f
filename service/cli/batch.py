"""The verb `convscope batch`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import CycloptsError, Parameter

from export.artifact.formats import EngineName, PrecisionName
from export.engines.cuda import Device
from models.images.header import DEFAULT_LIMIT_PIXELS
from service.settings import read_settings

if TYPE_CHECKING:
    from service.batch.job import MaxErrors

SOME_FAILED = 3


def batch(
    source: Annotated[str, Parameter(allow_leading_hyphen=True)],
    *,
    artifact: Path | None = None,
    url: str | None = None,
    model: str = "",
    out: str,
    top_k: int = 5,
    logits: bool = False,
    layer: str = "",
    column: str = "",
    report: str | None = None,
    resume: bool = False,
    retry_failed: bool = False,
    overwrite: bool = False,
    max_errors: str | None = None,
    engine: EngineName = "auto",
    precision: PrecisionName = "fp32",
    device: Device = "auto",
    threads: int = 0,
    processes: int = 0,
    batch_size: int = 0,
    limit_pixels: int = DEFAULT_LIMIT_PIXELS,
) -> int:
    """Classifies every image of a source and writes one row for each.

    For example `convscope batch photos --artifact artifacts/resnet18-pets --out rows.parquet` or
    `convscope batch "shards/*.tar" --artifact artifacts/resnet18-pets --out rows.jsonl --resume`.

    Args:
        source: A folder; a pattern in quotes; a list (.txt, .csv, .tsv, .jsonl); tar files, as of WebDataset; Parquet
            files; a data set's name; - for a list on standard input. Local, or an fsspec URL such as s3://bucket/photos.
        artifact: An artifact directory, or its name's folder for the newest version.
        url: URL of a server that classifies, instead of --artifact; sends CONVSCOPE_TOKEN if it is set.
        model: NAME or NAME:VERSION, on a server with several models.
        out: A path or URL that ends in .parquet (a folder of part files), .jsonl or .csv.
        top_k: Number of classes in each row.
        logits: Also write the logits.
        layer: Also write the values of this layer as an embedding, by its name in `convscope summary`.
        column: Column of the images in a list or table [default: the first with a usual name].
        report: Also write a report, report.html or report.json, to this path or URL.
        resume: Go on with a job that was stopped; begins one if there is none.
        retry_failed: Run the rows with errors again.
        overwrite: Replace the output of a former job.
        max_errors: Stop when more rows have errors: a number, or a share such as 5%.
        engine: Engine that runs the artifact.
        precision: Precision of the file that runs.
        device: Device that runs it.
        threads: Threads of the engine [default: all].
        processes: Processes that decode [default: one per processor].
        batch_size: Images that run at once [default: by their size], or images of a request to a server [default: 32].
        limit_pixels: Largest image that is decoded, in pixels.
    """
    from service.batch.job import Job, Request
    from service.batch.network import Opening, Wanted
    from service.batch.progress import final_lines, shown
    from service.batch.remote.server import Address
    from service.batch.report.page import check_name, write_report

    if top_k < 1:
        raise CycloptsError(msg=f"--top-k is {top_k}; it must be at least 1")
    for name, value in (("threads", threads), ("processes", processes), ("batch-size", batch_size)):
        if value < 0:
            raise CycloptsError(msg=f"--{name} is {value}; it must be at least 0")
    if overwrite and (resume or retry_failed):
        raise CycloptsError(msg="--overwrite begins anew; it does not go with --resume or --retry-failed")
    if (artifact is None) == (url is None):
        raise CycloptsError(msg="give either --artifact DIR or --url URL")
    opening: Opening | Address
    if artifact is not None:
        if model:
            raise CycloptsError(msg="--model goes with --url; --artifact is one model")
        opening = Opening(artifact=artifact, engine=engine, precision=precision, device=device, threads=threads)
    else:
        own: dict[str, object] = {
            "engine": engine != "auto",
            "precision": precision != "fp32",
            "device": device != "auto",
        }
        own |= {"threads": threads, "processes": processes, "logits": logits, "layer": layer}
        own["limit-pixels"] = limit_pixels != DEFAULT_LIMIT_PIXELS
        if given := [name for name, value in own.items() if value]:
            raise CycloptsError(msg=f"--{given[0]} goes with --artifact; a server has settings of its own")
        token = read_settings().token
        opening = Address(url=str(url), model=model, token=token.get_secret_value() if token else None)
    if report is not None:
        check_name(report)
    request = Request(
        source=source,
        out=out,
        opening=opening,
        wanted=Wanted(top_k=top_k, logits=logits, layer=layer),
        column=column,
        limit_pixels=limit_pixels,
        processes=processes,
        batch_size=batch_size,
        max_errors=_max_errors(max_errors),
        resume=resume,
        retry_failed=retry_failed,
        overwrite=overwrite,
    )
    job = Job(request)
    with shown(job) as tell:
        summary = job.run(tell)
    if report:
        write_report(report, job)
    for line in final_lines(job, summary):
        print(line)
    return SOME_FAILED if summary.statistics.failed or summary.problems else 0


def _max_errors(text: str | None) -> "MaxErrors | None":
    from service.batch.job import MaxErrors

    if text is None:
        return None
    number, percent = (text[:-1], True) if text.endswith("%") else (text, False)
    try:
        value = float(number) if percent else int(number)
    except ValueError:
        value = -1
    if value < 0 or (value > 100 and percent):
        raise CycloptsError(msg=f"--max-errors is {text}; wanted a number such as 100, or a share such as 5%")
    return MaxErrors(share=value / 100) if percent else MaxErrors(count=int(value))
