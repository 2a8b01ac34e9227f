"""Loads pretrained weights from a file into a network that may have another head."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from models.errors import UserError

AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")  # in torchvision's Inception and GoogLeNet


Weights = dict[str, Tensor]


@dataclass(frozen=True)
class PretrainedReport:
    """The outcome of `load_pretrained`, tensor by tensor.

    Attributes:
        loaded: names of tensors from the file.
        skipped: names of the head's tensors, left as initialised because the file has another class count.
        summed: the first convolution's weight, if the file's takes three channels and the network's one.
        ignored: number of tensors of auxiliary classifiers, which are not used here.
        classes: the file's class count if its head was skipped.
    """

    loaded: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    summed: tuple[str, ...] = ()
    ignored: int = 0
    classes: int | None = None

    def __str__(self) -> str:
        text = f"{len(self.loaded)} tensors loaded"
        if self.skipped:
            text += f"; {', '.join(self.skipped)} left as initialised: the file's head is for {self.classes} classes"
        if self.summed:
            text += f"; {self.summed[0]} summed over colours for grey images"
        if self.ignored:
            text += f"; {self.ignored} of auxiliary classifiers not used"
        return text


def load_pretrained(network: nn.Module, path: Path) -> PretrainedReport:
    """Loads a plain `state_dict` (.pth, .pt; tensors only, nothing is unpickled) or a .safetensors file.

    The head, the last layer with a weight, is skipped if the file has another class count. A first convolution of
    three channels is summed for one of a single channel. Everything else must fit.

    Raises:
        ValueError: no such file, not weights, or a tensor that does not fit, is missing or unknown; the network stays
            unchanged.
    """
    given, own = _read(path), network.state_dict()
    head = _head(network)
    loaded: dict[str, Tensor] = {}
    skipped: list[str] = []
    summed: list[str] = []
    classes: int | None = None
    for name, tensor in own.items():
        if name not in given:
            if name.endswith(".num_batches_tracked"):  # files from before PyTorch 0.4.1 have none
                continue
            raise UserError(f"{path} has no {name!r}; it has {len(given)} tensors, {', '.join(list(given)[:3])}, ...")
        found = given[name]
        if found.shape == tensor.shape:
            loaded[name] = found
        elif name.rpartition(".")[0] == head and found.shape[1:] == tensor.shape[1:]:
            skipped.append(name)
            classes = found.shape[0]
        elif name == _first_convolution(network) and _sums_to_grayscale(found, tensor):
            loaded[name] = found.sum(1, keepdim=True)
            summed.append(name)
        else:
            raise UserError(f"{path}: {name} is {tuple(found.shape)}; the network's is {tuple(tensor.shape)}")
    foreign = [name for name in given if name not in own]
    if unknown := [name for name in foreign if not name.startswith(AUXILIARY)]:
        raise UserError(
            f"{path}: the network has no {unknown[0]!r}; {len(unknown)} of {len(given)} tensors are unknown"
        )
    load_tensors(network, own | loaded)
    return PretrainedReport(tuple(loaded), tuple(skipped), tuple(summed), len(foreign), classes)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path} does not exist; weights are a .pth, .pt or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file: {error}") from None
    except Exception as error:  # torch.load raises arbitrary exceptions from its unpickler
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is not a file of plain tensors: {reason}") from None
    for key in ("state_dict", "average", "weights"):  # often beside an optimizer; also our unfinished runs
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} holds {type(content).__name__}; it must be a state_dict, names to tensors")
    return dict(content)


def _head(network: nn.Module) -> str:
    weighted = [
        name for name, module in network.named_modules() if isinstance(getattr(module, "weight", None), nn.Parameter)
    ]
    return weighted[-1] if weighted else ""


def _first_convolution(network: nn.Module) -> str:
    names = (name for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    return f"{next(names, '')}.weight"


def _sums_to_grayscale(found: Tensor, tensor: Tensor) -> bool:
    colours = found.ndim == tensor.ndim == 4 and found.shape[1] == 3 and tensor.shape[1] == 1
    return colours and (found.shape[0], *found.shape[2:]) == (tensor.shape[0], *tensor.shape[2:])


def load_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Loads tensors without a `state_dict`'s versions: safetensors have none, but torchvision's MNASNet needs them.

    Raises:
        RuntimeError: names or shapes differ.
    """
    versioned = OrderedDict(tensors)
    versioned._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]  # where torch keeps them
    network.load_state_dict(versioned)
