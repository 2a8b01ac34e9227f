"""Debian's chromium, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def absent(reason: str) -> None:
    """Skips a test for want of something; where it must not be skipped (CI), fails it."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@contextmanager
def running_browser() -> Iterator["Browser"]:
    """A browser without windows; the test is skipped where there is none."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        absent("playwright is not installed; `pip install playwright`")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        absent("there is no chromium on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()
