"""The verb `convscope batch`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import CycloptsError, Parameter

from export.artifact.formats import EngineName, PrecisionName
from export.engines.cuda import Device

if TYPE_CHECKING:
    from service.batch.job import MaxErrors
    from service.batch.ray_runner import Cluster

SOME_FAILED = 3


def batch(
    source: Annotated[str, Parameter(allow_leading_hyphen=True)],
    *,
    artifact: Path,
    out: str,
    top_k: int = 5,
    logits: bool = False,
    layer: str = "",
    column: str = "",
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
        out: A path or URL that ends in .parquet (a folder of part files), .jsonl or .csv.
        top_k: Number of classes in each row.
        logits: Also write the logits.
        layer: Also write the values of this layer as an embedding, by its name in `convscope summary`.
        column: Column of the images in a list or table [default: the first with a usual name].
        resume: Go on with a job that was stopped; begins one if there is none.
        retry_failed: Run the rows with errors again.
        overwrite: Replace the output of a former job.
        max_errors: Stop when more rows have errors: a number, or a share such as 5%.
        engine: Engine that runs the artifact; ray means --runner ray and leaves the engine to auto.
        precision: Precision of the file that runs.
        device: Device that runs it.
        threads: Threads of the engine [default: all].
        processes: Processes that decode [default: one per processor].
        batch_size: Images that run at once [default: by their size].
        image_limit_pixels: Largest image, as width x height of what is decoded [default:
            CONVSCOPE_IMAGE_LIMIT_PIXELS, else 50 million].
        runner: ray shares the work among the nodes of a Ray cluster.
        address: Address of the cluster [default: RAY_ADDRESS, a cluster on this machine, or a new one].
        num_cpus: CPUs of each Ray worker [default: 1, or its share of the CPUs beside a GPU].
        num_gpus: GPUs of each Ray worker, such as 1 or 0.25.
        concurrency: Number of Ray workers, or MIN,MAX [default: as many as the cluster has room for].
    """
    from service.batch.job import Job, Request
    from service.batch.network import Opening, Wanted
    from service.batch.progress import final_lines, shown
    from service.cli.opening import pixel_limit

    if top_k < 1:
        raise CycloptsError(msg=f"--top-k is {top_k}; it must be at least 1")
    for name, value in (("threads", threads), ("processes", processes), ("batch-size", batch_size)):
        if value < 0:
            raise CycloptsError(msg=f"--{name} is {value}; it must be at least 0")
    if overwrite and (resume or retry_failed):
        raise CycloptsError(msg="--overwrite begins anew; it does not go with --resume or --retry-failed")
    cluster = _cluster(runner, engine, address, num_cpus, num_gpus, concurrency)
    if engine == "ray":
        engine = "auto"
    request = Request(
        source=source,
        out=out,
        opening=Opening(artifact=artifact, engine=engine, precision=precision, device=device, threads=threads),
        wanted=Wanted(top_k=top_k, logits=logits, layer=layer),
        column=column,
        limit_pixels=pixel_limit(image_limit_pixels),
        processes=processes,
        batch_size=batch_size,
        max_errors=_max_errors(max_errors),
        resume=resume,
        retry_failed=retry_failed,
        overwrite=overwrite,
    )
    if cluster is None:
        job = Job(request)
        with shown(job) as tell:
            summary = job.run(tell)
    else:
        from service.batch.ray_runner import check_installed, for_cluster, run_on_ray

        check_installed()
        request, on = for_cluster(request, cluster)
        job = Job(request)
        with shown(job) as tell:
            summary = run_on_ray(job, cluster, on, tell)
    for line in final_lines(job, summary):
        print(line)
    return SOME_FAILED if summary.statistics.failed or summary.problems else 0


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
