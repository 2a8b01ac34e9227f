"""The verb `convscope import-onnx`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from export.artifact.manifest import INDEPENDENT_SCORES, ONNX_FILE, check_name, read_manifest
from export.onnx_import.class_names import METADATA_KEYS, names_in_metadata, names_in_text, names_in_yaml
from export.onnx_import.input_spec import Mode, choose_mode, choose_size, make_spec, parse_numbers, parse_size
from export.onnx_import.source import OnnxClassifier, read_onnx
from models.errors import UserError
from models.images.header import DEFAULT_LIMIT_PIXELS
from training.cli.arguments import usage_errors
from training.cli.console import make_console
from training.data.options import SourceOptions


def import_onnx(
    file: Path,
    *,
    mean: str,
    std: str,
    classes: str | None = None,
    input: str | None = None,
    mode: Mode | None = None,
    resize: str | None = None,
    crop: str | None = None,
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear",
    background: int = 255,
    layout: Literal["nchw", "nhwc"] | None = None,
    channel_order: Literal["rgb", "bgr"] = "rgb",
    output: str | None = None,
    images: Annotated[list[Path] | None, Parameter(consume_multiple=True, negative="")] = None,
    image_limit_pixels: int = DEFAULT_LIMIT_PIXELS,
    name: str | None = None,
    out: Path = Path("artifacts"),
) -> None:
    """Converts a third-party ONNX image classifier to an artifact, and compares it with the original.

    The file takes float or uint8 images, (N, C, H, W) or (N, H, W, C), and returns a score per class: logits, their
    softmax, or their sigmoid (scores that are independent of each other; a single one is for two classes). For example
    `convscope import-onnx resnet50.onnx --classes imagenet.txt --mean imagenet --std imagenet --resize 256`.

    Images are scaled to [0, 1] before the mean is subtracted. For a network that takes 0 to 255 pass
    `--mean 0 --std 1/255`, for one that takes -1 to 1 `--mean 0.5 --std 0.5`.

    Args:
        file: The ONNX file; weights may lie in another file beside it.
        mean: imagenet, or comma-separated numbers, one per channel (or one for all); 0 for no subtraction.
        std: Likewise; 1 for no division.
        classes: A file with class names, one per line, by index (0,tench), or a list or dictionary (also Hugging Face's
            config.json, or YAML such as Ultralytics' data.yaml); or comma-separated names, in the order of the scores
            [default: the file's metadata].
        input: Size of the network's input, HxW or one number [default: the file's].
        mode: RGB or L (grey) [default: by the file's channels].
        resize: HxW stretches; one number scales the shorter side to it [default: the size of --input].
        crop: HxW or one number: the size then cut from the centre [default: the size of --input].
        interpolation: nearest, bilinear, bicubic, lanczos.
        background: Grey level (0-255) behind transparent pixels.
        layout: Order of the axes, nchw or nhwc [default: by the file's channels].
        channel_order: Order in which the network takes the channels; mean and std are in the order of RGB in any case.
        output: Name of the output to use if there are several.
        images: Files and folders to compare on [default: crops of two photographs].
        image_limit_pixels: Largest of these images, as width x height of what is decoded.
        name: The artifact's name [default: the file's].
        out: The folder of artifacts; the import writes the next free version.
    """
    with usage_errors():
        names = None if classes is None else read_classes(classes)
        numbers = parse_numbers("mean", mean), parse_numbers("std", std)
        size, resized, cropped = parse_size("input", input), parse_size("resize", resize), parse_size("crop", crop)
        check_name(name or file.stem)
        if not 0 <= background <= 255:
            raise UserError(f"--background is {background}; it must be 0 to 255")
        SourceOptions(image_limit_pixels=image_limit_pixels).check()
    if not file.is_file():
        raise UserError(f"the file {file} does not exist")
    from export.onnx_import.importer import import_model  # imports torch, which takes seconds

    console = make_console()
    model = read_onnx(file, output=output, layout=None if layout is None else "NHWC" if layout == "nhwc" else "NCHW")
    if names is None:
        with usage_errors():
            names = _names_of(model)
        console.print(f"class names are those in the file's metadata: {', '.join(names)[:80]}", markup=False)
    chosen = choose_mode(model, mode), choose_size(model, size)
    with usage_errors():
        spec = make_spec(
            *chosen,
            mean=numbers[0],
            std=numbers[1],
            resize=resized,
            crop=cropped,
            interpolation=interpolation,
            background=background,
        )
    path = import_model(
        model,
        classes=names,
        spec=spec,
        out=out,
        name=name,
        images=images or (),
        image_limit_pixels=image_limit_pixels,
        channel_order="BGR" if channel_order == "bgr" else "RGB",
        classes_from="its metadata" if classes is None else "--classes",
        report=lambda line: console.print(line, markup=False),
    )
    manifest = read_manifest(path)
    parity = manifest.files[ONNX_FILE].parity
    console.print(
        f"{len(manifest.nodes)} layers, {len(names)} classes; largest difference of a probability to the original "
        f"{parity['maximum_difference']:.1e} at batches {', '.join(map(str, parity['batches']))}",
        *([] if not manifest.independent_scores else [INDEPENDENT_SCORES]),
        f"artifact: {path}",
        f"next: convscope serve {path}",
        sep="\n",
    )


def _names_of(model: OnnxClassifier) -> list[str]:
    """Class names in the file's metadata.

    Raises:
        ValueError: there are none.
    """
    names = names_in_metadata(model.metadata)
    if names is None:
        raise UserError(f"{model.path} has no class names in its metadata ({', '.join(METADATA_KEYS)}); give --classes")
    return _checked(names, "its metadata")


def read_classes(given: str) -> list[str]:
    """Class names: those in a file (see `names_in_text`), or comma-separated words.

    Raises:
        ValueError: fewer than two, or an empty one. Names may repeat, as `crane` does in ImageNet.
    """
    path = Path(given)
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8-sig")
            names = names_in_yaml(text) if path.suffix in (".yaml", ".yml") else names_in_text(text)
        except UnicodeDecodeError:
            raise UserError(f"--classes: {given} is not a text file in UTF-8") from None
        except UserError as error:
            raise UserError(f"--classes: {given}: {error}") from None
    elif "," in given:
        names = [word.strip() for word in given.split(",")]
    else:
        raise UserError(f"--classes is {given!r}; wanted a text file that exists, or names with commas between")
    return _checked(names, "--classes")


def _checked(names: list[str], source: str) -> list[str]:
    if len(names) < 2:
        raise UserError(f"{source} has {len(names)} names; a classifier needs at least 2")
    if "" in names:
        raise UserError(f"{source}: name {names.index('') + 1} of {len(names)} is empty")
    return names
