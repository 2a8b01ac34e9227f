"""Readable names for the operations of a foreign graph: those of its modules, where the exporter noted them."""

import re
from collections.abc import Sequence

import onnx_ir as ir

from export.onnx_import.graph import SCOPES

_RESERVED = {"input", "probabilities"}  # the image's name among parents; the answer's name beside feature maps


def readable_names(nodes: Sequence[ir.Node]) -> dict[ir.Value, str]:
    """A name for every value that the nodes make, unique, of letters, digits, `.`, `_` and `-`.

    A layer is called as its module is (`layer1.0.conv1`), an operation of a larger module by both (`layer1.0.Add`), one
    without modules as in the file; what then has the same name is numbered (`relu`, `relu_1`). PyTorch's exporters note
    modules in metadata or in paths such as /layer1/layer1.0/conv1/Conv; others have such paths too.
    """
    paths = {node: _path(node) for node in nodes}
    larger = {"", *(scope[: dot.start()] for scope, _ in paths.values() for dot in re.finditer(r"\.", scope))}
    names: dict[ir.Value, str] = {}
    taken = set(_RESERVED)
    for node, (scope, word) in paths.items():
        plain = f"{scope}.{word}".strip(".") if scope in larger else scope
        for value in node.outputs:
            name, count = plain, 0
            while name in taken:
                count += 1
                name = f"{plain}_{count}"
            taken.add(name)
            names[value] = name
    return names


def _path(node: ir.Node) -> tuple[str, str]:
    """The module that a node belongs to, and a word for what it does there."""
    scopes = re.findall(r"'([^']*)'", node.metadata_props.get(SCOPES, ""))
    if len(scopes) > 1:
        return _plain(scopes[-2]), node.op_type
    whole = [part for part in (node.name or node.outputs[0].name or node.op_type).split("/") if part]
    # In PyTorch's paths /layer1/layer1.0/conv1 a part may begin with the whole part before it.
    parts = [part for part, after in zip(whole, [*whole[1:], ""], strict=True) if not after.startswith(f"{part}.")]
    *modules, word = map(_plain, parts)
    return ".".join(filter(None, modules)), word or node.op_type


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("._")
