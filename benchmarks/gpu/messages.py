"""Whole HTTP/1.1 requests for the routes of the server, as bytes ready to send."""

import json
from collections.abc import Mapping

from models.images.decode import Pixels

_KINDS = ((b"\x89PNG", "image/png"), (b"\xff\xd8", "image/jpeg"))


def post(path: str, body: bytes = b"", *, headers: Mapping[str, str] | None = None, host: str = "127.0.0.1") -> bytes:
    """A POST request on a connection that stays open."""
    fields = {"Host": host, "Content-Length": str(len(body)), **(headers or {})}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


def classify_message(image: bytes, model: str) -> bytes:
    """One encoded image as the body of `/v1/classify`."""
    kind = next((kind for beginning, kind in _KINDS if image.startswith(beginning)), "application/octet-stream")
    return post(f"/v1/classify?model={model}&top_k=5", image, headers={"Content-Type": kind})


def feature_maps_message(image: bytes, model: str, layers: str) -> bytes:
    """One encoded image as the body of `/v1/models/{m}/feature-maps`, answered with arrays."""
    return post(f"/v1/models/{model}/feature-maps?format=npz&layers={layers}", image)


def infer_message(pixels: Pixels, model: str) -> bytes:
    """An inference request of the Open Inference Protocol with its tensor as binary data, answered with
    probabilities in the same way.

    https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md

    Args:
        pixels: uint8 (N, H, W, C), of the network's size.
        model: its name.
    """
    tensor = {
        "name": "image",
        "datatype": "UINT8",
        "shape": list(pixels.shape),
        "parameters": {"binary_data_size": pixels.nbytes},
    }
    outputs = [{"name": "probabilities", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return post(f"/v2/models/{model}/infer", head + pixels.tobytes(), headers=headers)
