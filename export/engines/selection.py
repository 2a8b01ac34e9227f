"""Selects and opens the engine for an artifact."""

from pathlib import Path
from typing import get_args

from export.artifact.formats import (
    GRAPH_FORMATS,
    OPENVINO_RUNS,
    RUNS,
    EngineName,
    FormatEngine,
    GraphFormat,
    Precision,
    PrecisionName,
    engines_of,
    find_format,
)
from export.artifact.manifest import Manifest, read_file
from export.engines.bench_record import measured_order
from export.engines.cuda import Device, cuda_unavailable_reason
from export.engines.onnxruntime import OnnxEngine, cuda_provider_unavailable_reason
from export.engines.openvino import OpenVinoEngine, openvino_unavailable_reason
from export.engines.protocol import Engine, EngineError


def open_engine(
    directory: Path,
    manifest: Manifest,
    *,
    engine: EngineName | FormatEngine = "auto",
    precision: PrecisionName = "fp32",
    device: Device = "auto",
    threads: int = 0,
) -> Engine:
    """Opens an artifact's file for inference, after checking its hash.

    Args:
        directory: the artifact.
        manifest: its manifest.
        engine: `auto` takes the fastest engine found by `convscope bench --use` on this machine; without a record ONNX
            Runtime if there is an ONNX file, but TorchScript if only torch can use the GPU.
        precision: fp16, bf16 and int8 if the artifact has them; `auto` likewise, or fp32.
        device: `auto` takes CUDA if available; `cuda` fails without it.
        threads: per run; 0 leaves the choice to the engine.

    Raises:
        ArtifactError: the file is missing or was changed.
        EngineError: the manifest has no such file, it does not open, or the device is missing.
    """
    form = _choose(directory, manifest, engine, precision, device)
    chosen, file = form.engine, form.file
    if unverified := why_not_verified(form, manifest):
        raise EngineError(f"{directory} cannot run {form.key}: {unverified}")
    if file not in manifest.files:
        why = f"; export left it out: {manifest.dropped[file]}" if file in manifest.dropped else ""
        there = ", ".join(manifest.files)
        raise EngineError(f"{directory} has no {file} for the engine {chosen}; it has {there}{why}")
    content = read_file(directory, manifest, file)
    if device == "cuda" and (reason := cuda_unavailable_reason()):
        raise EngineError(f"device is cuda, but {reason}")
    return open_file(chosen, directory / file, content, precision=form.precision, device=device, threads=threads)


def why_not_verified(form: GraphFormat, manifest: Manifest) -> str:
    """Why a further way to run a file in less than fp32 is not to be trusted; empty otherwise."""
    if form not in OPENVINO_RUNS or form.precision == "fp32" or form.key in manifest.runs:
        return ""
    if form.key in manifest.dropped:
        return f"export refused it: {manifest.dropped[form.key]}"
    return f"its accuracy was not compared; export with --precision {form.precision}, --data, and OpenVINO installed"


def runs_here(manifest: Manifest) -> list[GraphFormat]:
    """The ways to run the artifact's files, with OpenVINO where it is installed, in the order of `RUNS`."""
    there = [form for form in RUNS if form.file in manifest.files and not why_not_verified(form, manifest)]
    return [form for form in there if form.engine != "openvino" or not openvino_unavailable_reason(form.precision)]


def _choose(
    directory: Path,
    manifest: Manifest,
    engine: EngineName | FormatEngine,
    precision: PrecisionName,
    device: Device,
) -> GraphFormat:
    if "auto" in (engine, precision):
        where = ("cpu" if cuda_unavailable_reason() else "cuda") if device == "auto" else device
        order = measured_order(directory, device=where)
        there = runs_here(manifest) if order else []
        for form in order:
            fits = engine == form.engine or (engine == "auto" and form.engine in get_args(EngineName))
            if form in there and fits and precision in ("auto", form.precision):
                return form
    wanted = "fp32" if precision == "auto" else precision
    if engine == "auto":
        usable = [form for form in GRAPH_FORMATS if form.precision == wanted and form.engine in get_args(EngineName)]
        there = [form for form in usable if form.file in manifest.files] or usable
        on_torch = [form for form in there if form.engine == "torchscript"]
        return on_torch[0] if on_torch and device != "cpu" and _torch_alone_uses_the_gpu() else there[0]
    found = find_format(engine, wanted)
    if found is None:
        raise EngineError(f"the engine {engine} runs no {wanted}; {' and '.join(engines_of(wanted))} can")
    return found


def _torch_alone_uses_the_gpu() -> bool:
    """True if torch can use a GPU that this build of ONNX Runtime cannot; only then is torch imported."""
    if cuda_unavailable_reason() or not cuda_provider_unavailable_reason():
        return False
    try:
        import torch
    except ModuleNotFoundError:
        return False
    return torch.cuda.is_available()


def open_file(
    engine: FormatEngine,
    path: Path,
    content: bytes | None = None,
    *,
    precision: Precision = "fp32",
    device: Device = "auto",
    threads: int = 0,
) -> Engine:
    """Opens a graph file whose hash has been checked.

    Args:
        content: its bytes, if they have already been read.
        precision: that OpenVINO computes in; for other engines it is the file's.

    Raises:
        EngineError: it does not open, or the engine or the device is missing.
    """
    if engine == "onnxruntime":
        return OnnxEngine(path, content, device=device, threads=threads)
    if engine == "openvino":
        return OpenVinoEngine(path, content, precision=precision, device=device, threads=threads)
    try:  # torch takes seconds to import
        if engine == "pt2":
            from export.engines.torch import Pt2Engine

            return Pt2Engine(path, content, device=device, threads=threads)
        if engine == "aoti":
            from export.engines.torch import AotiEngine

            return AotiEngine(path, content, device=device, threads=threads)
        from export.engines.torch import TorchScriptEngine
    except ModuleNotFoundError as error:
        raise EngineError(f"the engine {engine} needs the package {error.name}, which is not installed") from None

    return TorchScriptEngine(path, content, device=device, threads=threads)
