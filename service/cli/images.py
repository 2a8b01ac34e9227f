"""The verbs that look inside a network with one image file: `convscope inspect` and `convscope unit`."""

from pathlib import Path
from typing import Any

from cyclopts import CycloptsError

# Engines and inspection are imported after the arguments are checked.


def inspect(
    artifact: Path,
    image: Path,
    *,
    layers: str = "*",
    channel: int = 0,
    out: Path,
    image_limit_pixels: int | None = None,
) -> None:
    """Writes the feature maps of one image as a picture, as arrays, or as an animation of a sliding kernel.

    For example `convscope inspect artifacts/lenet-mnist seven.png --layers "conv*,pool*" --out sheet.png` or
    `convscope inspect artifacts/lenet-mnist seven.png --layers conv1 --channel 2 --out slide.gif`.

    Args:
        artifact: An artifact directory, or its name's folder for the newest version.
        image: A PNG, JPEG, GIF, BMP, WebP, TIFF, PPM or AVIF file.
        layers: Comma-separated names or globs; one convolution or pool for an animation.
        channel: Channel of the layer that an animation shows.
        out: The file to write: .png, a sheet of all channels; .npz, arrays by layer; .gif, an animation.
        image_limit_pixels: Largest image, as width x height of what is decoded [default:
            CONVSCOPE_IMAGE_LIMIT_PIXELS, else 50 million].
    """
    kind = out.suffix.lower()
    if kind not in (".png", ".npz", ".gif"):
        raise CycloptsError(msg=f"--out is {out}; it must end in .png, .npz or .gif")
    if channel and kind != ".gif":
        raise CycloptsError(msg="--channel goes with an animation, --out FILE.gif")
    import numpy as np

    from export.predictor import top_predictions
    from service.cli.opening import decode_file, open_as_served, pixel_limit
    from service.inspection.feature_maps import inspect_image, select_nodes
    from service.inspection.references.index import find_index, normality_text
    from service.inspection.slide import draw_slide
    from service.inspection.tiles import draw_sheet

    limit = pixel_limit(image_limit_pixels)
    model = open_as_served(artifact)
    pixels = decode_file(model, image, limit)
    if kind == ".gif":
        slide = draw_slide(model, pixels, layers, channel)
        slide.save(out)
        print(f"{image.name}: {len(slide.frames)} positions of channel {channel} of {layers} in {out}")
        return
    maps = inspect_image(model, pixels, select_nodes(model, layers.split(",")))
    best = top_predictions(maps.probabilities, model.manifest.classes, 1)[0]
    title = f"{image.name}: {best['label']} ({best['probability']:.1%})"
    if kind == ".npz":
        arrays: dict[str, Any] = {node.name: value for node, value in maps.layers}
        np.savez(out, **{"probabilities": maps.probabilities, **arrays})
    else:
        draw_sheet(title, pixels, maps.layers).save(out)
    print(f"{title}; {len(maps.layers)} layers of {maps.file} in {out}")
    if references := find_index(model):
        found = [one for one in references.normality(maps.layers) if one]
        print(f"{image.name}: {normality_text(found, references)}")


def unit(artifact: Path, image: Path, layer: str, index: str, *, image_limit_pixels: int | None = None) -> None:
    """Prints the arithmetic of one number inside an artifact's ONNX file for one image.

    For example `convscope unit artifacts/lenet-mnist seven.png conv1 2,5,7`.

    Args:
        artifact: An artifact directory, or its name's folder for the newest version.
        image: A PNG, JPEG, GIF, BMP, WebP, TIFF, PPM or AVIF file.
        layer: A layer's name, input, image or probabilities, or the source of another unit's term.
        index: CHANNEL,ROW,COLUMN in a feature map, or an element's number in a vector.
        image_limit_pixels: Largest image, as width x height of what is decoded [default:
            CONVSCOPE_IMAGE_LIMIT_PIXELS, else 50 million].
    """
    parts = index.split(",")
    from service.http.requests import is_number

    if not all(is_number(part) for part in parts):
        raise CycloptsError(msg=f"INDEX is {index!r}; wanted whole numbers with commas between them, such as 2,5,7")
    from service.cli.opening import decode_file, open_as_served, pixel_limit
    from service.inspection.unit_text import unit_text
    from service.inspection.units import inspect_unit

    limit = pixel_limit(image_limit_pixels)
    model = open_as_served(artifact)
    print(unit_text(inspect_unit(model, decode_file(model, image, limit), layer, [int(part) for part in parts])))
