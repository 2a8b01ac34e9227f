"""model.ts: the deployable graph, traced and frozen, without TorchScript's source lines."""

import io
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from export.artifact.identity import KEY, FileIdentity, describe
from export.engines.torch import quiet_torchscript
from export.writers.deployable import Deployable
from export.writers.torchscript_half import HalfDeployable, HalfPrecision
from models.checkpoint.directory import Checkpoint
from models.errors import UserError
from models.images.decode import Pixels

_DEBUG = ".debug_pkl"  # maps each operation to source lines of this machine


class UnsupportedPrecision(UserError):
    """An operation of the network does not support a precision; the message names both."""


def write_torchscript(
    checkpoint: Checkpoint,
    example: Pixels,
    path: Path,
    *,
    precision: Literal["fp32"] | HalfPrecision = "fp32",
    identity: FileIdentity | None = None,
) -> None:
    """Traces on real images (N, H, W, C), N at least 2, and writes the archive.

    Args:
        precision: fp32; or fp16 or bf16, see `export.writers.torchscript_half`.

    Raises:
        UnsupportedPrecision: an operation of the network does not run below fp32.
        ValueError: torch refuses the network.
    """
    images = torch.from_numpy(np.array(example))
    about = {f"{KEY}.json": describe(checkpoint.config, identity)}
    buffer = io.BytesIO()
    with quiet_torchscript(), torch.no_grad():
        try:
            deployable = Deployable(checkpoint) if precision == "fp32" else HalfDeployable(checkpoint, precision)
            traced = torch.jit.trace(deployable, (images,))  # type: ignore[no-untyped-call]
            torch.jit.save(torch.jit.freeze(traced), buffer, _extra_files=about)
        except (RuntimeError, torch.jit.TracingCheckError) as error:  # type: ignore[attr-defined]  # not in __all__
            reason = str(error).splitlines()[0]
            if precision != "fp32":
                raise UnsupportedPrecision(f"the network does not run in {precision}: {reason}") from None
            raise UserError(f"torch.jit cannot trace the network: {reason}") from None
    path.write_bytes(_without_debug(buffer))


def _without_debug(archive: io.BytesIO) -> bytes:
    archive.seek(0)
    reader = torch._C.PyTorchFileReader(archive)
    stripped = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(stripped)
    own = {"version", "byteorder", ".data/serialization_id"}  # the writer creates these itself
    for name in reader.get_all_records():
        if not name.endswith(_DEBUG) and name not in own:
            content = reader.get_record(name)
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return stripped.getvalue()
