"""The OpenAPI document: it is valid and whole, and a real server gives schemathesis no answer that is not in it."""

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import httpx
import numpy as np
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from service.asgi.application import build_application
from service.serving.version_catalog import VersionCatalog
from service.settings import read_settings
from tests.in_process import client_for, digit, encoded
from tests.real_server import running_server

CONFIG = Path(__file__).with_name("schemathesis.toml")
OPERATIONS = """
    classify compare explain get_docs get_feature_maps get_graph get_kernels get_labels get_metrics get_model get_page
    get_page_file get_references get_sample get_schema inspect_unit is_healthy is_live is_ready list_models
    list_samples openapi_document predict_instances predict_instances_of_version predict_pixels v2_get_model
    v2_get_model_of_version v2_get_model_statistics v2_get_model_statistics_of_version v2_get_server v2_get_statistics
    v2_infer v2_infer_of_version v2_is_live v2_is_model_ready v2_is_model_ready_of_version v2_is_ready
    v2_list_repository v2_load_model v2_unload_model
""".split()
REQUESTS = {"V2Request", "V2Tensor", "V2Wanted"}


@pytest.fixture(scope="module")
def server(indexed_artifact, tmp_path_factory):
    with running_server(indexed_artifact.parent.parent, tmp_path_factory.mktemp("log") / "server.log") as running:
        yield running


@pytest.fixture
def document(server):
    answer = httpx.get(f"{server.url}/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def operations(document):
    return [(path, method, one) for path, methods in document["paths"].items() for method, one in methods.items()]


def test_the_document_is_valid_openapi(document):
    assert document["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(document).validate()


def test_every_route_is_described_and_nothing_else(document, tmp_path):
    settings = read_settings(artifacts=tmp_path)
    assert set(document["paths"]) == {
        route.path for route in build_application(VersionCatalog(settings), settings).routes
    }


def test_every_operation_has_an_id_of_its_own_that_stays(document):
    ids = [operation.get("operationId") for _, _, operation in operations(document)]
    assert sorted(ids) == sorted(OPERATIONS), "clients are generated from these names: add new ones, change none"


def test_bodies_and_answers_have_media_types_that_generators_of_clients_know(document):
    known = {"application/json", "application/octet-stream", "multipart/form-data", "text/plain", "text/html"}
    known |= {"text/css", "text/javascript"}
    for path, _, operation in operations(document):
        assert not any("*" in media_type for media_type in operation.get("requestBody", {}).get("content", {})), path
        for response in operation["responses"].values():
            assert "content" not in response or known & response["content"].keys(), path


def test_a_token_is_wanted_where_the_document_says_so(lenet_artifact):
    client = client_for(lenet_artifact.parent.parent, token="a-long-secret")
    document = client.get("/openapi.json", headers={"Authorization": "Bearer a-long-secret"}).json()
    assert document["security"] == [{"bearer": []}]
    for path, method, operation in operations(document):
        wanted = client.request(method, path).status_code == 401
        assert (operation.get("security") != []) == wanted == ("401" in operation["responses"]), path


def test_the_limits_in_the_document_are_those_that_are_set(lenet_artifact):
    client = client_for(lenet_artifact.parent.parent, images_per_request=3)
    paths = client.get("/openapi.json").json()["paths"]
    form = paths["/v1/classify"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["properties"]["images"]["maxItems"] == 3
    for count, status in ((3, 200), (4, 413)):
        files = [("images", ("digit.png", encoded(digit())))] * count
        assert client.post("/v1/classify", files=files).status_code == status


def known_here(document):
    """The document with what is known of this server: its model, its size, and that answers have no further members."""
    schemas = document["components"]["schemas"]
    for name in schemas.keys() - REQUESTS:
        forbid_further(schemas[name])
    for _, _, operation in operations(document):
        for content in (operation.get("requestBody", {}), *operation["responses"].values()):
            forbid_further([media["schema"] for media in content.get("content", {}).values()])
        for parameter in operation.get("parameters", ()):
            schema = parameter["schema"]
            if parameter["name"] in ("model", "name", "with") and "enum" not in schema:
                schema["enum"] = ["lenet", "lenet:1"]
            if parameter["name"] == "with":
                parameter["example"] = "lenet:1"
            elif most := {"version": 1, "top_k": 10}.get(parameter["name"]):
                schema["maximum"] = most
    pixels = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    pixels["example"] = {"images": np.zeros((2, 28, 28, 1), int).tolist()}
    return document


def forbid_further(schema):
    if isinstance(schema, dict) and schema.get("type") == "object" and "properties" in schema:
        schema["additionalProperties"] = False
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        forbid_further(part)


def run_schemathesis(document, url, folder, *, examples, phases):
    """Runs every operation; returns the statuses that were answered to each."""
    path = folder / "openapi.json"
    path.write_text(json.dumps(known_here(document)))
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    words = ["--config-file", CONFIG, "run", path, "--url", url, "--max-examples", str(examples), "--no-color"]
    words += ["--phases", phases]
    report = ["--report", "ndjson", "--report-ndjson-path", folder / "report.ndjson"]
    done = subprocess.run([program, *words, *report], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    statuses = defaultdict(set)
    for line in (folder / "report.ndjson").read_text().splitlines():
        recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        for exchange in recorder.get("interactions", {}).values():
            statuses[recorder["label"]].add((exchange["response"] or {}).get("status_code"))
    return statuses


def check_answers(document, server, folder, **extent):
    statuses = run_schemathesis(document, server.url, folder, **extent)
    for path, method, operation in operations(document):
        wanted = 200 if "200" in operation["responses"] else 403
        assert wanted in statuses[f"{method.upper()} {path}"], path
    assert server.log.count("ERROR") == 0, server.log


def test_every_answer_is_one_that_the_document_has(document, server, tmp_path):
    check_answers(document, server, tmp_path, examples=4, phases="examples,fuzzing")


@pytest.mark.acceptance
def test_hundreds_of_answers_of_each_route_are_ones_that_the_document_has(document, server, tmp_path):
    check_answers(document, server, tmp_path, examples=200, phases="examples,coverage,fuzzing")
