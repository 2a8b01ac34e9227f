"""How fast the page is in Debian's chromium: first maps, live drawing, frames while scrolling, and its memory.

    python -m benchmarks.page artifacts/lenet-digits runs/lenet-digits/example.png

Browser and server share the cores.
"""

import shutil
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cyclopts
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.table import Table

from benchmarks.servers import PORT, running, servers
from export.artifact.directory import newest_version

if TYPE_CHECKING:
    from playwright.sync_api import Page

_FRAMES = """seconds => new Promise(resolve => {
    const [began, times] = [performance.now(), []];
    const step = now => {
        times.push(now);
        window.scrollBy({top: 40, behavior: "instant"});
        if (now - began < 1000 * seconds) requestAnimationFrame(step); else resolve(times);
    };
    requestAnimationFrame(step);
})"""


def main(artifact: Path, image: Path, *, repeats: int = 10, images: int = 200, threads: int = 0) -> None:
    """Prints a table: milliseconds to the prediction, to the first maps and to the map; updates and frames a second.

    Args:
        artifact: the served artifact.
        image: an image file to choose again and again.
        repeats: of the first measurement; medians are shown.
        images: for the memory.
        threads: per inference; 0 leaves them to the server.
    """
    directory = newest_version(artifact).resolve()
    ours = next(server for server in servers(directory, threads=threads) if server.is_ours)
    table = Table("measured", "value", title=directory.parent.name)
    with running(ours), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        context.add_init_script("localStorage.setItem('convscope-tour', 'done')")
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{PORT}/")
        page.wait_for_selector(".card", state="attached")
        times = [_choose(page, image) for _ in range(repeats)]
        for name, column in zip(
            ("prediction", "first maps", "map of the network"), zip(*times, strict=True), strict=True
        ):
            table.add_row(f"{name}, ms", f"{1000 * statistics.median(column):.0f}")
        table.add_row("frames/s while scrolling", f"{_frames(page):.0f}")
        table.add_row("predictions/s while drawing", f"{_live(page):.1f}")
        before = _memory(page)
        for _ in range(images):
            _choose(page, image)
        table.add_row(f"memory over {images} images, MB", f"{before:.1f} to {_memory(page):.1f}")
        browser.close()
    Console().print(table)


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


def _frames(page: "Page") -> float:
    times = page.evaluate(_FRAMES, 3)
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
