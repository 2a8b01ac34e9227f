"""Results of classification, identical from an artifact in this process and from a server."""

from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Prediction:
    """A class and its probability, in [0, 1]."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class ImageFailure:
    """The reason that an image was not classified; `code` is machine-readable."""

    code: str
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Result:
    """The most probable classes of one image, or its error; `notes` say what is suspicious about it."""

    predictions: tuple[Prediction, ...] = ()
    error: ImageFailure | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"error: {self.error}"
            if self.error
            else ", ".join(f"{p.label} {p.probability:.1%}" for p in self.predictions)
        )

    def _repr_html_(self) -> str:
        """A bar chart for notebooks."""
        if self.error:
            return f"<p><b>{escape(self.error.code)}</b>: {escape(self.error.message)}</p>"
        rows = "".join(
            f"<tr><td>{escape(p.label)}</td><td style='text-align:right'>{p.probability:.1%}</td>"
            f"<td style='text-align:left'><div style='background:#4878a8;height:0.8em;"
            f"width:{12 * p.probability:.2f}em'></div></td></tr>"
            for p in self.predictions
        )
        return f"<table>{rows}</table>"
