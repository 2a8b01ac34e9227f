"""The servers to compare, and one of them running."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import psutil

from export.artifact.formats import RUNS, GraphFormat
from export.artifact.manifest import ONNX_FILE
from export.engines.machine import peak_memory_mb
from service.process.server import command, environment, wait_until_ready
from service.settings import read_settings

PEERS = Path(__file__).parent / "peers"
BIN = Path(sys.executable).parent
PORT = 3901


@dataclass(frozen=True, kw_only=True)
class Server:
    """The start command and the paths of a server.

    Attributes:
        name: name in tables.
        words, variables: the command, and additional environment variables.
        ready: path that answers 200 once the server is ready.
        path: path to which images are posted.
        form: name of the form field for the image; empty if the body is the image itself.
        needs: required package; without it the server is left out.
        run: of our server, how it runs the artifact; None for peers.
        workers: its processes.
    """

    name: str
    words: list[str]
    variables: dict[str, str] = field(default_factory=dict)
    ready: str = "/ready"
    path: str = "/classify"
    form: str = ""
    needs: str = "uvicorn"
    run: GraphFormat | None = None
    workers: int = 1

    @property
    def is_ours(self) -> bool:
        """True for the servers that the others are compared with."""
        return self.run is not None


@dataclass
class Running:
    """A running server: seconds until it was ready, and the peak memory of all its processes, in 10**6 bytes."""

    ready_s: float
    process: subprocess.Popen[bytes]

    def memory_mb(self) -> float:
        """Read while it lives."""
        parent = psutil.Process(self.process.pid)
        return sum(peak_memory_mb(one.pid) for one in (parent, *parent.children(recursive=True)))


def servers(
    artifact: Path, *, threads: int, runs: Sequence[str] = ("onnxruntime-fp32",), workers: Sequence[int] = (1,)
) -> list[Server]:
    """All servers that can run here: ours, with a raw body and with a form, and the peers, with the same ONNX file.

    Args:
        artifact: the artifact directory.
        threads: per inference.
        runs: engine and precision of ours, such as openvino-bf16.
        workers: processes of ours.
    """
    peer = {"MODEL": str(artifact / ONNX_FILE), "THREADS": str(threads)}
    uvicorn = [sys.executable, "-m", "uvicorn", "--port", str(PORT), "--no-access-log", "--log-level", "error"]
    bentoml = [str(BIN / "bentoml"), "serve", "usual_bentoml:Usual", "--port", str(PORT), "--host", "127.0.0.1"]
    found = [
        Server(name="bare Starlette", words=[*uvicorn, "bare_starlette:app"], variables=peer),
        Server(
            name="plain FastAPI", words=[*uvicorn, "plain_fastapi:app"], variables=peer, form="image", needs="fastapi"
        ),
        Server(
            name="LitServe",
            words=[sys.executable, "litserve_batching.py", str(PORT)],
            variables=peer,
            ready="/health",
            form="image",
            needs="litserve",
        ),
        Server(
            name="BentoML, usual way",
            words=bentoml,
            variables={**peer, "BENTOML_DO_NOT_TRACK": "true"},
            ready="/readyz",
            form="images",
            needs="bentoml",
        ),
        *(server for run in runs for count in workers for server in _ours(artifact, run, count, threads=threads)),
    ]
    return [server for server in found if find_spec(server.needs)]


def _ours(artifact: Path, run: str, workers: int, *, threads: int) -> Iterator[Server]:
    form = next((form for form in RUNS if f"{form.engine}-{form.precision}" == run), None)
    if form is None:
        raise SystemExit(f"no run is called {run}; known are {', '.join(f'{f.engine}-{f.precision}' for f in RUNS)}")
    settings = read_settings(
        artifacts=artifact,
        port=PORT,
        threads=threads,
        engine=form.engine,
        precision=form.precision,
        workers=workers,
    )
    engine = "" if form.engine == "onnxruntime" else f"{form.engine} "
    more = "" if workers == 1 else f", {workers} workers"
    raw = Server(
        name=f"convscope {engine}{form.precision}{more}",
        words=command(settings),
        variables=environment(settings),
        ready="/readyz",
        path="/v1/classify",
        run=form,
        workers=workers,
    )
    yield raw
    yield replace(raw, name=f"{raw.name}, form", form="image")


@contextmanager
def running(server: Server) -> Iterator[Running]:
    """Starts a server, waits until it is ready, and stops it when the block ends."""
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            server.words, env={**os.environ, **server.variables}, stdout=log, stderr=log, cwd=PEERS, process_group=0
        )
        try:
            wait_until_ready(f"http://127.0.0.1:{PORT}", process, timeout_s=120, path=server.ready)
            yield Running(time.perf_counter() - began, process)
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=10)
    for one in alive:
        one.kill()
    process.wait()
