"""model.pt2: the deployable graph as saved by torch.export, without source lines."""

import io
from pathlib import Path

import numpy as np
import torch
from torch.export import ExportedProgram

from export.artifact.identity import KEY, FileIdentity, describe
from export.writers.deployable import Deployable
from models.checkpoint.directory import Checkpoint
from models.errors import UserError
from models.images.decode import Pixels

_PRIVATE = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn")


def write_pt2(checkpoint: Checkpoint, example: Pixels, path: Path, *, identity: FileIdentity | None = None) -> None:
    """Exports with a free batch and writes the archive.

    Loading unpickles the example input, so the server never loads one; it is for deployment with torch, and as input
    for compilers.

    Args:
        example: uint8 (N, H, W, C), N at least 2, as a batch of one would become a constant.

    Raises:
        ValueError: torch refuses the network.
    """
    program = export_program(checkpoint, example)
    for node in program.graph.nodes:
        for key in _PRIVATE:
            node.meta.pop(key, None)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={f"{KEY}.json": describe(checkpoint.config, identity)})
    path.write_bytes(buffer.getvalue())


def export_program(checkpoint: Checkpoint, example: Pixels) -> ExportedProgram:
    """The deployable graph with a free batch as a torch.export program; arguments as for `write_pt2`.

    Raises:
        ValueError: torch refuses the network.
    """
    images = torch.from_numpy(np.array(example))
    try:
        return torch.export.export(
            Deployable(checkpoint), (images,), dynamic_shapes={"image": {0: torch.export.Dim("batch")}}, strict=False
        )
    except Exception as error:  # torch.export raises many kinds of errors, its own and Python's
        raise UserError(f"torch.export cannot export the network: {str(error).splitlines()[0]}") from None
