"""TorchScript in fp16 and bf16: accurate, small, servable, and left out where a network does not run in it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from export.artifact.formats import choose_formats
from export.artifact.golden import check_golden
from export.artifact.manifest import read_manifest
from export.engines.selection import open_engine
from export.engines.torch import quiet_torchscript
from export.pipeline.export import ExportData, export_checkpoint
from export.verify.verification import verify_artifact
from export.writers.torchscript import UnsupportedPrecision, write_torchscript
from export.writers.torchscript_half import DTYPES, HalfDeployable, fold_batch_norms
from models.checkpoint.directory import Checkpoint, load_checkpoint
from models.checkpoint.samples import load_samples
from tests.conftest import make_checkpoint
from tests.in_process import client_for, digit, encoded

HALVES = {"fp16": "model.fp16.ts", "bf16": "model.bf16.ts"}


class SharedConvolution(nn.Module):
    """One convolution before two batch norms: folding either into it would be wrong for the other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.conv(self.first(self.conv(x)).relu())).flatten(1)


class Branches(nn.Module):
    """The convolution's own value is used too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return (x + self.norm(x)).flatten(1)


class WithoutStatistics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).flatten(1)


def remaining(module: nn.Module) -> int:
    """Batch norms that the graph still calls."""
    graph = module.graph
    return sum(
        node.op == "call_module" and "Norm" in type(module.get_submodule(node.target)).__name__ for node in graph.nodes
    )


@pytest.mark.parametrize(
    ("network", "left"),
    [
        (SharedConvolution(), 2),
        (Branches(), 1),
        (WithoutStatistics(), 1),
        (torchvision.models.resnet18(num_classes=5), 0),
        (torchvision.models.mobilenet_v2(num_classes=5), 0),
        (torchvision.models.densenet121(num_classes=5), 62),  # those that stand before a convolution
    ],
    ids=lambda value: type(value).__name__,
)
def test_folding_changes_no_answer(network: nn.Module, left: int) -> None:
    torch.manual_seed(0)
    x = torch.rand(3, 3, 32, 32)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = fold_batch_norms(network)
    with torch.inference_mode():
        wanted = network.eval()(x)
        torch.testing.assert_close(folded(x), wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
    assert remaining(folded) == left
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.fixture(scope="module")
def halves(trained: Path, data: ExportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact with both, of TorchScript alone; only to be read."""
    out = tmp_path_factory.mktemp("halves")
    return export_checkpoint(trained, out=out, formats=["torchscript"], precisions=["fp32", "fp16", "bf16"], data=data)


@pytest.mark.parametrize("precision", HALVES)
def test_a_half_file_keeps_the_accuracy_and_half_the_size(halves: Path, data: ExportData, precision: Any) -> None:
    manifest = read_manifest(halves)
    full, entry = manifest.files["model.ts"], manifest.files[HALVES[precision]]
    assert entry.size_bytes < 0.7 * full.size_bytes
    assert entry.parity["limit"] is None and 0 < entry.parity["maximum_difference"] < 0.2
    engine = open_engine(halves, manifest, precision=precision, device="cpu")
    assert (engine.name, engine.file) == ("torchscript", HALVES[precision])
    probabilities, logits = engine.run(np.asarray(data.test.images))
    assert probabilities.dtype == logits.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)  # the softmax is of fp32
    assert (probabilities.argmax(1) == np.asarray(data.test.labels)).mean() == pytest.approx(entry.accuracy)
    assert entry.accuracy is not None and full.accuracy is not None and full.accuracy - entry.accuracy <= 0.002
    check_golden(engine, halves, manifest)


def test_verification_covers_half_files(halves: Path, data: ExportData) -> None:
    reports = verify_artifact(halves, test=data.test).files
    assert [report.precision for report in reports] == ["fp32", "fp16", "bf16"]


@pytest.mark.parametrize("precision", HALVES)
def test_weights_are_of_the_precision_and_lie_channels_last(halves: Path, precision: str) -> None:
    with quiet_torchscript():
        module = torch.jit.load(str(halves / HALVES[precision]))
    constants = module.code_with_constants[1].const_mapping.values()
    kernels = [tensor for tensor in constants if isinstance(tensor, Tensor) and tensor.ndim == 4 and len(tensor) > 1]
    assert [tuple(kernel.shape) for kernel in kernels] == [(6, 1, 5, 5), (16, 6, 5, 5)]
    for kernel in kernels:
        assert kernel.dtype == DTYPES[precision]
        assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert str(halves.parents[2]).encode() not in (halves / HALVES[precision]).read_bytes()


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize(
    "model", ["resnet20", "se_resnet20", "mobilenet_small", "skip_cnn", "torchvision:mobilenet_v2"]
)
def test_networks_of_every_kind_agree_with_autocast(tmp_path: Path, model: str, precision: Any) -> None:
    """torch's own autocast rounds elsewhere, and by as much."""
    size = 32 if ":" in model else 8
    checkpoint = load_checkpoint(make_checkpoint(tmp_path / "run", model=model, size=size, channels=3, count=9))
    images = torch.from_numpy(load_samples(tmp_path / "run/samples.npz").images)
    half = HalfDeployable(checkpoint, precision)
    x = half.normalize(images)
    with torch.inference_mode():
        exact = checkpoint.network(x)
        with torch.autocast("cpu", {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]):
            rounded = checkpoint.network(x).float()
        found = half(images)[1]
    usual = float((rounded - exact).abs().max())
    assert float((found - exact).abs().max()) <= 3 * usual


def test_an_operation_without_half_precision_leaves_the_file_out(
    trained: Path, data: ExportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.inv(x.flatten(1)[:, :100].reshape(-1, 10, 10) + torch.eye(10).to(x.dtype)).sum(2)

    checkpoint = Checkpoint(load_checkpoint(trained).config, Spectrum())
    images = load_samples(trained / "samples.npz").images[:2]
    with pytest.raises(UnsupportedPrecision, match=r"the network does not run in bf16: .*BFloat16"):
        write_torchscript(checkpoint, images, tmp_path / "model.bf16.ts", precision="bf16")

    def refuse(*arguments: Any, precision: str = "fp32", **more: Any) -> None:
        if precision == "bf16":
            raise UnsupportedPrecision("the network does not run in bf16: no kernel")
        write_torchscript(*arguments, precision=precision, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("export.writers.registry.write_torchscript", refuse)
    path = export_checkpoint(
        trained, out=tmp_path, formats=["torchscript"], precisions=["fp32", "fp16", "bf16"], data=data
    )
    manifest = read_manifest(path)
    assert manifest.dropped == {"model.bf16.ts": "the network does not run in bf16: no kernel"}
    assert "model.fp16.ts" in manifest.files and not (path / "model.bf16.ts").exists()


def test_the_server_runs_half_precision(halves: Path, trained: Path) -> None:
    image = encoded(digit(3))
    full = client_for(halves, engine="torchscript").post("/v1/classify?top_k=1", content=image).json()
    half = client_for(halves, engine="torchscript", precision="bf16").post("/v1/classify?top_k=1", content=image).json()
    (wanted,), (found,) = full["results"][0]["predictions"], half["results"][0]["predictions"]
    assert wanted["label"] == found["label"]
    assert 0 < abs(wanted["probability"] - found["probability"]) < 0.1


@pytest.mark.parametrize(
    ("formats", "precisions", "files"),
    [
        (["onnx", "torchscript"], ["fp32", "fp16"], ["model.onnx", "model.fp16.onnx", "model.ts", "model.fp16.ts"]),
        (["torchscript"], ["fp32", "bf16"], ["model.ts", "model.bf16.ts"]),
        (["onnx"], ["fp32", "int8"], ["model.onnx", "model.int8.onnx"]),
    ],
)
def test_a_precision_gives_a_file_of_each_format_that_has_it(
    formats: list[str], precisions: list[str], files: list[str]
) -> None:
    assert [form.file for form in choose_formats(formats, precisions, has_data=True)] == files


@pytest.mark.parametrize(
    ("formats", "precision", "says"),
    [
        (["pt2"], "bf16", "there is no bf16 file in pt2; add torchscript or onnx"),
        (["torchscript"], "int8", "there is no int8 file in torchscript; add onnx"),
        (["pt2"], "fp16", "there is no fp16 file in pt2; add onnx or torchscript"),
    ],
)
def test_a_precision_that_no_format_has_is_refused(formats: list[str], precision: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        choose_formats(formats, ["fp32", precision], has_data=True)
