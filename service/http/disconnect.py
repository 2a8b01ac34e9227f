"""Cancels work for clients that disconnect."""

import asyncio
from typing import TypeVar

from starlette.types import Receive

T = TypeVar("T")


class ClientDisconnect(Exception):
    """The client disconnected before its answer was ready, or before its body was complete."""


async def cancel_on_disconnect(work: "asyncio.Future[T]", receive: Receive) -> T:
    """The result of `work`, which is cancelled if the client disconnects or the caller is cancelled first.

    Args:
        receive: of a request whose body has been read completely.

    Raises:
        ClientDisconnect: the client disconnected.
    """
    listening = asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait((work, listening), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        work.cancel()
        listening.cancel()


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
