"""The kinds of requests in the server measurements."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.messages import classify_message, infer_message
from benchmarks.gpu.networks import files_for, pixels_for

PNG, JPEG = "PNG 28x28", "JPEG 640x480"
FILES = 32  # different files
_SINGLES, _MANY, _EIGHTS = 8, 8, 4  # different requests of one image; images in a larger one; different ones of these
_LARGEST = "resnet50"  # also measured with several images in one request


@dataclass(frozen=True)
class Case:
    """One kind of request.

    Attributes:
        network: its name.
        artifact: name of the served model.
        body: description; the server decodes `PNG` and `JPEG`.
        messages: whole requests.
        images: number of images in each message.
    """

    network: str
    artifact: str
    body: str
    messages: tuple[bytes, ...]
    images: int = 1

    @property
    def name(self) -> str:
        """Description for tables."""
        return f"{self.network}, {self.body}"


def cases(artifacts: Mapping[str, Path]) -> Iterator[Case]:
    """Every kind of request for every network.

    With three networks, adjacent cases use different ones, so that a worker's late counts are not attributed to the
    next case.
    """
    names = {network: path.parent.name for network, path in artifacts.items()}
    for network, name in names.items():
        files = tuple(classify_message(file, name) for file in files_for(network, FILES))
        yield Case(network, name, PNG if network == "lenet" else JPEG, files)
    for network, name in names.items():
        if network != "lenet":
            pixels = pixels_for(network, _SINGLES)
            singles = tuple(infer_message(pixels[index : index + 1], name) for index in range(_SINGLES))
            yield Case(network, name, "uint8", singles)
    if _LARGEST in names:
        pixels = pixels_for(_LARGEST, _EIGHTS * _MANY)
        eights = tuple(infer_message(pixels[index::_EIGHTS], names[_LARGEST]) for index in range(_EIGHTS))
        yield Case(_LARGEST, names[_LARGEST], f"uint8, {_MANY} images", eights, _MANY)
