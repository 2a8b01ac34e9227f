"""The verb `convscope demo`: the whole workflow on scikit-learn's digits."""

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import CycloptsError

from export.artifact.directory import newest_version
from export.artifact.manifest import ArtifactError
from models.checkpoint.names import CONFIG_FILE, RESUME_FILE
from models.files import atomic_write
from service.client.connection import connect
from service.process.server import check_port, command, environment, preflight, wait_until_ready
from service.settings import Settings, SettingsError, read_settings
from training.cli.console import make_console

if TYPE_CHECKING:
    from rich.console import Console

RUN = Path("runs/lenet-digits")
ARTIFACT = Path("artifacts/lenet-digits")


def demo(*, port: int | None = None) -> int:
    """Trains LeNet on the built-in digits, exports, verifies and serves it, and keeps serving until Ctrl-C.

    For example `CONVSCOPE_PORT=3001 convscope demo`. A second run reuses the results of the first.

    Args:
        port: Port to listen on [default: CONVSCOPE_PORT, else 3000].
    """
    try:
        settings = read_settings(port=port)
    except SettingsError as error:
        raise CycloptsError(msg=str(error)) from None
    check_port(settings.host, settings.port)
    console = make_console()
    train(console)
    settings = settings.model_copy(update={"artifacts": _export(console)})
    preflight(settings)
    server = subprocess.Popen(command(settings), env=environment(settings))
    try:
        _first_answer(console, settings, server)
        return server.wait()
    except KeyboardInterrupt:
        console.print("stopping")
    finally:
        server.terminate()
        server.wait()
    return 0


def train(console: "Console") -> None:
    """Trains the demo's network, resumes its interrupted run, or reports the finished one."""
    from models.checkpoint.directory import load_checkpoint  # torch takes seconds to import
    from training.cli.progress import TrainingProgress
    from training.run.plan import TrainingRequest
    from training.run.train import train_checkpoint

    if (RUN / CONFIG_FILE).is_file():
        metrics = load_checkpoint(RUN).config.metrics
        console.print(f"1. {RUN} is there: {metrics['test']['accuracy']:.2%} of its test images right")
        return
    unfinished = (RUN / RESUME_FILE).is_file()
    console.print(f"1. {'going on with' if unfinished else 'training LeNet on scikit-learn digits into'} {RUN}")
    with TrainingProgress(console) as progress:
        train_checkpoint(TrainingRequest("lenet", "digits"), out=RUN, resume=unfinished, report=progress)


def _export(console: "Console") -> Path:
    from export.pipeline.export import export_checkpoint
    from export.verify.verification import verify_artifact

    try:
        artifact = newest_version(ARTIFACT)
        console.print(f"2. {artifact} is there; verifying it")
    except ArtifactError:
        console.print(f"2. exporting to {ARTIFACT} and comparing with the network on real images")
        artifact = export_checkpoint(RUN, out=ARTIFACT.parent, report=console.print)
    for report in verify_artifact(artifact).files:
        console.print(
            f"   {report.file} on {report.engine} ({report.device}): {report.parity.images} golden images, "
            f"largest difference {report.parity.maximum_difference:.1e}, same top-1 for all"
        )
    return artifact


def _first_answer(console: "Console", settings: Settings, server: "subprocess.Popen[bytes]") -> None:
    from PIL import Image

    from models.checkpoint.directory import load_checkpoint
    from models.checkpoint.samples import SAMPLES_FILE, load_samples
    from models.images.decode import to_pil

    url = f"http://{settings.host}:{settings.port}"
    console.print(f"3. starting the server at {url}")
    wait_until_ready(url, server, timeout_s=120)
    samples = load_samples(RUN / SAMPLES_FILE)
    picture = RUN / "example.png"
    with atomic_write(picture) as path:
        to_pil(samples.raw[0]).resize((80, 80), Image.Resampling.NEAREST).save(path, "PNG")
    with connect(url, timeout_s=60, direct=True) as client:
        answer = client.post("/v1/classify", params={"top_k": 3}, content=picture.read_bytes())
    console.print(f"4. curl --data-binary @{picture} '{url}/v1/classify?top_k=3'", answer.text, sep="\n")
    console.print(f"   (it is a {load_checkpoint(RUN).config.classes[int(samples.raw_labels[0])]})")
    console.print(f"5. look inside at {url}/ ; Ctrl-C stops")
