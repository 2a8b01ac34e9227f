"""What the Python API returns: arrays and tables that show themselves in notebooks."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from PIL import Image

from models.graph.node import Node
from models.images.decode import Floats, Pixels
from service.inspection.explain.explanation import Explanation
from service.inspection.explain.overlay import draw_overlay
from service.inspection.feature_maps import FeatureMaps
from service.inspection.tiles import draw_sheet, encode_png
from service.inspection.unit_text import unit_text
from service.inspection.units import Unit

_SIDE = 224  # pixels that smaller maps are enlarged to, by a whole factor


class LayerValues(Mapping[str, Floats]):
    """Values of layers by name, and the image that they are of.

    Attributes:
        image: uint8 (H, W, C) as the network takes it.
        maps: nodes with their values, and the probabilities computed with them.
    """

    def __init__(self, image: Pixels, maps: FeatureMaps) -> None:
        self.image, self.maps = image, maps
        self._values = {node.name: value for node, value in maps.layers}

    def __getitem__(self, name: str) -> Floats:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def _repr_png_(self) -> bytes:
        """A sheet of all layers, for notebooks."""
        return encode_png(draw_sheet(self.maps.file, self.image, self.maps.layers))

    def _repr_html_(self) -> str:
        return f'<img alt="feature maps" src="data:image/png;base64,{base64.b64encode(self._repr_png_()).decode()}">'


class ExplanationView:
    """A map of one image; a notebook draws it over the image.

    Attributes:
        image: uint8 (H, W, C) as the network takes it.
        label: of the explained class.
        explanation: the map, its method and layer, and how far to trust it.
    """

    def __init__(self, image: Pixels, label: str, explanation: Explanation) -> None:
        self.image, self.label, self.explanation = image, label, explanation

    @property
    def values(self) -> Floats:
        """The signed map, float32 (H, W)."""
        return self.explanation.values

    def __repr__(self) -> str:
        found = self.explanation
        where = f" of {found.layer.name}" if found.layer else ""
        empty = ", empty" if found.empty else ""
        numbers = f"{self.values.min():.3g} to {self.values.max():.3g}"
        return f"<{found.method.title}{where} for {self.label}: {numbers}{empty}>"

    def _repr_png_(self) -> bytes:
        """The map's positive part over the image, for notebooks."""
        overlay = draw_overlay(self.image, self.explanation.strengths(self.values))
        factor = max(1, _SIDE // max(overlay.size))
        size = (factor * overlay.width, factor * overlay.height)
        return encode_png(overlay.resize(size, Image.Resampling.NEAREST))


class UnitView:
    """One number inside a network, with the arithmetic that makes it.

    Attributes:
        unit: terms, weights, bias, result and the value in the file's own run.
    """

    def __init__(self, unit: Unit) -> None:
        self.unit = unit

    @property
    def sources(self) -> tuple[str, ...]:
        """Layers that the terms come from, to walk on backwards."""
        return tuple(terms.source.value for terms in self.unit.arithmetic.terms)

    def __str__(self) -> str:
        return unit_text(self.unit)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


class Summary:
    """A node table; prints as text, and as a table in a notebook.

    Attributes:
        title: the artifact and its network.
        nodes: in the order of computation.
    """

    _COLUMNS = ("node", "op", "shape", "parameters", "MACs", "receptive field")

    def __init__(self, title: str, nodes: Sequence[Node]) -> None:
        self.title, self.nodes = title, tuple(nodes)

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                node.name,
                node.op,
                "x".join(map(str, node.shape)),
                f"{node.parameters:,}" if node.parameters else "",
                f"{node.macs:,}" if node.macs else "",
                "x".join(map(str, node.receptive_field)) if node.receptive_field else "",
            )
            for node in self.nodes
        ]

    def __str__(self) -> str:
        rows = [self._COLUMNS, *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        parameters, macs = sum(node.parameters for node in self.nodes), sum(node.macs for node in self.nodes)
        return "\n".join([self.title, *lines, f"{parameters:,} parameters, {macs:,} multiply-accumulates an image"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in self._COLUMNS)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self._rows())
        return f"<table><caption>{escape(self.title)}</caption><tr>{head}</tr>{body}</table>"
