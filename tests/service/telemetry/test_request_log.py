"""The lines of the log, as text and as JSON."""

import json
import logging
import os
from datetime import datetime

import pytest

from service.settings import read_settings
from service.telemetry.request_context import RequestContext
from service.telemetry.request_log import NAME, configure_logging, log_request
from tests.in_process import client_for, digit, encoded


@pytest.fixture(autouse=True)
def logging_as_before():
    loggers = [logging.getLogger(name) for name in ("", "bentoml", "uvicorn.error", "circus", NAME)]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def lines(capsys, lenet_artifact):
    """Makes the JSON lines of some requests to a server with these settings."""

    def ask(requests, **settings):
        configure_logging(read_settings(log_format="json", **settings))
        client = client_for(lenet_artifact.parent.parent, **settings)
        capsys.readouterr()
        for words, options in requests:
            client.request(*words, **options)
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return ask


GOOD = ("POST", "/v1/classify"), {"headers": {"x-request-id": "good"}}
BAD = ("POST", "/v1/classify"), {"content": b"no image", "headers": {"x-request-id": "bad"}}
LOST = ("GET", "/v1/models/nobody/labels"), {"headers": {"x-request-id": "lost"}}


def with_image(request):
    words, options = request
    return words, {"content": encoded(digit()), **options}


@pytest.mark.parametrize(("worker", "expected"), [(None, {}), (3, {"worker": 3})])
def test_json_lines_name_process_and_worker(capsys, worker, expected):
    configure_logging(read_settings(log_format="json"), worker=worker)
    for name in (NAME, "uvicorn.error", "circus"):
        logging.getLogger(name).error("a line")
    for line in capsys.readouterr().out.splitlines():
        found = json.loads(line)
        assert found.pop("pid") == os.getpid()
        assert {name: found[name] for name in found if name == "worker"} == expected


@pytest.mark.parametrize(
    ("settings", "logged"),
    [
        ({}, []),
        ({"log_level": "debug"}, [("DEBUG", "bad"), ("DEBUG", "lost")]),
        ({"access_log": True}, [("INFO", "good"), ("INFO", "bad"), ("INFO", "lost")]),
        ({"access_log": True, "log_level": "warning"}, []),
    ],
)
def test_the_settings_say_which_requests_have_a_line(lines, settings, logged):
    found = lines([with_image(GOOD), BAD, LOST], **settings)
    assert [(line["level"], line["request_id"]) for line in found] == logged


def test_a_json_line_has_every_field(lines):
    good, bad, lost = lines([with_image(GOOD), BAD, LOST], access_log=True)
    for line in (good, bad, lost):
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
        assert line["logger"] == NAME and line["duration_ms"] > 0 and line["request_id"] in line["message"]
    known = {"route": "/v1/classify", "method": "POST", "model": "lenet:1"}
    assert {**good, **known, "status": 200, "code": ""} == good
    assert {**bad, **known, "status": 415, "code": "image_unsupported"} == bad
    assert {**lost, "route": "/v1/models/{model}/labels", "status": 404, "model": "", "code": "model_unknown"} == lost


def test_a_failure_nobody_foresaw_is_an_error_with_its_traceback(lines, monkeypatch):
    monkeypatch.setattr("service.v1.classify.top_predictions", lambda *_: 1 / 0)
    (line,) = lines([with_image(GOOD)])
    assert (line["level"], line["status"], line["code"]) == ("ERROR", 500, "internal")
    assert "ZeroDivisionError" in line["exc_info"]


def test_a_passed_deadline_is_a_warning(lines):
    (line,) = lines([with_image(GOOD)], deadline_s=1e-9)
    assert (line["level"], line["status"], line["code"]) == ("WARNING", 504, "deadline_passed")


@pytest.mark.parametrize("path", ["/a%0Aforged", "/%1B[31mforged", "/a%E2%80%A8forged", "/v1/models/a%00"])
def test_a_client_cannot_write_lines_of_its_own(lines, path):
    (line,) = lines([(("GET", path), {})], access_log=True)
    assert line["status"] == 404 and line["message"].isprintable()


def test_a_line_has_a_bound(caplog):
    request = RequestContext(b"x" * 128, status=500, code="internal", message="long " * 1000)
    log_request(request, "GET", "/v1/models", 0.001, log_all=False)
    (record,) = caplog.records
    assert len(record.getMessage()) < 1000


def test_text_leaves_bentomls_handlers_alone():
    handlers = logging.getLogger("bentoml").handlers[:]
    configure_logging(read_settings(log_level="error"))
    assert logging.getLogger("bentoml").handlers == handlers
    assert not logging.getLogger(NAME).isEnabledFor(logging.WARNING)
