"""The spellings of options that other trainers use, from torchvision's, timm's, Ultralytics' and Keras' references."""

from collections.abc import Mapping, Sequence

from cyclopts import CycloptsError

_DATA = {"--dataset": "--data", "--data-path": "--data"}
_WORKERS = {"-j": "--workers", "--num-workers": "--workers", "--nproc": "--workers"}
_TRAIN = {
    "--lr": "--learning-rate",
    "--lr0": "--learning-rate",
    "--bs": "--batch-size",
    "-b": "--batch-size",
    "--batch": "--batch-size",
    "--wd": "--weight-decay",
    "--opt": "--optimizer",
    "--optim": "--optimizer",
    "--img-size": "--size",
    "--image-size": "--size",
    "--input-size": "--size",
    "--imgsz": "--size",
    "--sched": "--schedule",
    "--lr-scheduler": "--schedule",
    "--lr-warmup-epochs": "--warmup-epochs",
    "--smoothing": "--label-smoothing",
    "--clip-grad": "--clip-norm",
    "--clip-grad-norm": "--clip-norm",
    "--mixup-alpha": "--mixup",
    "--cutmix-alpha": "--cutmix",
    "--reprob": "--erasing",
    "--random-erase": "--erasing",
    "--val-split": "--validation-fraction",
    "--validation-split": "--validation-fraction",
    "--output": "--out",
    "--output-dir": "--out",
    "--exist-ok": "--overwrite",
    "--arch": "--model",
    "-a": "--model",
    **_WORKERS,
    **_DATA,
}
_READ = {**_WORKERS, **_DATA, "--output": "--out", "--output-dir": "--out"}
ALIASES: dict[str, Mapping[str, str]] = {  # of verbs: the other spelling, and ours
    "train": _TRAIN,
    "evaluate": _READ,
    "export": _READ,
    "index": {**_WORKERS, **_DATA},
    "verify": {**_WORKERS, **_DATA},
    "classify": {"--topk": "--top-k", "-k": "--top-k", "--checkpoint": "--artifact"},
    "serve": {"-p": "--port", "--num-workers": "--workers", "-w": "--workers"},
}
REFUSED: dict[str, Mapping[str, str]] = {  # options whose values mean something else here
    "train": {
        "--pretrained": "--weights DEFAULT",
        "--amp": "--precision bf16, which is taken by itself where it is faster",
        "--model-ema": "--ema 0.999",
        "--hflip": "--flip, for half of the images",
        "--hflip-prob": "--flip, for half of the images",
        "--test-only": "convscope evaluate RUN --data DATA",
        "--evaluate": "convscope evaluate RUN --data DATA",
        "--num-classes": "nothing to give: the classes are the folders of --data",
        "--gpu": "--device cuda:0",
        "--gpus": "torchrun --nproc-per-node N -m convscope train ...",
        "--patience": "--epochs: the schedule ends with the last epoch",
    },
}


def with_our_spellings(words: Sequence[str]) -> list[str]:
    """The arguments of a command with other trainers' options under our names, as `--lr=0.1` or `--lr 0.1`.

    Raises:
        CycloptsError: an option that has another meaning here; the message names what to use.
    """
    if not words:
        return []
    aliases, refused = ALIASES.get(words[0], {}), REFUSED.get(words[0], {})
    found = [words[0]]
    for position, word in enumerate(words[1:], start=1):
        if word == "--":
            return [*found, *words[position:]]
        name, equals, value = word.partition("=")
        plain = name.replace("_", "-") if name.startswith("--") else name
        if plain in refused:
            raise CycloptsError(msg=f"{name} is not an option of {words[0]}; use {refused[plain]}")
        found.append(f"{aliases.get(plain, name)}{equals}{value}")
    return found
