"""The verb `convscope train`."""

from pathlib import Path
from typing import Annotated

from cyclopts import CycloptsError, Parameter
from rich.console import Console

from training.datasets import check_dataset, data_places
from training.options import parse_options
from training.progress import TrainingProgress
from training.recipe import Recipe, RecipeFlags
from training.run import train_checkpoint

__all__ = ["train", "train_checkpoint"]


def train(
    model: str,
    *,
    data: str,
    out: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    data_dir: Path | None = None,
    download: Annotated[bool, Parameter(negative="")] = False,
    size: int | None = None,
    option: Annotated[list[str] | None, Parameter(negative="")] = None,
    recipe: Annotated[RecipeFlags | None, Parameter(name="*")] = None,
) -> int | None:
    """Trains a network on a data set and writes a checkpoint directory.

    For example `convscope train lenet --data mnist --data-dir ../shared/data --epochs 10`.

    Settings of the recipe that are left out are chosen for the network and the data set; config.json has them all.
    Ctrl-C leaves a run that `--resume` goes on with.

    Args:
        model: The network: lenet, lenet1998, simple_cnn, resnet18, resnet34 or resnet20.
        data: digits, stripes, mnist, fashion-mnist, cifar10, or a folder of class folders.
        out: The checkpoint directory [default: runs/MODEL-DATA, with -2, -3... if that is taken].
        resume: Go on with the unfinished run in --out, with its settings.
        overwrite: Replace the run in --out.
        data_dir: Where data files are looked for first, then CONVSCOPE_DATA_DIR, then ./data.
        download: Fetch data files that are absent.
        size: Height and width the network sees [default: the images' own, if the network takes it].
        option: A network's own option as key=value, for example hidden=84; repeatable.
    """
    try:
        options = parse_options(model, option or [])
        check_dataset(data)
        if size is not None and size < 1:
            raise ValueError(f"--size is {size}; it must be at least 1")
        Recipe().override(recipe or {})
    except ValueError as error:
        raise CycloptsError(msg=str(error)) from None
    console = Console()
    with TrainingProgress(console) as progress:
        try:
            path = train_checkpoint(
                model,
                data,
                out=out,
                data_dir=data_places(data_dir),
                download=download,
                size=size,
                options=options,
                overrides=dict(recipe or {}),
                resume=resume,
                overwrite=overwrite,
                report=progress,
            )
        except KeyboardInterrupt:
            progress.say_how_to_go_on(model, data, data_dir)
            raise
    console.print(f"checkpoint: {path}", f"next: convscope export {path}", sep="\n", highlight=False, soft_wrap=True)
    return None
