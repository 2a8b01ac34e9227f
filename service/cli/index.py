"""The verb `convscope index`: reference images for every channel of an artifact."""

from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from cyclopts import CycloptsError, Parameter

from export.artifact.directory import newest_version
from export.engines.cuda import Device
from training.cli.arguments import usage_errors
from training.cli.console import make_console
from training.data.datasets import check_dataset
from training.data.options import SOURCE_DEFAULTS, SourceOptions


def index(
    artifact: Path,
    *,
    data: str,
    split: Literal["test", "train"] = "test",
    images: int | None = None,
    references: int = 9,
    source: Annotated[SourceOptions, Parameter(name="*")] = SOURCE_DEFAULTS,
    device: Device = "auto",
) -> None:
    """Finds the images that excite each channel of an artifact most, and what is normal for each layer.

    For example `convscope index artifacts/lenet-mnist --data mnist`. The result lies in the artifact's folder
    references and needs the data set no more: `/references` shows it, and `/feature-maps` and `/explain` say how far
    an image lies outside of what is normal.

    Args:
        artifact: An artifact directory, or its name's folder for the newest version.
        data: A data set as for `convscope evaluate`.
        split: The test split, which the network has not learnt from, or the training split.
        images: Take no more than so many images, evenly spaced [default: all].
        references: Images to keep for each channel.
        device: Device that runs the artifact's ONNX file.
    """
    if images is not None and images < 2:
        raise CycloptsError(msg=f"--images is {images}; it must be at least 2")
    if not 1 <= references <= 100:
        raise CycloptsError(msg=f"--references is {references}; it must be 1 to 100")
    with usage_errors():
        source.check()
    newest_version(artifact)
    check_dataset(data)
    # torch takes seconds to import, so the arguments are checked before
    from rich.progress import track

    from export.pipeline.data import load_test, load_train
    from export.predictor import Predictor
    from service.inspection.references.builder import ReferenceBuilder, Source
    from training.data.streaming import sequential_batches

    model = Predictor.open(artifact, device=device, check_all=True)
    load = load_test if split == "test" else load_train
    loaded = load(data, model.manifest, source, most=images)
    console = make_console()
    for remark in loaded.remarks:
        console.print(remark)
    found = loaded.images
    with ReferenceBuilder(model, len(found), references=references) as builder:
        order = sequential_batches(len(found), builder.batch)
        batches, quiet = found.batches(order), not console.is_terminal
        for batch in track(batches, "indexing", len(order), console=console, transient=True, disable=quiet):
            builder.add(batch.images.numpy(), batch.labels.numpy())
        names = ["/".join(PurePosixPath(name).parts[-2:]) for name in loaded.names]  # class and file
        place = builder.write(Source(Path(data).name, split, loaded.sha256, names))
    size = sum(file.stat().st_size for file in place.iterdir())
    console.print(
        f"{model.label}: {references} of {len(found):,} images for each of {builder.channels:,} channels in "
        f"{builder.layers} layers, {size / 1e6:,.1f} MB in {place}"
    )
