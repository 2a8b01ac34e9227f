"""model.onnx: the deployable graph with a dynamic batch, its intermediate values named like the network's nodes.

The exporter renames only graph outputs, and its optimiser folds unused values away. So every node of the network is
exported as an output, which gives its value the node's name and keeps a convolution separate from its batch norm; then
the extra outputs are removed from the list again, and the values stay. Runtimes fold convolution and batch norm when
they load the file (ONNX Runtime at its basic level), so serving loses nothing.
"""

from dataclasses import replace
from pathlib import Path

import onnx
import torch

from export.artifact.identity import KEY, FileIdentity, describe
from export.writers.deployable import DeployableWithFeatures
from models.checkpoint.directory import Checkpoint
from models.errors import UserError
from models.graph.node import Node
from models.graph.onnx_program import onnx_program
from models.graph.trace import trace

OUTPUTS = ("probabilities", "logits")
_TAKEN = {"image", *OUTPUTS}
_OURS = "convscope:"  # the exporter gives no value this prefix


def write_onnx(
    checkpoint: Checkpoint, nodes: tuple[Node, ...], path: Path, *, identity: FileIdentity | None = None
) -> tuple[Node, ...]:
    """Writes the file and returns the node table with the graph's value names filled in.

    Raises:
        ValueError: the exporter refuses the network, or loses one of its nodes.
    """
    spec = checkpoint.config.input
    # The last node is the logits, an output in any case.
    nodes = (*(replace(node, value=_value_name(node.name)) for node in nodes[:-1]), replace(nodes[-1], value="logits"))
    traced = trace(checkpoint.network, (spec.channels, spec.height, spec.width))
    tapped = DeployableWithFeatures(checkpoint, traced.returning([node.name for node in nodes[:-1]]))
    example = torch.zeros(2, *spec.shape, dtype=torch.uint8)  # the exporter would treat batch 1 as a constant
    names = [*OUTPUTS, *(f"{_OURS}{node.value}" for node in nodes[:-1])]
    program = onnx_program(tapped, example, traced, input_names=["image"], output_names=names)
    model = program.model_proto
    kept = [output for output in model.graph.output if output.name in OUTPUTS]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    _name_values(model.graph, {f"{_OURS}{node.value}": node.value for node in nodes[:-1]})
    _strip(model)
    known = {name for node in model.graph.node for name in node.output}
    if lost := [node.name for node in nodes if node.value not in known]:
        raise UserError(f"the exporter lost the values {', '.join(lost)}")
    onnx.helper.set_model_props(model, {KEY: describe(checkpoint.config, identity)})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return nodes


def _value_name(name: str) -> str:
    return f"{name}.inner" if name in _TAKEN else name


def _name_values(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Renames values; an existing value with the new name (such as `permute`) gets another one."""
    taken, names = set(names.values()), dict(names)
    for value in (*(output for node in graph.node for output in node.output), *(t.name for t in graph.initializer)):
        if value in taken:
            names[value] = f"{value}.other"
    for node in graph.node:
        node.input[:] = [names.get(value, value) for value in node.input]
        node.output[:] = [names.get(value, value) for value in node.output]
    for named in (*graph.value_info, *graph.initializer):
        named.name = names.get(named.name, named.name)


def _strip(model: onnx.ModelProto) -> None:
    """Removes the exporter's records of this machine: source lines, paths, traces."""
    for node in model.graph.node:
        node.doc_string = ""
        scopes = [prop for prop in node.metadata_props if prop.key == "pkg.torch.onnx.name_scopes"]
        del node.metadata_props[:]
        node.metadata_props.extend(scopes)
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    model.graph.doc_string = model.doc_string = ""
