"""How fast the page is in Debian's chromium: first maps, live drawing, frames while scrolling and hovering, memory.

    python -m benchmarks.page artifacts/lenet-digits runs/lenet-digits/example.png

Browser and server share the cores. A larger network with random weights and as many layers as are common follows, of
which only the frames are measured.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import cyclopts
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.table import Table

from benchmarks.gpu.networks import artifact as export_random
from benchmarks.gpu.networks import checkpoint
from benchmarks.servers import PORT, running, servers
from export.artifact.directory import newest_version

if TYPE_CHECKING:
    from playwright.sync_api import Page

_COUNT = """by => {
    const times = window.frames_counted = [];
    const step = now => {
        times.push(now);
        window.scrollBy({top: by, behavior: "instant"});
        if (window.frames_counted === times) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
}"""
_COUNTED = "() => { const times = window.frames_counted; window.frames_counted = null; return times; }"
_SECONDS = 3.0  # of each measurement of frames


def main(
    artifact: Path,
    image: Path,
    *,
    repeats: int = 10,
    images: int = 200,
    threads: int = 0,
    network: str = "resnet50",
) -> None:
    """Prints a table: milliseconds to the prediction, to the first maps and to the map; updates and frames a second.

    Args:
        artifact: the served artifact.
        image: an image file to choose again and again.
        repeats: of the first measurement; medians are shown.
        images: for the memory.
        threads: per inference; 0 leaves them to the server.
        network: the larger one, 224x224; empty for none.
    """
    directory = newest_version(artifact).resolve()
    table = Table("measured", "value", title=directory.parent.name)
    with _page(directory, threads=threads) as page:
        times = [_choose(page, image) for _ in range(repeats)]
        for name, column in zip(
            ("prediction", "first maps", "map of the network"), zip(*times, strict=True), strict=True
        ):
            table.add_row(f"{name}, ms", f"{1000 * statistics.median(column):.0f}")
        _add_frames(table, page)
        table.add_row("predictions/s while drawing", f"{_live(page):.1f}")
        before = _memory(page)
        for _ in range(images):
            _choose(page, image)
        table.add_row(f"memory over {images} images, MB", f"{before:.1f} to {_memory(page):.1f}")
    Console().print(table)
    if not network:
        return
    table = Table("measured", "value", title=f"{network}, 224x224, random weights")
    with tempfile.TemporaryDirectory() as folder:
        directory = export_random(checkpoint(network, Path(folder)), Path(folder) / "artifacts", ("onnx",))
        with _page(directory, threads=threads) as page:
            _choose(page, image)
            _add_frames(table, page)
    Console().print(table)


@contextmanager
def _page(directory: Path, *, threads: int) -> Iterator["Page"]:
    """The page of a server that serves an artifact."""
    ours = next(server for server in servers(directory, threads=threads) if server.is_ours)
    with running(ours), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        context.add_init_script("localStorage.setItem('convscope-tour', 'done')")
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{PORT}/")
        page.wait_for_selector(".card", state="attached")
        yield page
        browser.close()


def _choose(page: "Page", image: Path) -> tuple[float, float, float]:
    """Seconds from choosing an image to the prediction, the first filled card and the map's pictures."""
    if page.is_enabled("#clear"):
        page.click("#clear")
    page.locator(".invitation").wait_for()
    began = time.perf_counter()
    page.set_input_files("#file", str(image))
    page.locator(".headline").wait_for()
    predicted = time.perf_counter()
    page.locator(".card.filled").first.wait_for(state="attached")
    filled = time.perf_counter()
    page.locator("#map .map-node canvas").nth(1).wait_for()  # the first is the image
    return predicted - began, filled - began, time.perf_counter() - began


def _add_frames(table: Table, page: "Page") -> None:
    """Scrolls the layers, all blocks open, and moves the mouse over the map, all modules unfolded."""
    if page.locator("#fold").is_visible():
        page.click("#fold")
    page.evaluate(_COUNT, 40)
    page.wait_for_timeout(1000 * _SECONDS)
    table.add_row("frames/s while scrolling", f"{_rate(page):.0f}")
    page.evaluate("scrollTo({top: 0, behavior: 'instant'})")
    unfold = page.locator("#map [data-act=all]")
    if unfold.is_visible() and "Unfold" in unfold.inner_text():
        unfold.click()
    box = page.locator(".map-scroller").bounding_box()
    assert box is not None, "the map is on the page"
    page.evaluate(_COUNT, 0)
    began, step = time.perf_counter(), 0
    while time.perf_counter() - began < _SECONDS:
        step += 1
        page.mouse.move(box["x"] + box["width"] * abs((step / 120) % 2 - 1), box["y"] + box["height"] / 2)
    nodes = page.locator(".map-node").count()
    table.add_row(f"frames/s while hovering over {nodes} nodes of the map", f"{_rate(page):.0f}")


def _rate(page: "Page") -> float:
    times = page.evaluate(_COUNTED)
    return float(1000 * (len(times) - 1) / (times[-1] - times[0]))


def _live(page: "Page", seconds: float = 3.0) -> float:
    """Answers a second while one long stroke is drawn."""
    answers: list[float] = []
    page.on("response", lambda one: answers.append(time.perf_counter()) if "classify" in one.url else None)
    page.click("#clear")
    page.evaluate("scrollTo(0, 0)")
    box = page.locator("#pad").bounding_box()
    assert box is not None, "the pad is on the page"
    began, step = time.perf_counter(), 0
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    page.mouse.down()
    while time.perf_counter() - began < seconds:
        step += 1
        x, y = 40 + 90 * abs((step / 40) % 2 - 1), 40 + 80 * abs((step / 90) % 2 - 1)
        page.mouse.move(box["x"] + x, box["y"] + y)
        page.wait_for_timeout(15)
    page.mouse.up()
    return len(answers) / seconds


def _memory(page: "Page") -> float:
    """The script's heap after a collection, in 10**6 bytes."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    size = session.send("Runtime.getHeapUsage")["usedSize"]
    session.detach()
    return float(size) / 1e6


if __name__ == "__main__":
    cyclopts.run(main)
