"""What tests share: checkpoints with seeded random weights and real images, and one exported artifact."""

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import convscope
from export.pipeline.export import export_checkpoint
from export.verify.speed import measure_speed
from models.checkpoint.directory import CheckpointConfig, save_checkpoint
from models.checkpoint.samples import SAMPLES_FILE, VerificationImages, save_samples
from models.images.decode import Pixels, preprocess_image, to_pil
from models.images.input_spec import InputSpec
from tests.real_browser import running_browser
from tests.real_server import Server, running_server
from tests.registered import in_acceptance

if TYPE_CHECKING:
    from playwright.sync_api import Browser

COUNT, RAW_COUNT = 80, 8  # a whole batch of 64 and a short one
RGB_SHIFTS = (0, 1, 2)


def make_spec(size: int = 28, channels: int = 1, **changes: Any) -> InputSpec:
    """A specification whose channels differ, so that mixing them up shows."""
    fields: dict[str, Any] = {
        "mode": "L" if channels == 1 else "RGB",
        "height": size,
        "width": size,
        "resize": (size, size),
        "background": (0, 40, 80)[:channels],
        "mean": (0.3, 0.4, 0.5)[:channels],
        "std": (0.35, 0.3, 0.25)[:channels],
    }
    return InputSpec(**{**fields, **changes})


def digit_images(channels: int, count: int = COUNT) -> tuple[Pixels, ...]:
    """scikit-learn's digits, uint8 (8, 8), or (8, 8, 3) with each channel shifted by another pixel."""
    grey = np.round(load_digits().images[:count] * (255 / 16)).astype(np.uint8)
    if channels == 1:
        return tuple(grey)
    return tuple(np.stack([np.roll(image, shift, axis=1) for shift in RGB_SHIFTS], axis=-1) for image in grey)


def randomise(network: nn.Module, images: torch.Tensor) -> None:
    """Gives batch norms statistics that matter, and spreads the logits so that classes differ from image to image."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    last = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)][-1]
    with torch.no_grad():
        logits = network.eval()(images)
        scale = (1 / logits.std(0)).clamp(max=20)  # more would magnify rounding
        last.bias.copy_((last.bias - logits.mean(0)) * scale)
        last.weight.mul_(scale.view(-1, *[1] * (last.weight.ndim - 1)))


def make_checkpoint(
    directory: Path,
    *,
    model: str = "lenet",
    size: int = 28,
    channels: int = 1,
    classes: int = 10,
    seed: int = 0,
    temperature: float = 1.0,
    options: dict[str, Any] | None = None,
    count: int = COUNT,
    **changes: Any,
) -> Path:
    """Writes a checkpoint with random weights and real sample images; `changes` go into its input specification."""
    spec = make_spec(size, channels, **changes)
    config = CheckpointConfig(
        model=model,
        options=options or {},
        classes=tuple(str(index) for index in range(classes)),
        input=spec,
        metrics={"test": {"accuracy": 0.5}},
        dataset={"name": "digits"},
        temperature=temperature,
    )
    raw = digit_images(channels, count)
    images = np.stack([preprocess_image(to_pil(image), spec) for image in raw])
    labels = load_digits().target[:count].astype(np.int64) % classes
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(spec.mean).view(1, -1, 1, 1)) / torch.tensor(spec.std).view(1, -1, 1, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = config.build_network()
        randomise(network, x)
    save_checkpoint(directory, config, network.state_dict())
    save_samples(directory / SAMPLES_FILE, VerificationImages(images, labels, raw[:RAW_COUNT], labels[:RAW_COUNT]))
    return directory


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """Opening a TorchScript engine sets torch's threads for the whole process; sums in other orders differ in bits."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def speeds_are_measured_briefly() -> Iterator[None]:
    """Every export and verification measures speeds for seconds; here they do so by the least number of runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(measure_speed.__kwdefaults__, "seconds", 0.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def certificates_are_read_once() -> Iterator[None]:
    """Every HTTP client reads all certificates of this machine anew, though no test's server has one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", cache(ssl.create_default_context))
        yield


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training draws none: drawing them takes longer than LeNet takes to learn the digits for an epoch."""
    monkeypatch.setattr("training.run.train.write_pictures", lambda *of_the_run: None)


@pytest.fixture(scope="session")
def lenet_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeNet for 28x28 grey digits; only to be read."""
    return make_checkpoint(tmp_path_factory.mktemp("runs") / "lenet")


@pytest.fixture(scope="session")
def lenet_artifact(lenet_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That LeNet exported: `<root>/lenet/1`; only to be read, copy it to damage it."""
    return export_checkpoint(lenet_checkpoint, out=tmp_path_factory.mktemp("artifacts"))


@pytest.fixture(scope="module")
def server(lenet_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server with one worker and the settings as they are; files that need others have one of their own."""
    log = tmp_path_factory.mktemp("log") / "server.log"
    with running_server(lenet_artifact.parent.parent, log) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """A browser without windows; the test is skipped where there is none."""
    with running_browser() as running:
        yield running


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder beside the checkout with MNIST, FashionMNIST and cifar10-jpeg."""
    path = Path(__file__).parents[2] / "shared/data"
    if not path.is_dir():
        pytest.skip(f"{path} is not there")
    return path


@pytest.fixture
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory is empty, and data files are looked for nowhere else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVSCOPE_DATA_DIR", raising=False)


def run_command(*words: str) -> int:
    """The exit status of `convscope` with these arguments, in this process."""
    with pytest.raises(SystemExit) as stopped:
        convscope.main(words)
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


class Outcome(NamedTuple):
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`convscope` in this process, with what it prints."""

    def call(*arguments: object) -> Outcome:
        status = run_command(*map(str, arguments))
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call


EXPORTED: dict[str, dict[str, Any]] = {  # resnets at the least size they take: what is tested is the graph
    "lenet": {"size": 28},
    "lenet-short": {"model": "lenet", "size": 32, "channels": 3, "options": {"hidden": (84,)}, "temperature": 1.7},
    "lenet1998": {"size": 28},
    "simple_cnn": {"size": 28},
    "simple_cnn-32": {"model": "simple_cnn", "size": 32, "channels": 3, "classes": 7},
    "resnet20": {"size": 8, "channels": 3},
    "resnet18": {"size": 8, "channels": 3, "classes": 3},
    "mlp": {"size": 8},
    "compact_cnn": {"size": 8},
    "se_resnet20": {"size": 8, "channels": 3},
    "mobilenet_small": {"size": 8},
    "skip_cnn": {"size": 8, "channels": 3},
    "two_head_cnn": {"size": 8, "classes": 10, "options": {"head": "hidden"}},
    "stripes_conv2_relu": {"size": 8, "classes": 2},
}
# Those whose layers, colours and options others of the above have; run by `make acceptance`.
MORE_EXPORTED = ("lenet1998", "simple_cnn", "resnet20", "compact_cnn", "stripes_conv2_relu")


@dataclass(frozen=True)
class Exported:
    """A checkpoint and the artifact made of it."""

    checkpoint: Path
    artifact: Path


@pytest.fixture(scope="session", params=in_acceptance(MORE_EXPORTED, EXPORTED))
def exported(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    lenet_checkpoint: Path,
    lenet_artifact: Path,
) -> Exported:
    """Every kind of network, exported once; only to be read."""
    if request.param == "lenet":
        return Exported(lenet_checkpoint, lenet_artifact)
    folder = tmp_path_factory.mktemp("exported")
    fields = {"model": request.param, "count": 9, **EXPORTED[request.param]}
    checkpoint = make_checkpoint(folder / request.param, **fields)
    return Exported(checkpoint, export_checkpoint(checkpoint, out=folder / "artifacts"))
