"""moto's S3 server behind a layer that refuses requests as S3 does."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import s3fs
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from service.batch import storage

_ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}, says the server</Message></Error>"
STATUSES = {
    "ExpiredToken": "400 Bad Request",
    "InvalidAccessKeyId": "403 Forbidden",
    "AccessDenied": "403 Forbidden",
    "SlowDown": "503 Slow Down",
    "InternalError": "500 Internal Server Error",
}


@dataclass
class Faults:
    """What is refused: `code(method, path)` gives a code of S3's, or none."""

    code: Callable[[str, str], str] = lambda method, path: ""
    refused: list[str] = field(default_factory=list)


@contextmanager
def s3_server() -> Iterator[tuple[Any, Faults]]:
    """The file system of a server that this process and its children find by their environment, and what it refuses."""
    with pytest.MonkeyPatch.context() as environment, _running() as (url, faults):
        for name, value in {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            environment.setenv(name, value)
        storage._file_system.cache_clear()  # they know the servers of other tests
        s3fs.S3FileSystem.clear_instance_cache()
        yield storage.file_system("s3://"), faults


@contextmanager
def _running() -> Iterator[tuple[str, Faults]]:
    faults, lock = Faults(), threading.Lock()
    backend = DomainDispatcherApplication(create_backend_app)

    def application(environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        with lock:
            code = faults.code(method, path)
        if not code:
            return backend(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        faults.refused.append(f"{method} {path}")
        body = b"" if method == "HEAD" else _ERROR.format(code=code).encode()
        start_response(STATUSES[code], [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]

    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}", faults
    finally:
        server.shutdown()
        thread.join()
