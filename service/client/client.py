"""A typed client of the server's own routes: files in batches, and retries that honour Retry-After.

    with Client("http://127.0.0.1:3000") as client:
        for result in client.classify([Path("one.png"), Path("two.jpg")]):
            print(result.predictions[0].label if result.error is None else result.error)

`AsyncClient` is the same with `await`. `service.client.protocol` has the requests and their timing.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
import numpy.typing as npt

from models.proxies import describe_proxy
from models.results import Result
from service.client.connection import connect, connect_async
from service.client.protocol import (
    Exchange,
    NoAnswer,
    Outcome,
    Policy,
    Step,
    arrays_exchange,
    as_texts,
    classify_exchange,
    models_exchange,
    object_exchange,
    upload_step,
)

__all__ = ["AsyncClient", "Client", "NoAnswer", "Policy", "Result"]
T = TypeVar("T")
Image = bytes | Path


class Client:
    """A client for one server with persistent connections; close it, or use it in a `with` block.

    Args:
        url: URL of the server.
        token: bearer token, if the server requires one.
        policy: batches, retries and timeouts.
        transport: replaces the network, for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        policy: Policy = Policy(),  # noqa: B008  # frozen
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._policy = policy
        self._route = "" if transport else describe_proxy(url)
        self._http = connect(url, headers=_headers(token), timeout_s=policy.timeout_s, transport=transport)

    def classify(self, images: Sequence[Image], *, model: str | None = None, top_k: int | None = None) -> list[Result]:
        """Classifies files or their bytes.

        Args:
            images: paths, or encoded images.
            model: `NAME` or `NAME:VERSION`, if several are served.
            top_k: number of classes, at least 1; the server's default if None.

        Returns:
            One result per image, in order; an image that cannot be read or decoded gets an `error`.

        Raises:
            NoAnswer: the server cannot be reached, refuses the request, or stays too busy.
        """
        return self._drive(classify_exchange(images, self._policy, model=model, top_k=top_k))

    def models(self) -> list[dict[str, Any]]:
        """The served models, as in `GET /v1/models`."""
        return self._drive(models_exchange(self._policy))

    def feature_maps(self, image: Image, *, model: str, layers: str = "*") -> dict[str, npt.NDArray[Any]]:
        """Values inside the served network by layer name, (C, H, W) or (C,), and its `probabilities`, (K,).

        Args:
            image: a path, or an encoded image.
            model: `NAME` or `NAME:VERSION`.
            layers: comma-separated names or globs.

        Raises:
            NoAnswer: as for `classify`; the image cannot be decoded, or there is no such layer.
            OSError: the file cannot be read.
        """
        return self._drive(arrays_exchange(_feature_maps(image, model, layers), self._policy))

    def unit(self, image: Image, layer: str, index: Sequence[int], *, model: str) -> dict[str, Any]:
        """The arithmetic of one number inside the served network, as `POST /v1/models/{model}/unit` answers it.

        Args:
            image: a path, or an encoded image.
            layer: a layer's name, or the `source` of another unit's term.
            index: its position: (channel, row, column) in a feature map, (element,) in a vector.
            model: `NAME` or `NAME:VERSION`.

        Raises:
            NoAnswer: as for `classify`; there is no such layer or position.
            OSError: the file cannot be read.
        """
        return self._drive(object_exchange(_unit(image, layer, index, model), self._policy, key="terms"))

    def kernels(self, layer: str, *, model: str, effective: bool = False) -> dict[str, npt.NDArray[Any]]:
        """Weights and bias of a layer of the served file: `weights` (outputs, inputs, height, width) and `bias`.

        Args:
            layer: a layer's name.
            model: `NAME` or `NAME:VERSION`.
            effective: fold the batch norm behind the layer into them.

        Raises:
            NoAnswer: as for `classify`; there is no such layer, or it has no weights.
        """
        return self._drive(arrays_exchange(_kernels(layer, model, effective), self._policy))

    def references(self, layer: str, channel: int, *, model: str) -> dict[str, Any]:
        """The images that excite a channel most, as `GET /v1/models/{model}/layers/{layer}/channels/...` answers them.

        Args:
            layer, channel: a layer's name, and a channel from 0.
            model: `NAME` or `NAME:VERSION`.

        Raises:
            NoAnswer: as for `classify`; there is no such layer or channel, or the artifact has no reference images.
        """
        return self._drive(object_exchange(_references(layer, channel, model), self._policy, key="references"))

    def compare(self, images: Sequence[Image], *, model: str, other: str | None = None) -> dict[str, Any]:
        """Differences layer by layer, as `POST /v1/models/{model}/compare` answers them.

        Args:
            images: two for one model; one for two models.
            model, other: `NAME` or `NAME:VERSION`.

        Raises:
            NoAnswer: as for `classify`.
            OSError: a file cannot be read.
        """
        return self._drive(object_exchange(_compare(images, model, other), self._policy, key="layers"))

    def explain(
        self,
        image: Image,
        *,
        model: str,
        method: str | None = None,
        class_name: str | int | None = None,
        layer: str | None = None,
        evaluate: bool = False,
    ) -> dict[str, Any]:
        """Which places of an image speak for a class, as `POST /v1/models/{model}/explain` answers it.

        Args:
            image: a path, or an encoded image.
            model: `NAME` or `NAME:VERSION`.
            method: such as `gradcam`, or `all`; chosen by the server if None.
            class_name: a class by name or number from 0; the predicted one if None.
            layer: whose value is explained, for methods that explain one.
            evaluate: measure how far the map can be trusted.

        Raises:
            NoAnswer: as for `classify`; there is no such method, class or layer.
            OSError: the file cannot be read.
        """
        step = _explain(image, model, method, class_name, layer, evaluate)
        return self._drive(object_exchange(step, self._policy, key="class"))

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _drive(self, conversation: Exchange[T]) -> T:
        outcome: Outcome = None
        try:
            while True:
                step = conversation.send(outcome)
                time.sleep(step.wait_s)
                try:
                    outcome = self._http.send(_request(self._http, step))
                except (httpx.HTTPError, httpx.InvalidURL) as error:
                    outcome = error
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # the generator's type has it
        except NoAnswer as error:
            raise error.along(self._route) from None


class AsyncClient:
    """The same for asyncio; batches are sent one after another, so use several tasks for concurrency."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        policy: Policy = Policy(),  # noqa: B008  # frozen
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._policy = policy
        self._route = "" if transport else describe_proxy(url)
        self._http = connect_async(url, headers=_headers(token), timeout_s=policy.timeout_s, transport=transport)

    async def classify(
        self, images: Sequence[Image], *, model: str | None = None, top_k: int | None = None
    ) -> list[Result]:
        """See `Client.classify`."""
        return await self._drive(classify_exchange(images, self._policy, model=model, top_k=top_k))

    async def models(self) -> list[dict[str, Any]]:
        """See `Client.models`."""
        return await self._drive(models_exchange(self._policy))

    async def feature_maps(self, image: Image, *, model: str, layers: str = "*") -> dict[str, npt.NDArray[Any]]:
        """See `Client.feature_maps`."""
        return await self._drive(arrays_exchange(_feature_maps(image, model, layers), self._policy))

    async def unit(self, image: Image, layer: str, index: Sequence[int], *, model: str) -> dict[str, Any]:
        """See `Client.unit`."""
        return await self._drive(object_exchange(_unit(image, layer, index, model), self._policy, key="terms"))

    async def kernels(self, layer: str, *, model: str, effective: bool = False) -> dict[str, npt.NDArray[Any]]:
        """See `Client.kernels`."""
        return await self._drive(arrays_exchange(_kernels(layer, model, effective), self._policy))

    async def references(self, layer: str, channel: int, *, model: str) -> dict[str, Any]:
        """See `Client.references`."""
        return await self._drive(object_exchange(_references(layer, channel, model), self._policy, key="references"))

    async def compare(self, images: Sequence[Image], *, model: str, other: str | None = None) -> dict[str, Any]:
        """See `Client.compare`."""
        return await self._drive(object_exchange(_compare(images, model, other), self._policy, key="layers"))

    async def explain(
        self,
        image: Image,
        *,
        model: str,
        method: str | None = None,
        class_name: str | int | None = None,
        layer: str | None = None,
        evaluate: bool = False,
    ) -> dict[str, Any]:
        """See `Client.explain`."""
        step = _explain(image, model, method, class_name, layer, evaluate)
        return await self._drive(object_exchange(step, self._policy, key="class"))

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _drive(self, conversation: Exchange[T]) -> T:
        outcome: Outcome = None
        try:
            while True:
                step = conversation.send(outcome)
                await asyncio.sleep(step.wait_s)
                try:
                    outcome = await self._http.send(_request(self._http, step))
                except (httpx.HTTPError, httpx.InvalidURL) as error:
                    outcome = error
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # the generator's type has it
        except NoAnswer as error:
            raise error.along(self._route) from None


def _feature_maps(image: Image, model: str, layers: str) -> Step:
    return upload_step(f"/v1/models/{model}/feature-maps", [image], {"layers": layers, "format": "npz"})


def _unit(image: Image, layer: str, index: Sequence[int], model: str) -> Step:
    parameters = {"layer": layer, "index": ",".join(map(str, index))}
    return upload_step(f"/v1/models/{model}/unit", [image], parameters)


def _kernels(layer: str, model: str, effective: bool) -> Step:
    path = f"/v1/models/{model}/layers/{quote(layer, safe=':')}/kernels"
    return Step(method="GET", path=path, parameters=as_texts({"format": "npz", "effective": effective}))


def _references(layer: str, channel: int, model: str) -> Step:
    return Step(method="GET", path=f"/v1/models/{model}/layers/{quote(layer)}/channels/{channel}/references")


def _compare(images: Sequence[Image], model: str, other: str | None) -> Step:
    return upload_step(f"/v1/models/{model}/compare", images, {"with": other})


def _explain(
    image: Image, model: str, method: str | None, class_name: str | int | None, layer: str | None, evaluate: bool
) -> Step:
    parameters = {"method": method, "class": class_name, "layer": layer, "evaluate": evaluate}
    return upload_step(f"/v1/models/{model}/explain", [image], parameters)


def _headers(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _request(http: httpx.Client | httpx.AsyncClient, step: Step) -> httpx.Request:
    return http.build_request(step.method, step.path, params=step.parameters, files=step.files or None)
