"""The verb `convscope batch`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import CycloptsError, Parameter

from export.artifact.formats import EngineName, PrecisionName
from export.engines.cuda import Device
from service.settings import read_settings

if TYPE_CHECKING:
    from service.batch.job import Job, MaxErrors, Request, Summary
    from service.batch.ray_runner import Cluster
    from service.batch.remote.server import Address

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
    engine: EngineName | Literal["ray"] = "auto",
    precision: PrecisionName = "fp32",
    device: Device = "auto",
    threads: int = 0,
    processes: int = 0,
    batch_size: int = 0,
    rows_per_file: int = 2048,
    image_limit_pixels: int | None = None,
    runner: Literal["local", "ray"] = "local",
    address: str = "",
    num_cpus: float = 0.0,
    num_gpus: float = 0.0,
    concurrency: str = "",
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
        engine: Engine that runs the artifact; ray means --runner ray and leaves the engine to auto.
        precision: Precision of the file that runs.
        device: Device that runs it.
        threads: Threads of the engine [default: all].
        processes: Processes that decode [default: one per processor].
        batch_size: Images that run at once [default: by their size], or images of a request to a server [default: 32].
        rows_per_file: Rows of a part file, and how much is done again after a kill; a resumed job keeps its number.
        image_limit_pixels: Largest image, as width x height of what is decoded [default:
            CONVSCOPE_IMAGE_LIMIT_PIXELS, else 50 million].
        runner: ray shares the work among the nodes of a Ray cluster.
        address: Address of the cluster [default: RAY_ADDRESS, a cluster on this machine, or a new one].
        num_cpus: CPUs of each Ray worker [default: 1, or its share of the CPUs beside a GPU].
        num_gpus: GPUs of each Ray worker, such as 1 or 0.25.
        concurrency: Number of Ray workers, or MIN,MAX [default: as many as the cluster has room for].
    """
    from service.batch.job import Request
    from service.batch.network import Opening, Wanted
    from service.batch.progress import final_lines
    from service.batch.remote.server import Address
    from service.batch.report.page import check_name, write_report
    from service.cli.opening import pixel_limit

    if top_k < 1:
        raise CycloptsError(msg=f"--top-k is {top_k}; it must be at least 1")
    for name, value in (("threads", threads), ("processes", processes), ("batch-size", batch_size)):
        if value < 0:
            raise CycloptsError(msg=f"--{name} is {value}; it must be at least 0")
    if not 1 <= rows_per_file <= 1_000_000:
        raise CycloptsError(msg=f"--rows-per-file is {rows_per_file}; it must be 1 to 1,000,000")
    if overwrite and (resume or retry_failed):
        raise CycloptsError(msg="--overwrite begins anew; it does not go with --resume or --retry-failed")
    if report is not None:
        check_name(report)
    cluster = _cluster(runner, engine, address, num_cpus, num_gpus, concurrency)
    if (artifact is None) == (url is None):
        raise CycloptsError(msg="give either --artifact DIR or --url URL")
    opening: Opening | Address
    if artifact is not None:
        if model:
            raise CycloptsError(msg="--model goes with --url; --artifact is one model")
        own = "auto" if engine == "ray" else engine
        opening = Opening(artifact=artifact, engine=own, precision=precision, device=device, threads=threads)
    else:
        _refuse_with_url(
            engine=engine != "auto",
            precision=precision != "fp32",
            device=device != "auto",
            threads=threads,
            processes=processes,
            logits=logits,
            layer=layer,
            image_limit_pixels=image_limit_pixels,
            runner=runner != "local",
        )
        opening = _address(str(url), model)
    request = Request(
        source=source,
        out=out,
        opening=opening,
        wanted=Wanted(top_k=top_k, logits=logits, layer=layer),
        column=column,
        limit_pixels=pixel_limit(image_limit_pixels),
        processes=processes,
        batch_size=batch_size,
        block_rows=rows_per_file,
        max_errors=_max_errors(max_errors),
        resume=resume,
        retry_failed=retry_failed,
        overwrite=overwrite,
    )
    job, summary = _run(request, cluster)
    if report:
        write_report(report, job)
    for line in final_lines(job, summary):
        print(line)
    return SOME_FAILED if summary.statistics.failed or summary.problems else 0


def _run(request: "Request", cluster: "Cluster | None") -> "tuple[Job, Summary]":
    from service.batch.job import Job
    from service.batch.progress import shown

    if cluster is None:
        job = Job(request)
        with shown(job) as tell:
            return job, job.run(tell)
    from service.batch.ray_runner import check_installed, for_cluster, run_on_ray

    check_installed()
    request, device = for_cluster(request, cluster)
    job = Job(request)
    with shown(job) as tell:
        return job, run_on_ray(job, cluster, device, tell)


def _refuse_with_url(**given: object) -> None:
    """Refuses options that only a network in this process has."""
    for name, value in given.items():
        if value:
            option = name.replace("_", "-")
            raise CycloptsError(msg=f"--{option} goes with --artifact; a server has settings of its own")


def _address(url: str, model: str) -> "Address":
    from service.batch.remote.server import Address

    token = read_settings().token
    return Address(url=url, model=model, token=token.get_secret_value() if token else None)


def _cluster(
    runner: str, engine: str, address: str, num_cpus: float, num_gpus: float, concurrency: str
) -> "Cluster | None":
    """The Ray cluster; None if the job runs on this machine."""
    from service.batch.ray_runner import Cluster

    if "ray" not in (runner, engine):
        own = {"address": address, "num-cpus": num_cpus, "num-gpus": num_gpus, "concurrency": concurrency}
        if given := [name for name, value in own.items() if value]:
            raise CycloptsError(msg=f"--{given[0]} goes with --engine ray or --runner ray")
        return None
    least, _, most = concurrency.partition(",")
    try:
        numbers = (int(least), int(most or least)) if concurrency else (0, 0)
    except ValueError:
        raise CycloptsError(msg=f"--concurrency is {concurrency}; wanted N or MIN,MAX, each at least 1") from None
    return Cluster(address=address, num_cpus=num_cpus, num_gpus=num_gpus, concurrency=numbers)


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
