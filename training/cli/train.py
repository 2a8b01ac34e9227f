"""The verb `convscope train`, which torchrun starts as `python -m training`."""

import json
import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from training.cli.arguments import check_memory, usage_errors
from training.cli.options import check_options, parse_options
from training.cli.progress import TrainingProgress
from training.data.datasets import check_dataset, data_directories
from training.data.splits import MEMORY_LIMIT_MB
from training.events import silent
from training.loop.allocator import retain_freed_memory
from training.loop.learner import pick_device
from training.loop.process_group import process_group
from training.recipes.recipe import Recipe, RecipeFlags, read_recipe, with_minimum_epochs
from training.run.plan import plan_recipe
from training.run.train import train_checkpoint

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
    skip_bad: Annotated[bool, Parameter(negative="")] = False,
    memory_limit_mb: int = MEMORY_LIMIT_MB,
    workers: int | None = None,
    size: int | None = None,
    option: Annotated[list[str] | None, Parameter(negative="")] = None,
    weights: str | None = None,
    recipe_file: Annotated[Path | None, Parameter(name="--recipe")] = None,
    print_recipe: Annotated[bool, Parameter(negative="")] = False,
    recipe: Annotated[RecipeFlags | None, Parameter(name="*")] = None,
) -> int | None:
    """Trains a network on a data set and writes a checkpoint directory.

    For example `convscope train lenet --data mnist --data-dir ../shared/data --epochs 10`, or with several processes
    `torchrun --nproc-per-node 2 -m training lenet --data mnist`.

    Settings of the recipe that are left out are chosen for the network and the data set; config.json has them all.
    Ctrl-C leaves a run that `--resume` goes on with.

    Args:
        model: A network's name, for example lenet, simple_cnn or resnet18; `convscope summary` lists its layers.
        data: digits, stripes, mnist, fashion-mnist, cifar10, or a folder of class folders.
        out: The checkpoint directory [default: runs/MODEL-DATA, with -2, -3... if that is taken].
        resume: Go on with the unfinished run in --out, with its settings.
        overwrite: Replace the run in --out.
        data_dir: Where data files are looked for first, then CONVSCOPE_DATA_DIR, then ./data.
        download: Fetch data files that are absent.
        skip_bad: Leave damaged files of a folder out; config.json counts them and names the first.
        memory_limit_mb: A folder whose images, decoded and resized, are larger is decoded anew in every epoch.
        workers: Processes that decode then [default: one a processor, up to 8].
        size: Height and width the network sees [default: the images' own, if the network takes it].
        option: A network's own option as key=value, for example hidden=84; repeatable.
        weights: Begin with these: a file of tensors by name (.pth, .safetensors), a checkpoint directory, or for
            torchvision's networks DEFAULT or another name of its published weights. A last layer for another number
            of classes stays random; --epochs 0 trains nothing.
        recipe_file: JSON with settings, or a checkpoint's config.json; flags go before it.
        print_recipe: Print the recipe as JSON and train nothing.
    """
    with usage_errors():
        options = parse_options(model, option or [])
        check_dataset(data)
        if size is not None and size < 1:
            raise ValueError(f"--size is {size}; it must be at least 1")
        check_options(model, options, size=size)
        check_memory(memory_limit_mb, workers)
        fresh = not (weights or resume or print_recipe)
        overrides = {**(read_recipe(recipe_file, fresh=fresh) if recipe_file else {}), **(recipe or {})}
        device = Recipe().override(with_minimum_epochs(overrides)).device
        if overrides.get("epochs") == 0 and weights is None:
            raise ValueError("epochs is 0; it must be at least 1, or --weights be given to be taken as they are")
    console, places = Console(), data_directories(data_dir)
    if print_recipe:
        chosen = plan_recipe(
            model,
            data,
            data_dir=places,
            download=download,
            skip_bad=skip_bad,
            size=size,
            overrides=overrides,
            pretrained=weights is not None,
        )
        print(json.dumps(chosen.to_json(), indent=2))
        return None
    of_data = ["--data-dir", str(data_dir)] if data_dir else []
    of_data += ["--memory-limit-mb", str(memory_limit_mb)] if memory_limit_mb != MEMORY_LIMIT_MB else []
    of_data += ["--workers", str(workers)] if workers is not None else []
    of_data += ["--skip-bad"] if skip_bad else []
    retain_freed_memory()
    with process_group(cuda=pick_device(device).type == "cuda") as group, TrainingProgress(console) as progress:
        try:
            path = train_checkpoint(
                model,
                data,
                out=out,
                data_dir=places,
                download=download,
                skip_bad=skip_bad,
                memory_limit_mb=memory_limit_mb,
                workers=workers,
                size=size,
                options=options,
                overrides=overrides,
                weights=weights,
                resume=resume,
                overwrite=overwrite,
                report=progress if group.writes else silent,
                group=group,
            )
        except KeyboardInterrupt:
            if group.writes:
                progress.print_resume_command(model, data, of_data)
            raise
    if group.writes:
        text = f"checkpoint: {path}\nnext: convscope export {shlex.quote(str(path))}"
        console.print(text, highlight=False, soft_wrap=True, markup=False)
    return None
