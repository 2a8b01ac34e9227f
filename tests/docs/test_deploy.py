"""The programs of docs/deploy.md get the trained network's answers, without our code; see test_docs_deploy_*.py too."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from export.writers.triton import write_triton
from tests.docs.deploy_page import INPUTS, PROGRAMS, TEXT, Deployed, deploy, write_photos

# Of the reference of KServe's API, v1beta1: ModelSpec, with the fields of a Kubernetes container.
MODEL_FIELDS = {"modelFormat", "protocolVersion", "runtime", "runtimeVersion", "storageUri", "args", "env", "resources"}


def test_the_page_has_the_programs_and_each_is_short() -> None:
    assert set(PROGRAMS) == set(re.findall(r"`(classify\w*\.\w+)`, ", TEXT[: TEXT.index("\n## ")]))
    assert len(PROGRAMS) == 6
    for program in PROGRAMS.values():
        assert len([line for line in program.splitlines() if line.strip()]) < 30
        assert not re.search(r"\b(models|training|export|service|convscope)\b\.", program.replace("convscope.json", ""))


@pytest.fixture(scope="module", params=INPUTS)
def deployed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    return deploy(tmp_path_factory.getbasetemp(), request.param, write_photos(tmp_path_factory.mktemp("photos")))


@pytest.mark.parametrize(("program", "file"), [("onnx", "model.onnx"), ("torchscript", "model.ts")])
def test_the_answers_are_the_trained_networks(program: str, file: str, deployed: Deployed, tmp_path: Path) -> None:
    script = tmp_path / f"classify_{program}.py"
    script.write_text(PROGRAMS[script.name])
    words = [
        sys.executable,
        "-W",
        "ignore",
        "-I",
        str(script),
        str(deployed.artifact / file),
        *map(str, deployed.paths),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
    found = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in found] == [str(path) for path in deployed.paths]
    deployed.check([row[1] for row in found], [float(row[2]) for row in found])


def test_the_repository_of_the_page_is_the_one_that_is_written(lenet_artifact: Path, tmp_path: Path) -> None:
    (named,) = re.findall(r"```\n((?:triton/lenet-digits/\S+\n)+)```", TEXT)
    write_triton(lenet_artifact, tmp_path / "triton")
    written = [path.relative_to(tmp_path) for path in (tmp_path / "triton").rglob("*") if path.is_file()]
    assert {str(path).replace("/lenet/", "/lenet-digits/") for path in written} == set(named.split())


def test_the_inference_service_is_kserves_and_its_storage_is_the_repository() -> None:
    content = yaml.safe_load(PROGRAMS["classify_kserve.yaml"])
    assert {key: content.pop(key) for key in ("apiVersion", "kind")} == {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
    }
    model = content["spec"]["predictor"]["model"]
    assert content == {"metadata": {"name": "lenet-digits"}, "spec": {"predictor": {"model": model}}}
    assert set(model) <= MODEL_FIELDS
    # KServe's own ClusterServingRuntime, which runs Triton on what is mounted, for this format and protocol
    assert (model["runtime"], model["modelFormat"]) == ("kserve-tritonserver", {"name": "triton"})
    assert model["protocolVersion"] == "v2"
    scheme, _, place = model["storageUri"].partition("://")
    assert scheme == "pvc"
    assert place.split("/", 1)[1] == "triton"  # what is mounted is a path in the claim: the repository, not one model
    assert set(model["resources"]) == {"requests", "limits"}
    for amounts in model["resources"].values():
        assert all(isinstance(amount, str) for amount in amounts.values())
