"""Request ids in every answer, and traces where OpenTelemetry is configured."""

import asyncio

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient

from service.asgi.admission import AdmissionControl
from service.asgi.application import build_application
from service.settings import read_settings
from tests.in_process import client_for, digit, encoded

ID, TRACE = "x-request-id", "0af7651916cd43dd8448eb211c80319c"


ANSWERS = {
    "classified": ("POST", "/v1/classify", 200),
    "listed": ("GET", "/v1/models", 200),
    "page": ("GET", "/", 200),
    "metrics": ("GET", "/metrics", 200),
    "unknown path": ("GET", "/nowhere", 404),
    "wrong method": ("DELETE", "/v1/classify", 405),
    "unknown model": ("GET", "/v2/models/nobody", 404),
}


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("given", ["a", "3f-7_.:/+=@", "x" * 128])
def test_a_sane_id_comes_back_with_every_answer(client, method, path, status, given):
    answer = client.request(method, path, content=encoded(digit()), headers={ID: given})
    assert (answer.status_code, answer.headers.get_list(ID)) == (status, [given])


@pytest.mark.parametrize("given", [b"", b"x" * 129, b"two words", "ümlaut".encode(), b"tab\tbed", b"a\x7f", None])
def test_any_other_id_is_replaced_by_one_that_no_other_request_has(client, given):
    headers = [] if given is None else [(ID.encode(), given)]
    made = [client.get("/v1/models", headers=headers).headers[ID] for _ in range(20)]
    assert len(set(made)) == 20
    assert all(identity.isascii() and identity.isalnum() and len(identity) <= 128 for identity in made)


def test_a_refused_token_is_answered_with_the_id(lenet_artifact):
    answer = client_for(lenet_artifact.parent.parent, token="correct-horse").get("/v1/models", headers={ID: "mine"})
    assert (answer.status_code, answer.headers[ID]) == (401, "mine")


@pytest.fixture
def gate_around(lenet_artifact):
    """Makes a client of the gate around another application, as it stands around BentoML's."""
    from service.serving.version_catalog import VersionCatalog

    settings = read_settings(artifacts=lenet_artifact, device="cpu")
    http = build_application(VersionCatalog(settings), settings)
    return lambda app: TestClient(AdmissionControl(app, settings, http))


def test_bentomls_failures_get_the_id_and_our_shape(gate_around):
    async def fails(scope, receive, send):
        raise RuntimeError("inside BentoML")

    answer = gate_around(fails).get("/schema.json", headers={ID: "mine"})
    assert (answer.status_code, answer.headers[ID], answer.json()["error"]["code"]) == (500, "mine", "internal")


def test_an_answer_that_breaks_off_is_not_answered_twice(gate_around):
    sent = []

    async def breaks_off(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("half way")

    async def send(message):
        sent.append(message["type"])

    scope = {"type": "http", "method": "GET", "path": "/livez", "headers": []}
    with pytest.raises(RuntimeError, match="half way"):
        asyncio.run(gate_around(breaks_off).app(scope, None, send))
    assert sent == ["http.response.start"]


@pytest.fixture
def spans(monkeypatch):
    """What a tracer provider exports that is the global one until the test ends."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter


def test_a_request_is_a_span_of_the_trace_it_names(spans, lenet_artifact):
    client = client_for(lenet_artifact.parent.parent)
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", ID: "mine"}
    assert client.post("/v1/classify", content=encoded(digit()), headers=headers).status_code == 200
    assert client.get("/v1/models/nobody/labels", headers=headers).status_code == 404
    good, bad = spans.get_finished_spans()
    assert (good.name, bad.name) == ("POST /v1/classify", "GET /v1/models/{model}/labels")
    for span in (good, bad):
        assert span.kind is trace.SpanKind.SERVER
        assert f"{span.context.trace_id:032x}" == TRACE and f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
        assert span.attributes["convscope.request_id"] == "mine"
    assert good.attributes["http.response.status_code"] == 200 and good.attributes["convscope.model"] == "lenet:1"
    assert bad.attributes["error.type"] == "model_unknown"
    assert bad.status.status_code is trace.StatusCode.UNSET  # a client's mistake is none of the server's


def test_a_request_without_a_trace_begins_one(spans, lenet_artifact):
    client = client_for(lenet_artifact.parent.parent)
    client.get("/v1/models")
    (span,) = spans.get_finished_spans()
    assert span.parent is None and span.context.is_valid


def test_without_a_provider_there_is_no_span_around_a_request(gate_around):
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    seen = []

    async def app(scope, receive, send):
        seen.append(trace.get_current_span())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    gate_around(app).get("/livez", headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
    assert seen == [trace.INVALID_SPAN]
