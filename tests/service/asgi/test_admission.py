import pytest
from starlette.websockets import WebSocketDisconnect

from tests.in_process import client_for, digit, encoded


@pytest.fixture(scope="module")
def client(lenet_artifact):
    return client_for(lenet_artifact.parent.parent, token="correct-horse")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic correct-horse"},
        {"authorization": "correct-horse"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer correct-horse battery"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/classify", "/predict", "/schema.json", "/anything"])
def test_without_the_token_nothing_but_health_and_the_page_answers(client, path, headers):
    answer = client.post(path, headers=headers, content=b"x")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_with_the_token_requests_are_answered(client):
    headers = {"authorization": "bearer correct-horse"}
    assert client.post("/v1/classify", headers=headers, content=encoded(digit())).status_code == 200


def test_the_page_needs_no_token(client):
    assert client.get("/").status_code == 200
    assert client.get("/page/app.js").status_code == 200


def test_a_websocket_is_closed_at_once(client):
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/v1/classify"):
        pass


PAGE = {"origin": "https://page.example"}


def test_a_page_of_an_allowed_origin_may_ask_and_read_what_it_needs(lenet_artifact):
    client = client_for(
        lenet_artifact.parent.parent, token="correct-horse", cors_origins="https://page.example,http://b"
    )
    asked = {**PAGE, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    allowed = client.options("/v1/classify", headers=asked)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://page.example"
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    headers = {**PAGE, "authorization": "Bearer correct-horse"}
    answer = client.post("/v1/classify", headers=headers, content=encoded(digit()))
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
    assert allowed.headers["x-request-id"]
    assert 'route="/v1/classify",status="2xx"' in client.get("/metrics", headers=headers).text
    refused = client.post("/v1/classify", headers=PAGE, content=encoded(digit()))
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://page.example")


def test_other_origins_are_not_named_and_none_is_unless_it_is_set(lenet_artifact, client):
    other = client_for(lenet_artifact.parent.parent, cors_origins="https://page.example")
    for asked in (client, other):
        answer = asked.get("/livez", headers={"origin": "https://elsewhere.example"})
        assert "access-control-allow-origin" not in answer.headers
