"""Creates HTTP clients, which never ask through a proxy for this machine itself."""

import httpx

from models.errors import UserError
from models.proxies import describe_proxy, proxy_for


def connect(
    url: str,
    *,
    headers: dict[str, str] | None = None,
    timeout_s: float,
    transport: httpx.BaseTransport | None = None,
    direct: bool = False,
) -> httpx.Client:
    """A client with persistent connections for requests below `url`.

    Args:
        url: URL of a server.
        headers: sent with every request.
        timeout_s: for connecting, and for each part of the answer.
        transport: replaces the network, for tests.
        direct: never ask through a proxy.

    Raises:
        UserError: the proxy for this server cannot be used.
    """
    proxy = None if transport or direct else proxy_for(url)
    if proxy is None:
        transport = transport or httpx.HTTPTransport()  # otherwise httpx would look for a proxy itself
    try:
        return httpx.Client(base_url=url, headers=headers, timeout=timeout_s, transport=transport, proxy=proxy)
    except (ImportError, ValueError) as error:
        raise _unusable(url, error) from None


def connect_async(
    url: str,
    *,
    headers: dict[str, str] | None = None,
    timeout_s: float,
    transport: httpx.AsyncBaseTransport | None = None,
    connections: int = 20,
) -> httpx.AsyncClient:
    """The same for asyncio.

    Args:
        connections: that are kept open.
    """
    limits = httpx.Limits(max_connections=max(100, connections), max_keepalive_connections=connections)
    proxy = None if transport else proxy_for(url)
    if proxy is None:
        transport = transport or httpx.AsyncHTTPTransport(limits=limits)
    try:
        return httpx.AsyncClient(
            base_url=url, headers=headers, timeout=timeout_s, transport=transport, proxy=proxy, limits=limits
        )
    except (ImportError, ValueError) as error:
        raise _unusable(url, error) from None


def _unusable(url: str, error: Exception) -> UserError:
    return UserError(f"cannot ask {url}: {str(error).splitlines()[0]}{describe_proxy(url)}")
