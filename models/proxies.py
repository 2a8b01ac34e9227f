"""Proxies that the environment names (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY); never for this machine itself."""

import ipaddress
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def proxy_for(url: str) -> str | None:
    """URL of the proxy for requests to `url`; None for loopback addresses, hosts in NO_PROXY, and without a proxy."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:  # the request will fail with a better message
        return None
    if not host or _is_loopback(host) or proxy_bypass(host):
        return None
    proxies = getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    return found if not found or "://" in found else f"http://{found}"


def describe_proxy(url: str) -> str:
    """A sentence's part for errors, that names the proxy for `url` without its password; empty without one."""
    if not (proxy := proxy_for(url)):
        return ""
    scheme, _, address = proxy.partition("://")
    shown = f"{scheme}://{address.rpartition('@')[2]}"
    return f" (asked through the proxy {shown} of the environment; NO_PROXY={urlsplit(url).hostname} goes direct)"


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
