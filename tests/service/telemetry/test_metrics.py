"""/metrics in process: what known requests add to it, and that it has a bound."""

import asyncio
import bisect
import json
import re
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics

from service.errors import InferenceFailed
from service.serving.batcher import Batcher
from service.serving.worker_files import WorkerFiles
from service.settings import Limit
from service.telemetry.counters import Series, Snapshot
from service.telemetry.metrics import CLASS_LIMIT, COUNTS, GAUGES, Metrics, ModelMetrics
from tests.in_process import client_for, digit, encoded
from tests.service.scrape import scrape, total

MODEL = {"model": "lenet", "version": "1"}
DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture
def client(lenet_artifact):
    return client_for(lenet_artifact.parent.parent)


def files(*images):
    return [(f"image{index}", image) for index, image in enumerate(images)]


def test_known_requests_are_counted_once_each(client):
    answers = [client.post("/v1/classify?top_k=1", content=encoded(digit(index))).json() for index in range(5)]
    answers.append(client.post("/v1/classify?top_k=1", files=files(*[encoded(digit(i)) for i in range(7)])).json())
    client.get("/v1/models/lenet/labels")
    client.get("/v1/models/lenet:1")
    values = scrape(client)
    assert total(values, "convscope_requests_total", route="/v1/classify", status="2xx", **MODEL) == 6
    assert total(values, "convscope_requests_total", route="/v1/models/{model}/labels", status="2xx", **MODEL) == 1
    assert total(values, "convscope_requests_total", route="/v1/models/{model}", status="2xx", **MODEL) == 1
    assert total(values, "convscope_requests_total") == 8
    assert total(values, "convscope_images_total", **MODEL) == 12
    assert total(values, "convscope_batch_size_sum", **MODEL) == 12
    assert total(values, "convscope_confidence_count", **MODEL) == 12
    for name in ("decode", "queue"):
        assert total(values, f"convscope_{name}_duration_seconds_count", **MODEL) == 6
    batches = total(values, "convscope_batch_size_count", **MODEL)
    assert total(values, "convscope_inference_duration_seconds_count", **MODEL) == batches == 6
    best = [result["predictions"][0] for answer in answers for result in answer["results"]]
    for label in map(str, range(10)):
        wanted = sum(row["label"] == label for row in best)
        assert total(values, "convscope_predictions_total", **{"class": label}, **MODEL) == wanted
    wanted = sum(row["probability"] for row in best)
    assert total(values, "convscope_confidence_sum", **MODEL) == pytest.approx(wanted, abs=1e-5)


def test_all_routes_that_classify_count_their_images(client):
    images = np.zeros((3, 28, 28, 1), np.uint8).tolist()
    assert client.post("/predict", json={"images": images}).status_code == 200
    tensor = {"name": "image", "datatype": "UINT8", "shape": [2, 28, 28, 1], "data": [0] * (2 * 28 * 28)}
    assert client.post("/v2/models/lenet/infer", json={"inputs": [tensor]}).status_code == 200
    values = scrape(client)
    assert total(values, "convscope_images_total", **MODEL) == 5
    assert total(values, "convscope_requests_total", route="/predict", **MODEL) == 1
    assert total(values, "convscope_requests_total", route="/v2/models/{name}/infer", **MODEL) == 1


def test_routes_that_share_their_code_are_counted_apart(client):
    client.post("/v2/repository/models/lenet/load")
    values = scrape(client)
    assert total(values, "convscope_requests_total", route="/v2/repository/models/{name}/load") == 1
    assert total(values, "convscope_requests_total", route="/v2/repository/models/{name}/unload") == 0


def test_every_error_is_counted_by_its_code(client):
    before = scrape(client)
    good, bad = encoded(digit()), b"no image at all"
    client.post("/v1/classify", content=bad)
    client.post("/v1/classify", files=files(good, bad, b""))
    client.post("/v1/classify?model=nobody", content=good)
    client.post("/v1/classify?colour=red", content=good)
    client.get("/v1/classify")
    client.get("/v1/models/nobody/labels")
    after = scrape(client)
    counted = {dict(key[1])["code"]: after[key] - before[key] for key in after if key[0] == "convscope_errors_total"}
    assert {code: count for code, count in counted.items() if count} == {
        "image_unsupported": 2,
        "image_empty": 1,
        "model_unknown": 2,
        "parameter_invalid": 1,
        "method_not_allowed": 1,
    }
    assert total(after, "convscope_requests_total", route="/v1/classify", status="4xx") == 4
    assert total(after, "convscope_requests_total", route="/v1/classify", status="4xx", **MODEL) == 1
    assert total(after, "convscope_requests_total", route="/v1/models/{model}/labels", status="4xx", model="") == 1


def test_a_code_is_there_before_its_first_error(client):
    values = scrape(client)
    assert total(values, "convscope_errors_total") == 0
    codes = {dict(labels)["code"] for name, labels in values if name == "convscope_errors_total"}
    assert {"queue_full", "deadline_passed", "internal"} <= codes


def test_unknown_paths_models_and_methods_add_no_series(client):
    for path in ("/nowhere", "/v1/models/nobody", "/v2/models/nobody/infer"):
        client.get(path)
    client.request("PURGE", "/v1/models")
    client.get("/metrics")
    known = set(scrape(client))
    for index in range(100):
        client.get(f"/nowhere/{index}")
        client.get(f"/v1/models/nobody{index}")
        client.get(f"/v2/models/nobody{index}/infer")
        client.request(f"PURGE{index}", "/v1/models", headers={"x-request-id": f"id{index}"})
    values = scrape(client)
    assert set(values) == known
    assert total(values, "convscope_requests_total", route="unknown", status="4xx") == 101


@pytest.mark.parametrize(
    "accept",
    ["", "text/plain;version=0.0.4", "text/plain;version=x.y", "application/openmetrics-text;version=1.0.0"],
)
def test_the_text_is_in_the_format_that_is_asked_for(client, accept):
    client.post("/v1/classify", content=encoded(digit()))
    answer = client.get("/metrics", headers={"accept": accept})
    names = {definition.name for definition in (*COUNTS, *GAUGES)} | {"convscope_build_info"}
    if "openmetrics" in accept:
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert {family.name for family in open_metrics(answer.text)} == names
    else:
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        found = set(re.findall(r"^# TYPE (\w+?)(?:_total)? (?:counter|gauge|histogram)$", answer.text, re.M))
        assert found == names


def test_gauges_tell_what_is_served_and_what_runs(client):
    values = scrape(client)
    served = {"file": "model.onnx", "engine": "onnxruntime", "device": "cpu", **MODEL}
    assert total(values, "convscope_model_loaded", **served) == 1
    assert total(values, "convscope_queue_images", **MODEL) == 0
    assert total(values, "convscope_workers") == 1
    assert total(values, "convscope_artifacts_refused") == 0
    (build,) = [dict(labels) for name, labels in values if name == "convscope_build_info"]
    assert set(build) == {"version", "revision", "python", "onnxruntime"} and all(
        build[name] for name in ("python", "onnxruntime")
    )


def test_the_metrics_are_guarded_by_the_token(lenet_artifact):
    client = client_for(lenet_artifact.parent.parent, token="correct-horse")
    assert client.get("/metrics").status_code == 401
    client.headers["authorization"] = "Bearer correct-horse"
    assert total(scrape(client), "convscope_errors_total", code="unauthorized") == 1


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, 1.5, 2.0, 7.0])
def test_a_value_falls_into_the_first_bucket_that_holds_it(value):
    tally = Series((1, 2))
    tally.observe(value)
    assert tally.values[0] == value
    assert tally.values[1:] == [int(index == bisect.bisect_left([1, 2], value)) for index in range(3)]
    assert [value <= bound for bound in (1, 2, np.inf)] == (np.cumsum(tally.values[1:]) == 1).tolist()


def test_classes_beyond_the_limit_share_a_label():
    metrics, classes = Metrics(), CLASS_LIMIT + 50
    model = ModelMetrics(metrics, "wide", 1, tuple(f"class {index}" for index in range(classes)))
    model.batch(np.eye(classes, dtype=np.float32), 0.1)
    counted = metrics.values()["convscope_predictions"]
    assert len(counted) == CLASS_LIMIT + 1
    assert counted["wide", "1", "other"] == [50] and counted["wide", "1", "class 0"] == [1]


def test_a_failed_batch_counts_no_images():
    async def fail():
        metrics = Metrics()
        counts = ModelMetrics(metrics, "m", 1, ("a", "b"))
        batcher = Batcher(lambda images: 1 / 0, max_batch_size=8, queue_size=Limit(8), executor=None, metrics=counts)
        with pytest.raises(InferenceFailed, match="engine failed"):
            await batcher.submit(np.zeros((2, 1, 1, 1), np.uint8))
        return metrics.values()

    assert asyncio.run(fail())["convscope_images"]["m", "1"] == [0]


def test_a_worker_goes_on_from_what_its_predecessor_wrote(tmp_path):
    first = Metrics()
    first.errors.of("internal").count(3)
    ModelMetrics(first, "m", 1, ("a",)).queue.observe(0.2)
    WorkerFiles(tmp_path, 1).write(Snapshot(1, first.values(), {}))
    second = Metrics()
    second.errors.of("internal").count()
    second.add(WorkerFiles(tmp_path, 1).before())
    values = second.values()
    assert values["convscope_errors"]["internal",] == [4]
    assert values["convscope_queue_duration_seconds"] == first.values()["convscope_queue_duration_seconds"]


def test_a_dead_workers_counts_stay_and_its_gauges_go(tmp_path):
    dead = 2**22 + 1  # above what Linux gives
    counts, gauges = {"convscope_errors": {("internal",): [2]}}, {"convscope_workers": {(): [1]}}
    WorkerFiles(tmp_path, 2).write(Snapshot(dead, counts, gauges))
    WorkerFiles(tmp_path, 3).write(Snapshot(1, counts, gauges))
    assert [(s.counts, s.gauges) for s in WorkerFiles(tmp_path, 1).others()] == [(counts, {}), (counts, gauges)]


def dashboard():
    return json.loads((DOCS / "grafana.json").read_text())


def queries():
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]


def test_the_dashboard_asks_for_metrics_and_labels_that_there_are(client):
    client.post("/v1/classify", content=encoded(digit()))
    values = scrape(client)
    labels = {name: {label for found, own in values if found == name for label, _ in own} for name, _ in values}
    assert len(queries()) >= 10
    for expression in queries():
        names = re.findall(r"convscope_\w+", expression)
        assert names
        asked = {word for group in re.findall(r"(?:by|on) \(([^)]*)\)", expression) for word in re.split(r", *", group)}
        asked |= set(re.findall(r"(\w+)=~?\"", expression)) - {"job", "instance"}
        for name in names:
            assert name in labels, expression
        assert asked <= {label for name in names for label in labels[name]}, expression


def test_the_dashboard_can_be_imported():
    board = dashboard()
    assert board["schemaVersion"] >= 39 and board["title"] and board["uid"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["type"] == "row" or panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert next(variable["name"] for variable in board["templating"]["list"]) == "datasource"


def test_the_page_for_operators_lists_every_metric():
    table = set(re.findall(r"^\| `(convscope_\w+)", (DOCS / "operations.md").read_text(), re.M))
    assert table == {
        f"{definition.name}_total" if definition in COUNTS and not definition.buckets else definition.name
        for definition in (*COUNTS, *GAUGES)
    } | {"convscope_build_info"}
