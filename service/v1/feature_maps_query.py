"""The query of POST /v1/models/{m}/feature-maps: what it wants to see, and in which form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.errors import UnknownParameter
from service.http.requests import choice, number, single
from service.http.route import query_parameter
from service.inspection.channels import RANKS, SCALES, Scale, Selection, parse_channels
from service.inspection.chosen_channels import MAX_CONTRIBUTIONS
from service.openapi.schema import TEXT, array, integer_text, model_parameter, one_of

CHANNELS = "^[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*$"
FORMATS, VALUES = ("json", "npz", "png"), ("numbers", "tiles", "uint8")  # the first is the default
STATISTICS = ("false", "true")
PARAMETERS = (
    model_parameter("model"),
    query_parameter(
        "layers",
        "names or globs (`conv*`), also several with commas between them; all layers if left out",
        array(TEXT),
    ),
    query_parameter(
        "format",
        "`json`, `npz` for numpy, or `png` for a sheet of pictures",
        {**one_of(*FORMATS), "default": FORMATS[0]},
    ),
    query_parameter(
        "values",
        "numbers; `tiles`, in JSON, a picture of every layer's channels; or `uint8`, a byte for each number",
        {**one_of(*VALUES), "default": VALUES[0]},
    ),
    query_parameter(
        "scale",
        "what becomes black and white, or 0 and 255: the smallest and largest number of each `layer`, of each "
        "`channel`, of all layers together (`global`), or 0 and 1 (`none`)",
        {**one_of(*SCALES), "default": SCALES[0]},
    ),
    query_parameter(
        "channels",
        "channels of every layer by index, such as `0-7,12`; all if left out",
        {**TEXT, "pattern": CHANNELS, "maxLength": 200},
    ),
    query_parameter("top", "the number of channels of each layer that rank highest", integer_text(least=1)),
    query_parameter(
        "rank",
        "what channels are ranked by: their mean, largest number or L2 norm, or their `contribution` to a class: how "
        f"far its logit falls without the channel, for up to {MAX_CONTRIBUTIONS} channels",
        {**one_of(*RANKS), "default": RANKS[0]},
    ),
    {
        **query_parameter(
            "class", "with rank=contribution: a class by its name or its number from 0; else the predicted one", TEXT
        ),
        "example": "1",
    },
    query_parameter(
        "statistics",
        "in JSON: mean, standard deviation, share of zeros, dead channels and a histogram of each layer",
        {**one_of(*STATISTICS), "default": STATISTICS[0]},
    ),
)


@dataclass(frozen=True)
class Query:
    """What a request wants to see.

    Attributes:
        form: one of `FORMATS`.
        kind: one of `VALUES`.
        scale: see `ranges`.
        selection: of channels.
        statistics: measure each layer, in JSON.
        class_name: of the class that channels are ranked for; the predicted one if None.
    """

    form: str
    kind: str
    scale: Scale
    selection: Selection
    statistics: bool
    class_name: str | None

    @classmethod
    def of(cls, values: Mapping[str, Sequence[str]]) -> "Query":
        """Reads the query's parameters but for `layers`.

        Raises:
            UnknownParameter: a value that a parameter cannot have, or `channels` beside `top`.
        """
        channels = single(values, "channels")
        top = number(values, "top", least=1, most=999_999_999)
        rank = choice(values, "rank", RANKS)
        if channels is not None and top is not None:
            raise UnknownParameter("give either channels or top")
        if "rank" in values and top is None:
            raise UnknownParameter("rank goes with top, which is missing")
        class_name = single(values, "class")
        if class_name is not None and rank != "contribution":
            raise UnknownParameter("class goes with rank=contribution, which is missing")
        selection = Selection(None if channels is None else parse_channels(channels), top, rank)
        form, kind = choice(values, "format", FORMATS), choice(values, "values", VALUES)
        statistics = choice(values, "statistics", STATISTICS) == "true"
        return cls(form, kind, choice(values, "scale", SCALES), selection, statistics, class_name)
