"""Measurements on a GPU: the load counts all answers, a report keeps all rows, requests and images are real."""

import asyncio
import io
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.gpu.load import load, percentile
from benchmarks.gpu.messages import classify_message, infer_message, post
from benchmarks.gpu.networks import checkpoint, digits, input_of, normalised, photographs
from benchmarks.gpu.report import JSON_FILE, MARKDOWN_FILE, Budget, Report, last_line
from benchmarks.gpu.serving import bound_by
from models.checkpoint.directory import load_checkpoint
from models.checkpoint.samples import SAMPLES_FILE, load_samples
from models.images.decode import decode_image
from tests.real_server import Server


class Application:
    """A little HTTP server that answers each path with the status that is its name, and counts requests by path."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with_body = b"x" * 70_000  # several pieces of a connection
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split()[1].decode()
                length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))
                await reader.readexactly(length)
                self.requests[path] += 1
                if path == "/hang-up":
                    return
                lines = f"HTTP/1.1 {path[1:]} Reason\r\ncontent-length: {len(with_body)}\r\n\r\n"
                writer.write(lines.encode() + with_body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the load is over
        finally:
            writer.close()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serves in a thread until the block ends."""
        loop, started = asyncio.new_event_loop(), threading.Event()

        async def serve() -> None:
            server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            started.set()
            await stopping.wait()
            server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        stopping = asyncio.Event()
        thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
        thread.start()
        started.wait()
        try:
            yield
        finally:
            loop.call_soon_threadsafe(stopping.set)
            thread.join()
            loop.close()


@pytest.fixture
def answering() -> Iterator[Application]:
    server = Application()
    with server.running():
        yield server


def test_load_counts_every_answer_by_its_status(answering: Application) -> None:
    requests = [post(f"/{status}", b"body" * 100) for status in (200, 503, 200, 429)]
    found = load("127.0.0.1", answering.port, requests, connections=6, seconds=0.5, processes=2, warm_up_s=0)
    sent = {int(path[1:]): count for path, count in answering.requests.items()}
    assert set(found.statuses) == {200, 429, 503}
    for status, count in found.statuses.items():
        assert count <= sent[status] <= count + 6 + 1  # at most one under way on each connection at the end
    assert found.busy == found.statuses[429]
    assert found.errors == found.statuses[503]
    assert found.requests_per_s == found.statuses[200] / 0.5
    assert 0 < found.p50_ms <= found.p99_ms


def test_load_counts_the_images_of_a_request(answering: Application) -> None:
    found = load("127.0.0.1", answering.port, [post("/200")], connections=1, seconds=0.2, images_per_request=8)
    assert found.images_per_s == 8 * found.requests_per_s > 0


def test_load_counts_lost_connections_and_goes_on(answering: Application) -> None:
    requests = [post("/200"), post("/hang-up")]
    found = load("127.0.0.1", answering.port, requests, connections=2, seconds=0.6, processes=1, warm_up_s=0)
    assert found.statuses[0] == found.errors > 2
    assert found.statuses[200] > 2


def test_load_fails_where_nothing_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(OSError, match="Connect"):
            load("127.0.0.1", taken.getsockname()[1], [post("/200")], connections=2, seconds=0.1, processes=2)


@pytest.mark.parametrize(("share", "wanted"), [(0.0, 1.0), (0.5, 3.0), (0.99, 4.0), (1.0, 4.0)])
def test_percentile_is_one_of_the_values(share: float, wanted: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], share) == wanted
    assert percentile([], share) == 0


def test_report_is_complete_after_every_row_and_after_an_error(tmp_path: Path) -> None:
    report = Report(tmp_path)
    report.section("Rates", ("what", "images/s"))
    wanted = []
    for cells in [("one", 1.25), ("two | parts", 2_000.0), ("three",)]:
        report.row(*cells)
        wanted.append([*cells, *[None] * (2 - len(cells))])
        found = json.loads((tmp_path / JSON_FILE).read_text())
        assert found["sections"][0]["rows"] == wanted
        assert found["machine"]["cores"]
    with pytest.raises(ValueError, match="3 cells; 'Rates' has 2 columns"):
        report.row(1, 2, 3)
    report.error("four", error=ValueError("first line\nthe last line"))
    report.note("a remark")
    text = (tmp_path / MARKDOWN_FILE).read_text()
    assert "| one | 1.25 |" in text
    assert "| two \\| parts | 2,000 |" in text
    assert "| four | failed: ValueError: the last line |" in text
    assert "a remark" in text
    assert json.loads((tmp_path / JSON_FILE).read_text())["sections"][0]["notes"] == ["a remark"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [JSON_FILE, MARKDOWN_FILE]


def test_report_prints_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(None)
    report.section("Rates", ["what"])
    report.row("one")
    assert capsys.readouterr().out.endswith("## Rates\n\n| what |\n| --- |\n| one |\n")


def test_budget_ends_and_a_part_leaves_the_rest() -> None:
    budget = Budget(1000)
    assert budget.enough(900)
    assert not budget.enough(1001)
    assert budget.part(0.25).left_s <= 250 < budget.left_s
    assert Budget(-1).left_s == 0


def test_last_line_names_an_error_and_never_is_empty() -> None:
    assert last_line("one\ntwo\n\n") == "two"
    assert last_line(KeyError()) == "KeyError: no message"


@pytest.mark.parametrize(
    ("engine", "decoding", "wanted"),
    [
        (0.9, 0.2, "engine"),
        (0.3, 0.95, "decoding"),
        (0.4, 0.5, "neither"),
        (0.7, None, "engine"),
        (None, None, "unknown"),
    ],
)
def test_a_row_is_bound_by_the_part_that_it_nearly_reaches(
    engine: float | None, decoding: float | None, wanted: str
) -> None:
    assert bound_by({"engine": engine, "decoding": decoding}) == wanted


def test_photographs_are_seeded_jpegs_of_one_size() -> None:
    files = photographs(4, seed=3)
    assert files == photographs(4, seed=3)
    assert len(set(files + photographs(4, seed=4))) == 8
    for file in files:
        image = Image.open(io.BytesIO(file))
        assert (image.format, image.size, image.mode) == ("JPEG", (640, 480), "RGB")
    assert {decode_image(file, input_of("lenet")).shape for file in digits(3)} == {(28, 28, 1)}


def test_a_calibrated_network_keeps_its_values_apart(tmp_path: Path) -> None:
    directory = checkpoint("resnet20", tmp_path, 32)
    assert checkpoint("resnet20", tmp_path, 32) == directory
    found = load_checkpoint(directory)
    weights = found.network.state_dict()
    x = normalised(load_samples(directory / SAMPLES_FILE).images, found.config.input)  # (N, 3, 32, 32)
    with torch.inference_mode():
        before = found.network.conv1(x)
        assert torch.allclose(weights["bn1.running_mean"], before.mean((0, 2, 3)), atol=0.5)
        assert 0.3 < float(found.network.bn1(before).std()) < 3
        assert float(found.network(x).std(0).mean()) > 0.1  # logits differ from image to image


def test_binary_tensors_and_files_of_the_same_images_give_the_same_probabilities(server: Server) -> None:
    files, spec = digits(3), input_of("lenet")
    pixels = np.stack([decode_image(file, spec) for file in files])
    head, body = exchange(server, infer_message(pixels, "lenet"))
    length = int(head["inference-header-content-length"])
    answer = json.loads(body[:length])
    probabilities = np.frombuffer(body[length:], np.float32).reshape(answer["outputs"][0]["shape"])
    assert probabilities.shape == (3, 10)
    for row, file in zip(probabilities, files, strict=True):
        _, body = exchange(server, classify_message(file, "lenet"))
        (result,) = json.loads(body)["results"]
        assert len(result["predictions"]) == 5
        for prediction in result["predictions"]:
            assert prediction["probability"] == pytest.approx(float(row[prediction["index"]]), abs=1e-6)


def exchange(server: Server, message: bytes) -> tuple[dict[str, str], bytes]:
    """The head of an answer, which must be 200, by lower-case name, and its body."""
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(message)
        received = connection.makefile("rb")
        assert received.readline().split()[1] == b"200"
        lines = iter(lambda: received.readline().decode().strip(), "")
        head = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        return head, received.read(int(head["content-length"]))
