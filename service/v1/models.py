"""GET /v1/models and what is known of each: versions, labels, the graph."""

from dataclasses import asdict
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from export.artifact.manifest import ONNX_FILE
from service.serving.catalog import Catalog
from service.serving.served_model import ModelEntry


class ModelRoutes:
    """Answers from the manifests; nothing is computed."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def models(self, request: Request) -> Response:
        """Everything that is served, and what could not be."""
        failures = [{"artifact": path, "reason": reason} for path, reason in self._catalog.failures.items()]
        return _json({"models": [_described(entry) for entry in self._catalog.entries()], "failed": failures})

    async def model(self, request: Request) -> Response:
        """One model: the newest version, or the one asked for."""
        found = self._find(request)
        same = [other for other in self._catalog.entries() if other.manifest.name == found.manifest.name]
        return _json({**_described(found), "versions": [other.manifest.version for other in same]})

    async def labels(self, request: Request) -> Response:
        """Class names by index."""
        return _json({"labels": self._find(request).manifest.classes})

    async def graph(self, request: Request) -> Response:
        """The node table: every layer with its shape, parents, parameters and receptive field."""
        manifest = self._find(request).manifest
        return _json(
            {
                "model": manifest.name,
                "version": manifest.version,
                "network": manifest.model,
                **manifest.input.to_json(),
                "nodes": [asdict(node) for node in manifest.nodes],
            }
        )

    def _find(self, request: Request) -> ModelEntry:
        return self._catalog.entry(request.path_params["model"])


def _described(entry: ModelEntry) -> dict[str, Any]:
    """What is known of a version; what only its engine knows is null while it is not in memory."""
    manifest, model = entry.manifest, entry.model
    return {
        "name": manifest.name,
        "version": manifest.version,
        "network": manifest.model,
        "classes": len(manifest.classes),
        **manifest.input.to_json(),
        "file": model.engine.file if model else None,
        "engine": model.engine.name if model else None,
        "device": model.engine.device if model else None,
        "max_batch_size": entry.batch_size.images if entry.batch_size else None,
        "inspectable": ONNX_FILE in manifest.files,
        "metrics": manifest.metrics,
        "dataset": manifest.dataset.get("name"),
        "golden_difference": model.golden_difference if model else None,
    }


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
