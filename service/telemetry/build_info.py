"""The versions of convscope and of its runtime."""

import platform
import subprocess
from functools import cache
from pathlib import Path

import service
from export.engines.machine import installed_version

_CHECKOUT = Path(service.__file__).parent.parent


@cache
def build_info() -> dict[str, str]:
    """Versions by name; empty if unknown. May run git, so do not call it on the event loop."""
    return {
        "version": installed_version("convscope"),
        "revision": _revision(),
        "python": platform.python_version(),
        "onnxruntime": installed_version("onnxruntime-gpu") or installed_version("onnxruntime"),
    }


def _revision() -> str:
    if not (_CHECKOUT / ".git").exists():  # git would use any enclosing repository
        return ""
    words = ["git", "-C", str(_CHECKOUT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
