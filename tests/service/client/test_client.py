"""The client against a real server, and against one that is busy, away or somebody else's."""

import asyncio
import email.utils
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from export.artifact.manifest import read_manifest
from export.engines.selection import open_engine
from models.images.decode import decode_image
from service.client import client as module
from service.client.client import AsyncClient, Client, NoAnswer, Policy, Result
from tests.in_process import digit, encoded
from tests.real_server import Server, running_server

TOKEN = "a-token-for-tests"


@pytest.fixture(scope="module")
def server(lenet_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(lenet_artifact, tmp_path_factory.mktemp("log") / "log", token=TOKEN) as running:
        yield running


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the client meant to sleep."""
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    return slept


def checked(results: list[Result], artifact: Path, digits: int) -> None:
    """Every other image is bad; the good ones have the engine's probabilities."""
    manifest = read_manifest(artifact)
    assert [result.error.code if result.error else "" for result in results] == ["", "image_unsupported"] * digits
    images = np.stack([decode_image(encoded(digit(index)), manifest.input) for index in range(digits)])
    probabilities, _ = open_engine(artifact, manifest, device="cpu").run(images)
    for result, row in zip(results[::2], probabilities, strict=True):
        assert [one.index for one in result.predictions] == np.argsort(-row, kind="stable")[:3].tolist()
        assert [one.label for one in result.predictions] == [manifest.classes[one.index] for one in result.predictions]
        np.testing.assert_allclose([one.probability for one in result.predictions], np.sort(row)[:-4:-1], atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_batches_of_any_size_give_the_engines_answers_and_an_error_for_each_bad_image(
    server: Server, lenet_artifact: Path, tmp_path: Path, batch: int
) -> None:
    files: list[bytes | Path] = []
    for index in range(5):
        (tmp_path / f"{index}.png").write_bytes(encoded(digit(index)))
        files += [tmp_path / f"{index}.png", b"no image"]
    with Client(server.url, token=TOKEN, policy=Policy(batch=batch)) as client:
        checked(client.classify(files, top_k=3), lenet_artifact, 5)

    async def at_once() -> list[list[Result]]:
        async with AsyncClient(server.url, token=TOKEN, policy=Policy(batch=batch)) as client:
            return await asyncio.gather(*(client.classify(files, model="lenet", top_k=3) for _ in range(3)))

    for results in asyncio.run(at_once()):
        checked(results, lenet_artifact, 5)


def test_inspections_are_those_of_the_server(server: Server) -> None:
    picture, headers = encoded(digit()), {"Authorization": f"Bearer {TOKEN}"}

    def plain(path: str, count: int = 1) -> Any:
        files = [("image", (str(place), picture)) for place in range(count)]
        return httpx.post(f"{server.url}/v1/models/lenet/{path}", files=files, headers=headers).json()

    with Client(server.url, token=TOKEN) as client:
        unit = client.unit(picture, "conv1", (2, 0, 5), model="lenet")
        compared = client.compare([picture, picture], model="lenet")
        explained = client.explain(picture, model="lenet", method="gradcam", class_name=2, layer="conv2", evaluate=True)
        kernels = client.kernels("conv1", model="lenet")
        versions = client.compare([picture], model="lenet", other="lenet:1")
    assert unit == plain("unit?layer=conv1&channel=2&y=0&x=5")
    assert compared == plain("compare", 2)
    assert explained == plain("explain?method=gradcam&class=2&layer=conv2&evaluate=true")
    assert versions["begins"] is None
    assert (kernels["weights"].shape, kernels["bias"].shape) == ((6, 1, 5, 5), (6,))

    async def ask_all() -> list[Any]:
        async with AsyncClient(server.url, token=TOKEN) as client:
            return [
                await client.unit(picture, "conv1", (2, 0, 5), model="lenet"),
                await client.compare([picture, picture], model="lenet"),
                await client.explain(
                    picture, model="lenet", method="gradcam", class_name=2, layer="conv2", evaluate=True
                ),
                (await client.kernels("conv1", model="lenet"))["weights"].tolist(),
            ]

    assert asyncio.run(ask_all()) == [unit, compared, explained, kernels["weights"].tolist()]


def test_models_and_feature_maps_are_those_of_the_server(server: Server, lenet_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(encoded(digit()))
    with Client(server.url, token=TOKEN) as client:
        (model,) = client.models()
        maps = client.feature_maps(tmp_path / "0.png", model="lenet:1", layers="conv*")
    assert (model["name"], model["version"], model["classes"]) == ("lenet", 1, 10)
    assert {name: value.shape for name, value in maps.items()} == {
        "probabilities": (10,), "conv1": (6, 28, 28), "conv2": (16, 10, 10)
    }  # fmt: skip

    async def ask() -> tuple[list[dict[str, Any]], dict[str, Any]]:
        async with AsyncClient(server.url, token=TOKEN) as client:
            return await client.models(), await client.feature_maps(encoded(digit()), model="lenet", layers="conv*")

    models, others = asyncio.run(ask())
    assert models == [model]
    for name, value in maps.items():
        np.testing.assert_array_equal(others[name], value)


def test_the_readmes_program_runs(lenet_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    programs = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[3] / "README.md").read_text(), re.DOTALL)
    (program,) = [program for program in programs if "Client(" in program]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/0.png").write_bytes(encoded(digit()))
    (tmp_path / "photos/1.png").write_text("no image")
    with running_server(lenet_artifact, tmp_path / "log") as server:
        for place, here in (
            ("http://127.0.0.1:3000", server.url),
            ("lenet-digits", "lenet"),
            ("photos", str(tmp_path / "photos")),
        ):
            program = program.replace(place, here)
        exec(compile(program, "README.md", "exec"), {})
    first, second, maps = capsys.readouterr().out.splitlines()
    assert "0.png Prediction(label=" in first and "1.png the body (8 bytes" in second
    assert "conv1" in maps and "conv2" in maps


@pytest.mark.parametrize(
    ("token", "ask", "status", "code", "says"),
    [
        (None, lambda client: client.models(), 401, "unauthorized", "Authorization"),
        (TOKEN, lambda client: client.classify([b"x"], model="x"), 404, "model_unknown", "no model is called"),
        (TOKEN, lambda client: client.classify([b"x"] * 2, top_k=0), 400, "parameter_invalid", "top_k"),
        (TOKEN, lambda client: client.feature_maps(b"x", model="lenet"), 415, "image_unsupported", "not an image"),
        (TOKEN, lambda c: c.feature_maps(b"x", model="lenet", layers="no"), 404, "layer_unknown", "no layer"),
        (TOKEN, lambda c: c.references("conv1", 0, model="lenet"), 404, "no_references", "convscope index"),
        (TOKEN, lambda c: c.kernels("relu", model="lenet"), 404, "no_kernels", "layers that have: conv1"),
        (TOKEN, lambda c: c.unit(encoded(digit()), "conv1", (9, 0, 0), model="lenet"), 404, "unit_unknown", "0 to 5"),
    ],
)  # fmt: skip
def test_what_the_server_refuses_is_raised_with_its_words(
    server: Server, token: str | None, ask: Callable[[Client], Any], status: int, code: str, says: str
) -> None:
    with Client(server.url, token=token) as client, pytest.raises(NoAnswer, match=says) as refused:
        ask(client)
    assert (refused.value.status, refused.value.code) == (status, code)


def scripted(*answers: httpx.Response | Exception) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A server that gives these answers in turn, and what it was asked: no real one is busy on command."""
    asked, left = list[httpx.Request](), list(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        found = left.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    return httpx.MockTransport(answer), asked


def busy(status: int = 429, **headers: str) -> httpx.Response:
    error = {"error": {"code": "queue_full", "message": "1024 images wait"}}
    return httpx.Response(
        status, json=error, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


MODELS = httpx.Response(200, json={"models": [], "failed": []})


def test_retry_after_is_waited_for_as_seconds_or_as_a_date_but_not_longer_than_allowed(waits: list[float]) -> None:
    date = email.utils.formatdate(time.time() + 20, usegmt=True)
    answers = (busy(retry_after="7"), busy(503, retry_after=date), busy(retry_after="3600"), MODELS)
    transport, asked = scripted(*answers)
    with Client("http://x", transport=transport) as client:
        assert client.models() == [] and len(asked) == 4
    assert waits[:2] == [0, 7] and 15 < waits[2] <= 20 and waits[3] == 30


def test_without_a_word_the_waits_grow(waits: list[float]) -> None:
    transport, asked = scripted(*[busy(), httpx.ConnectError("refused"), busy(retry_after="soon")], MODELS)
    with Client("http://x", transport=transport) as client:
        assert client.models() == [] and len(asked) == 4
    assert waits[0] == 0 and 0.1 <= waits[1] <= 0.2 <= waits[2] <= 0.4 <= waits[3] <= 0.8


@pytest.mark.parametrize("answer", [busy(503), httpx.ConnectError("refused")])
def test_it_gives_up_after_the_retries(waits: list[float], answer: httpx.Response | Exception) -> None:
    transport, asked = scripted(*[answer] * 3)
    with (
        Client("http://x", transport=transport, policy=Policy(retries=2)) as client,
        pytest.raises(NoAnswer, match=r"1024 images wait|no answer: refused"),
    ):
        client.models()
    assert len(asked) == 3


def test_a_batch_is_sent_again_whole(waits: list[float]) -> None:
    row = {"predictions": [{"label": "a", "index": 0, "probability": 1.0}]}
    transport, asked = scripted(busy(retry_after="1"), httpx.Response(200, json={"results": [row] * 2}))
    with Client("http://x", transport=transport) as client:
        assert len(client.classify([b"one", b"two"])) == 2
    bodies = [request.content.replace(request.headers["content-type"][-32:].encode(), b"") for request in asked]
    assert bodies[0] == bodies[1] and b"one" in bodies[0] and b"two" in bodies[0]


def test_batches_keep_to_the_bytes_too_and_files_that_cannot_be_read_cost_no_request(tmp_path: Path) -> None:
    row = {"error": {"code": "image_unsupported", "message": "no"}}
    sizes: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sizes.append(request.content.count(b"Content-Disposition"))
        return httpx.Response(200, json={"results": [row] * sizes[-1]})

    policy = Policy(batch_bytes=10)
    with Client("http://x", transport=httpx.MockTransport(answer), policy=policy) as client:
        results = client.classify([b"1234", b"1234", b"1234", tmp_path / "absent", b"1" * 50, b"12"])
        assert client.classify([tmp_path / "absent"])[0].error is not None
    assert sizes == [2, 1, 1, 1]
    assert [result.error.code for result in results if result.error][3] == "file_unreadable" and len(results) == 6


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json={"results": [{"label": "cat"}]}),
        httpx.Response(200, json={"results": []}),
        httpx.Response(200, json=[]),
        httpx.Response(502, text="bad gateway"),
        httpx.Response(404, json={"detail": "not found"}),
    ],
)
def test_a_server_of_another_kind_is_told_apart(answer: httpx.Response) -> None:
    transport, _ = scripted(answer, answer)
    with Client("http://x", transport=transport) as client:
        with pytest.raises(NoAnswer, match=r"not as convscope does|1 images were sent, and 0 results came"):
            client.classify([b"x"])
        if "results" not in answer.text:
            with pytest.raises(NoAnswer, match="not as convscope does"):
                client.models()


@pytest.mark.parametrize(
    "wrong", [{"batch": 0}, {"batch_bytes": -1}, {"retries": -1}, {"timeout_s": 0}, {"longest_wait_s": -0.1}]
)
def test_a_policy_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} is {json.dumps(wrong[name])}; it must be"):
        Policy(**wrong)


def test_references_of_a_server_that_has_them(indexed_artifact: Path, tmp_path: Path) -> None:
    with running_server(indexed_artifact, tmp_path / "log") as server, Client(server.url) as client:
        found = client.references("conv1", 2, model="lenet")

        async def ask() -> dict[str, Any]:
            async with AsyncClient(server.url) as other:
                return await other.references("conv1", 2, model="lenet")

        assert len(found["references"]) == 3 and asyncio.run(ask()) == found
