"""The BentoML service of docs/deploy.md gets the trained network's answers, without our code."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from service.process.server import wait_until_ready
from tests.docs.deploy_page import PROGRAMS, TEXT, Deployed
from tests.real_server import free_port, stop

(COMMAND,) = re.findall(r"^BENTOML_DO_NOT_TRACK=true bentoml (.*) --port 3000$", TEXT, re.MULTILINE)


@pytest.fixture(scope="module")
def address(deployed: Deployed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("bentoml"), free_port()
    (folder / "classify_bentoml.py").write_text(PROGRAMS["classify_bentoml.py"])
    shutil.copy(deployed.artifact / "model.onnx", folder)
    words = [sys.executable, "-m", "bentoml", *COMMAND.split(), "--port", str(port)]
    environment = {**os.environ, "BENTOML_DO_NOT_TRACK": "true"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            words, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process, timeout_s=120)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


def test_the_answers_are_the_trained_networks(deployed: Deployed, address: str) -> None:
    with httpx.Client(base_url=address, timeout=60) as client:
        answers = [
            client.post("/classify", files={"image": (path.name, path.read_bytes())}).raise_for_status().json()
            for path in deployed.paths
        ]
    deployed.check([answer["label"] for answer in answers], [answer["probability"] for answer in answers])


def test_what_is_no_image_gets_the_error_that_the_page_warns_of(address: str) -> None:
    answer = httpx.post(f"{address}/classify", files={"image": ("a.txt", b"no image")}, timeout=60)
    assert answer.status_code == 500
