"""The names of the networks, known without torch, which takes seconds to import."""

import difflib
import functools
import re
from importlib.util import find_spec
from pathlib import Path

from models.errors import UserError

TORCHVISION_PREFIX = "torchvision:"
NAMES = (  # the keys of the registry
    "lenet",
    "lenet1998",
    "simple_cnn",
    "mlp",
    "compact_cnn",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet20",
    "se_resnet20",
    "vgg11",
    "vgg13",
    "vgg16",
    "mobilenet_small",
    "skip_cnn",
    "two_head_cnn",
    "stripes_conv1",
    "stripes_conv1_relu",
    "stripes_conv2",
    "stripes_conv2_relu",
)
_BUILDER = re.compile(r"^@register_model\([^\n]*\)\n(?:@[^\n]*\n(?:[ )][^\n]*\n)*)*def (\w+)\(", re.M)


@functools.cache
def torchvision_names() -> tuple[str, ...]:
    """Names of torchvision's image classifiers, without the quantised ones; read from its source."""
    package = find_spec("torchvision")
    assert package is not None and package.submodule_search_locations, "torchvision is a dependency"
    folder = Path(package.submodule_search_locations[0]) / "models"
    return tuple(sorted(name for file in folder.glob("*.py") for name in _BUILDER.findall(file.read_text("utf-8"))))


def check_network_name(name: str) -> None:
    """Checks that a network has the name; `module:callable` is accepted without importing it.

    Raises:
        UserError: no such name; the message lists the nearest ones.
    """
    plain = name.removeprefix(TORCHVISION_PREFIX)
    if name in NAMES or plain in torchvision_names() or (":" in name and plain == name):
        return
    ours = plain == name
    known = [*NAMES, *torchvision_names()] if ours else [TORCHVISION_PREFIX + there for there in torchvision_names()]
    # With the prefix all of torchvision's names would be similar.
    near = difflib.get_close_matches(name, dict.fromkeys(known), n=3, cutoff=0.4 if ours else 0.8)
    known_ones = f"known are {', '.join(NAMES)}, torchvision's by their names there, and module:callable"
    hint = f"did you mean {' or '.join(near)}?" if near else known_ones
    raise UserError(f"no network is called {name!r}; {hint}")
