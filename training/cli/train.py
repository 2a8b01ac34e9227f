"""The verb `convscope train`, which torchrun starts as `python -m convscope train`."""

import json
import shlex
import warnings
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from models.allocator import retain_freed_memory
from models.errors import UserError
from models.networks.names import check_network_name
from training.cli.arguments import usage_errors
from training.cli.console import make_console
from training.data.datasets import check_dataset
from training.data.options import DATA_DEFAULTS, DataOptions
from training.recipes.recipe import Recipe, RecipeFlags, read_recipe, with_minimum_epochs
from training.run.directory import new_run_directory, resumable_run_directory


def train(
    model: str,
    *,
    data: str,
    out: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    data_options: Annotated[DataOptions, Parameter(name="*", negative="")] = DATA_DEFAULTS,
    size: int | None = None,
    option: Annotated[list[str] | None, Parameter(negative="")] = None,
    weights: str | None = None,
    recipe_file: Annotated[Path | None, Parameter(name="--recipe")] = None,
    print_recipe: Annotated[bool, Parameter(negative="")] = False,
    recipe: Annotated[RecipeFlags | None, Parameter(name="*")] = None,
) -> int | None:
    """Trains a network on a data set and writes a checkpoint directory.

    For example `convscope train lenet --data mnist --data-dir ../shared/data --epochs 10`, or with several processes
    `torchrun --nproc-per-node 2 -m convscope train lenet --data mnist`.

    Omitted recipe settings get defaults for the network and the data set; config.json records all of them.
    After Ctrl-C, `--resume` continues the run.

    Args:
        model: A network's name, for example lenet, simple_cnn or resnet18; `convscope summary` lists its layers.
        data: digits, stripes, mnist, fashion-mnist, cifar10, or a folder of class folders.
        out: The checkpoint directory [default: runs/MODEL-DATA, with -2, -3... if that is taken].
        resume: Continue the unfinished run in --out, with its settings.
        overwrite: Replace the run in --out.
        size: Height and width of the network's input [default: the images' own, if the network takes it].
        option: A network's own option as key=value, for example hidden=84; repeatable.
        weights: Initial weights: a file of tensors by name (.pth, .safetensors), a checkpoint directory, or for
            torchvision's networks DEFAULT or another name of its published weights. A last layer for another number
            of classes stays random; --epochs 0 skips training.
        recipe_file: JSON file of settings, or a checkpoint's config.json; flags override it.
        print_recipe: Print the recipe as JSON without training.
    """
    with usage_errors():
        check_network_name(model)
        check_dataset(data)
        if size is not None and size < 1:
            raise UserError(f"--size is {size}; it must be at least 1")
        data_options.check()
        fresh = not (weights or resume or print_recipe)
        overrides = {**(read_recipe(recipe_file, fresh=fresh) if recipe_file else {}), **(recipe or {})}
        device = Recipe().override(with_minimum_epochs(overrides)).device
        if overrides.get("epochs") == 0 and weights is None:
            raise UserError(
                "epochs is 0; it must be at least 1, or --weights be given, which are then kept as they are"
            )
    if not print_recipe:
        find = resumable_run_directory if resume else new_run_directory
        find(out, model=model, dataset=data, overwrite=overwrite)
    # torch takes seconds to import, so the arguments are checked before
    from training.cli.options import check_options, parse_options
    from training.cli.progress import TrainingProgress
    from training.events import ignore_events
    from training.loop.learner import pick_device
    from training.loop.process_group import process_group
    from training.run.plan import TrainingRequest, plan_recipe
    from training.run.train import train_checkpoint

    with usage_errors():
        options = parse_options(model, option or [])
        check_options(model, options, size=size)
    request = TrainingRequest(
        model, data, data_options=data_options, size=size, options=options, overrides=overrides, weights=weights
    )
    if print_recipe:
        print(json.dumps(plan_recipe(request).to_json(), indent=2))
        return None
    console = make_console()
    retain_freed_memory()
    # For convolutions with one input channel, whose strides are ambiguous; harmless.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    with process_group(cuda=pick_device(device).type == "cuda") as group, TrainingProgress(console) as progress:
        report = progress if group.is_main else ignore_events
        try:
            path = train_checkpoint(request, out=out, resume=resume, overwrite=overwrite, report=report, group=group)
        except KeyboardInterrupt:
            if group.is_main:
                progress.print_resume_command(model, data, data_options.to_flags())
            raise
    if group.is_main:
        text = f"checkpoint: {path}\nnext: convscope export {shlex.quote(str(path))}"
        console.print(text, highlight=False, soft_wrap=True, markup=False)
    return None
