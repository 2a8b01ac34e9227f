"""The server that a job sends its images to: the model it serves, and whether it is still the same."""

import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from models.errors import UserError
from models.proxies import describe_proxy
from service.batch.network import Wanted
from service.client.connection import connect
from service.client.protocol import retry_after_s

TIMEOUT_S = 120.0  # for connecting, and for each part of an answer
IMAGES = 32  # of a request
ONE_PIXEL = bytes.fromhex(  # a PNG file
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c636000000002000148afa4710000000049454e44ae426082"
)


class ServerError(UserError):
    """The server cannot be reached, refuses the requests, or serves another model than before."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server is, and the model that is wanted of it.

    Attributes:
        url: of the server.
        model: NAME or NAME:VERSION; empty where only one is served.
        token: bearer token, if the server requires one.
        patience_s: time without any answer after which a job stops.
    """

    url: str
    model: str = ""
    token: str | None = field(default=None, repr=False)
    patience_s: float = 120.0

    @property
    def headers(self) -> dict[str, str]:
        """Sent with every request."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


class Server:
    """A version of a model on a server.

    Attributes:
        name, version: of the model.
        classes: by index.
        etag: of all files of the artifact.
        file: that runs there.

    Args:
        address: of the server.
        wanted: only `top_k`; a server's answers have no logits.

    Raises:
        ServerError: it cannot be reached, or does not serve the model.
    """

    embedding = 0
    batch_size = IMAGES

    def __init__(self, address: Address, wanted: Wanted) -> None:
        self.address, self.wanted = address, wanted
        try:
            with connect(address.url, headers=address.headers, timeout_s=TIMEOUT_S) as http:
                self.name, self.version = self._choose(http)
                if (file := self._found(http)["file"]) is None:
                    # Whatever the answer to an image is, the model is in memory then.
                    self._answer(http, "POST", "/v1/classify", params={"model": self.label}, content=ONE_PIXEL)
                    file = self._found(http)["file"]
                self.file = str(file)
                self.classes = tuple(map(str, self._get(http, f"/v1/models/{self.label}/labels")["labels"]))
                self.etag = _etag(self._answer(http, "GET", **self.graph))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            route = describe_proxy(address.url)
            raise ServerError(f"no answer from {address.url}: {error or type(error).__name__}{route}") from None
        except (KeyError, TypeError):
            raise ServerError(f"{address.url} does not answer as convscope does") from None

    @property
    def label(self) -> str:
        """`name:version`."""
        return f"{self.name}:{self.version}"

    @property
    def about(self) -> dict[str, Any]:
        """What of a job's description depends on the artifact."""
        artifact = f"{self.label} {self.etag}"
        return {"artifact": artifact, "model": self.name, "version": self.version, "file": self.file}

    @property
    def class_counts(self) -> None:
        """Training images by class, which a server does not tell."""
        return None

    @property
    def graph(self) -> dict[str, Any]:
        """The request whose entity tag depends on all files of the artifact."""
        return {"url": f"/v1/models/{self.label}/graph", "headers": {"accept-encoding": "identity"}}

    def check_same(self, answer: httpx.Response) -> None:
        """Compares the entity tag of an answer to `graph` with the first one.

        Raises:
            ServerError: the server has another artifact now.
        """
        if answer.status_code == 404 or (answer.status_code in (200, 304) and _etag(answer) != self.etag):
            raise ServerError(
                f"{self.address.url} no longer serves the {self.label} that the job began with; stopped, "
                "--resume goes on once it does"
            )

    def _choose(self, http: httpx.Client) -> tuple[str, int]:
        """Name and version of the model that is wanted, the newest one if no version is."""
        wanted = self.address.model
        if not wanted:
            names = {str(one["name"]) for one in self._get(http, "/v1/models")["models"]}
            if len(names) != 1:
                served = ", ".join(sorted(names)) or "none"
                raise ServerError(f"{self.address.url} serves {served}; choose one with --model NAME")
            (wanted,) = names
        found = self._get(http, f"/v1/models/{wanted}")
        return str(found["name"]), int(found["version"])

    def _found(self, http: httpx.Client) -> dict[str, Any]:
        return self._get(http, f"/v1/models/{self.label}")

    def _answer(self, http: httpx.Client, method: str, url: str, **options: Any) -> httpx.Response:
        """The answer; a server that is full (429) is asked again, for as long as one that is silent."""
        until = time.monotonic() + self.address.patience_s
        while (answer := http.request(method, url, **options)).status_code == 429 and time.monotonic() < until:
            time.sleep(retry_after_s(answer) or 1)
        return answer

    def _get(self, http: httpx.Client, path: str) -> dict[str, Any]:
        answer = self._answer(http, "GET", path)
        if answer.status_code != 200:
            raise ServerError(f"{self.address.url}: {failure_of(answer)[1]}")
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise TypeError
        return found


def failure_of(answer: httpx.Response) -> tuple[str, str]:
    """Code and message of an error's answer; the code is empty if convscope did not send it."""
    try:
        error = answer.json()["error"]
        return str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        return "", f"the answer has the status {answer.status_code}"


def _etag(answer: httpx.Response) -> str:
    return str(answer.headers.get("etag", "")).removeprefix("W/").strip('"')
