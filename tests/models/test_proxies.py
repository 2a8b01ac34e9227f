import pytest

from models.proxies import describe_proxy, proxy_for

NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://example.com/x", "http://proxy:1"),
        ("https://example.com:8443", "http://user:secret@proxy:2"),
        ("http://10.0.0.5:3000", "http://proxy:1"),
        ("http://inside.example.org", None),
        ("http://127.0.0.1:3000", None),
        ("http://127.8.9.10", None),
        ("http://localhost:3000", None),
        ("http://a.localhost", None),
        ("http://[::1]:3000", None),
        ("http://0.0.0.0:3000", None),
        ("http://[", None),
        ("nonsense", None),
    ],
)
def test_loopback_goes_direct_and_other_hosts_as_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, url: str, expected: str | None
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "proxy:1")
    monkeypatch.setenv("https_proxy", "http://user:secret@proxy:2")
    monkeypatch.setenv("NO_PROXY", "example.org,other")
    assert proxy_for(url) == expected
    assert bool(describe_proxy(url)) == bool(expected)
    assert "secret" not in describe_proxy(url)


def test_one_proxy_may_be_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_for("http://example.com") is None
    monkeypatch.setenv("ALL_PROXY", "http://user:secret@proxy:3")
    assert proxy_for("http://example.com") == "http://user:secret@proxy:3"
    expected = " (asked through the proxy http://proxy:3 of the environment; NO_PROXY=example.com goes direct)"
    assert describe_proxy("http://example.com") == expected
