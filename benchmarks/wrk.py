"""Load by wrk: the same image posted repeatedly on connections that are kept busy."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_BOUNDARY = "----one-image"
_SCRIPT = """
local file = io.open("{body}", "rb")
wrk.method, wrk.body = "POST", file:read("*a")
wrk.headers["Content-Type"] = "{content_type}"
done = function(summary, latency)
    local bad = summary.errors.status + summary.errors.connect + summary.errors.read
        + summary.errors.write + summary.errors.timeout
    io.write(string.format("RESULT %f %f %f %d\\n", summary.requests / summary.duration * 1e6,
        latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, bad))
end
"""


@dataclass(frozen=True)
class Load:
    """Results of wrk: requests per second, latencies in milliseconds, and failed requests."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int


def load(url: str, image: Path, *, form: str, connections: int, seconds: int) -> Load:
    """Posts `image` for `seconds` after 2 s of warm-up; as the form field `form`, or as the body if that is empty."""
    kind = "image/png" if image.suffix == ".png" else "image/jpeg"
    content, content_type = image.read_bytes(), kind
    if form:
        head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{form}"; filename="{image.name}"\r\n'
        content = f"{head}Content-Type: {kind}\r\n\r\n".encode() + content + f"\r\n--{_BOUNDARY}--\r\n".encode()
        content_type = f"multipart/form-data; boundary={_BOUNDARY}"
    with tempfile.TemporaryDirectory() as folder:
        body, script = Path(folder) / "body", Path(folder) / "post.lua"
        body.write_bytes(content)
        script.write_text(_SCRIPT.format(body=body, content_type=content_type))
        words = ["wrk", "-t1", f"-c{connections}", "--timeout", "30s", "-s", str(script), url]
        subprocess.run([*words, "-d2s"], check=True, capture_output=True)
        done = subprocess.run([*words, f"-d{seconds}s"], check=True, capture_output=True, text=True)
    found = re.search(r"RESULT (\S+) (\S+) (\S+) (\S+)", done.stdout)
    assert found, done.stdout
    rate, p50, p99, errors = map(float, found.groups())
    return Load(rate, p50, p99, int(errors))
