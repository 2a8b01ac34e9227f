"""The server as a separate process: checks before its start, and the start itself."""

import math
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import service
from export.artifact.directory import find_versions, locate
from export.artifact.manifest import ArtifactError, Manifest, check_files, read_manifest
from export.engines.cuda import cuda_unavailable_reason
from models.errors import ConvscopeError, UserError
from service.client.connection import connect
from service.process.home import HOME, writable_home
from service.settings import Settings, to_environment

_CHECKOUT = Path(service.__file__).parent.parent


class ServerFailed(ConvscopeError, RuntimeError):
    """A started server that does not answer."""


def preflight(settings: Settings) -> list[Manifest]:
    """Checks for anything that would keep a server from becoming ready, before it starts.

    Returns:
        The manifests of all artifacts, in the order of name and version.

    Raises:
        ArtifactError: there is no artifact, or a damaged file, which the message names.
        ValueError: the port is taken, or CUDA was requested and is missing.
    """
    versions = find_versions(settings.artifacts)
    if not versions:
        raise ArtifactError(f"no artifact in {settings.artifacts}; `convscope export CHECKPOINT` writes one")
    manifests = []
    for directory in versions:
        manifests.append(read_manifest(directory))
        check_files(directory, manifests[-1])
    if settings.device == "cuda" and (reason := cuda_unavailable_reason()):
        raise UserError(f"--device is cuda, but {reason}; `auto` would take the CPU")
    check_port(settings.host, settings.port)
    return manifests


def command(settings: Settings) -> list[str]:
    """The command line that serves with these settings; requires the variables from `environment`."""
    where = ["--host", settings.host, "--port", str(settings.port), "--working-dir", str(_CHECKOUT)]
    # Every request has a deadline, but a client that does not read its answer has none.
    patience = ["--timeout-graceful-shutdown", str(math.ceil(settings.deadline_s))]
    return [sys.executable, "-m", "bentoml", "serve", "service.app:Classifier", *where, *patience]


def environment(settings: Settings) -> dict[str, str]:
    """This process's environment with the settings, without BentoML's usage statistics, and with a home for it.

    Raises:
        ArtifactError: the setting is `bentoml:...`, and BentoML's store has no such artifact.
        UserError: no folder can be written.
    """
    own = to_environment(settings.model_copy(update={"artifacts": locate(settings.artifacts).resolve()}))
    # `python -m bentoml` would search the working directory first, where a file service.py may be the user's.
    extra = {"BENTOML_DO_NOT_TRACK": "true", HOME: str(writable_home()), "PYTHONSAFEPATH": "1"}
    return {**os.environ, **own, **extra}


def wait_until_ready(url: str, process: subprocess.Popen[bytes], *, timeout_s: float, path: str = "/readyz") -> None:
    """Polls `path` until it answers 200.

    Raises:
        ServerFailed: the process ended, or the time is over; the message contains the last answer.
    """
    import httpx  # used only here, and slow to import

    deadline, answer = time.monotonic() + timeout_s, "nothing was answered"
    with connect(url, timeout_s=5, direct=True) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ServerFailed(f"the server ended with status {process.returncode}; its output says why")
            try:
                response = client.get(path)
            except httpx.TransportError:
                pass
            else:
                if response.status_code == 200:
                    return
                answer = response.text.strip()
            time.sleep(0.1)
    raise ServerFailed(f"the server was not ready within {timeout_s:g} s: {answer}")


def check_port(host: str, port: int) -> None:
    """Raises UserError unless a server can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"cannot listen on {host}:{port} ({error.strerror}); choose another port with --port or CONVSCOPE_PORT"
            ) from None
