import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress

import httpx
import psutil
import pytest
from rich.console import Console

from models.checkpoint.directory import load_checkpoint
from service.cli import demo
from tests.real_server import free_port, stop
from tests.training.interruption import interrupt_after
from training.run.plan import TrainingRequest
from training.run.train import train_checkpoint

DEMO = [sys.executable, "-m", "convscope", "demo"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An empty working directory, which the demo's first run fills."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def first_run(home):
    return run_demo(home, free_port())


def run_demo(home, port):
    """Runs the demo until it has said its last line, asks its server once, presses Ctrl-C."""
    environment = {**os.environ, "CONVSCOPE_PORT": str(port)}
    process = subprocess.Popen(
        DEMO,
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    lines = []
    try:
        for line in process.stdout:
            lines.append(line.decode())
            if "Ctrl-C stops" in lines[-1]:
                break
        image = (home / "runs/lenet-digits/example.png").read_bytes()
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/classify", content=image).json()
        process.send_signal(signal.SIGINT)
        try:
            rest, _ = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            pytest.fail(f"Ctrl-C did not end all of it:\n{''.join(lines)}\n{processes_of(process.pid)}")
        return process.returncode, answer, "".join([*lines, rest.decode()])
    finally:
        stop(process)
        process.stdout.close()


def processes_of(session):
    """A line about each process of a session, orphans too."""
    lines = []
    for process in psutil.process_iter(["pid", "ppid", "status", "cmdline"]):
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == session:
                lines.append(str(process.info))
    return "\n".join(lines)


def test_the_demo_trains_exports_verifies_serves_and_a_second_run_reuses_it(home, first_run):
    first_status, answer, first = first_run
    assert first_status == 0, first
    assert answer["model"] == "lenet-digits" and answer["results"][0]["predictions"]
    assert "training LeNet" in first and "same top-1 for all" in first
    assert float(re.search(r"test accuracy ([\d.]+)%", first)[1]) >= 97
    second_status, again, second = run_demo(home, free_port())
    assert second_status == 0, second
    assert "training LeNet" not in second and "artifacts/lenet-digits/1 is there" in second
    assert again == answer
    assert [path.name for path in (home / "artifacts/lenet-digits").iterdir()] == ["1"]


def test_a_taken_port_is_said_with_how_to_choose_another(home, first_run, run, monkeypatch):
    monkeypatch.chdir(home)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("CONVSCOPE_PORT", str(port))
        done = run("demo")
    assert done.status == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.err and "--port or CONVSCOPE_PORT" in done.err


def test_an_interrupted_training_is_gone_on_with_and_never_overwritten(tmp_path, monkeypatch, without_pictures):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(KeyboardInterrupt):
        train_checkpoint(
            TrainingRequest("lenet", "digits", overrides={"epochs": 3}), out=demo.RUN, report=interrupt_after(2)
        )
    demo.train(Console(quiet=True))
    assert load_checkpoint(demo.RUN).config.recipe["epochs"] == 3
