"""GET /v1/models and what is known of each: versions, labels, the graph."""

from dataclasses import asdict
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.catalog import Catalog, ServedModel


class ModelRoutes:
    """Answers from the manifests; nothing is computed."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def models(self, request: Request) -> Response:
        """Everything that is served, and what could not be."""
        failures = [{"artifact": path, "reason": reason} for path, reason in self._catalog.failures.items()]
        return _json({"models": [_entry(model) for model in self._catalog.models()], "failed": failures})

    async def model(self, request: Request) -> Response:
        """One model: the newest version, or the one asked for."""
        found = self._find(request)
        same = [other for other in self._catalog.models() if other.manifest.name == found.manifest.name]
        return _json({**_entry(found), "versions": [other.manifest.version for other in same]})

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

    def _find(self, request: Request) -> ServedModel:
        return self._catalog.find(request.path_params["model"])


def _entry(model: ServedModel) -> dict[str, Any]:
    manifest = model.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "network": manifest.model,
        "classes": len(manifest.classes),
        **manifest.input.to_json(),
        "file": model.engine.file,
        "engine": model.engine.name,
        "device": model.engine.device,
        "inspectable": model.taps is not None,
        "metrics": manifest.metrics,
        "dataset": manifest.dataset.get("name"),
        "golden_difference": model.golden_difference,
    }


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
