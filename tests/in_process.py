"""The HTTP application without a process around it, for tests of what is answered."""

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from starlette.applications import Starlette
from starlette.testclient import TestClient

from service.asgi.admission import AdmissionControl
from service.asgi.application import build_application
from service.serving.version_catalog import VersionCatalog
from service.settings import read_settings


def client_for(artifacts: Path, **settings: Any) -> TestClient:
    """A client of everything under `artifacts`, opened and checked as a worker does."""
    chosen = read_settings(artifacts=artifacts, device="cpu", **settings)
    catalog = VersionCatalog(chosen)
    catalog.open()
    http = build_application(catalog, chosen)
    return TestClient(AdmissionControl(Starlette(), chosen, http), raise_server_exceptions=False)


@cache
def digit(index: int = 0) -> np.ndarray:
    """One of scikit-learn's digits, uint8 (8, 8)."""
    return np.round(load_digits().images[index] * (255 / 16)).astype(np.uint8)


def encoded(image: np.ndarray | Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, form, **options)
    return buffer.getvalue()
