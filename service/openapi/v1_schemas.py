"""The schemas that the routes under /v1 share, by their names in the document."""

from models.images.errors import ImageError
from service.errors import STATUS
from service.openapi.schema import COUNT, FLAG, FROM_1, NUMBER, TEXT, Json, array, one_of, or_null, record, ref
from service.telemetry.metrics import INTERNAL

_WHOLE: Json = {"type": "integer"}
_PAIR = array(_WHOLE, minItems=2, maxItems=2)
_PROBABILITY: Json = {"type": "number", "minimum": 0, "maximum": 1.0001}  # a softmax of float32 may pass 1


def v1_schemas() -> dict[str, Json]:
    """Schemas by name."""
    return {
        "Error": record(error=record(code=one_of(*_codes()), message=TEXT)),
        "Prediction": record(label=TEXT, index=COUNT, probability=_PROBABILITY),
        "Classification": record(
            model=TEXT,
            version=FROM_1,
            results={
                "description": "one for each image, in their order",
                **array({"oneOf": [ref("Predicted"), ref("Refused")]}, minItems=1),
            },
        ),
        "Predicted": record(predictions=_most_probable_first()),
        "Refused": record(error=record(code=one_of(*_codes(ImageError)), message=TEXT)),
        "Model": record(**_model()),
        "ModelVersions": record(**_model(), versions=array(FROM_1, minItems=1)),
        "Labels": record(labels=array(TEXT, minItems=1)),
        "Input": record(mode=one_of("L", "RGB"), height=FROM_1, width=FROM_1),
        "Preprocess": _preprocess(),
        "Graph": record(
            model=TEXT,
            version=FROM_1,
            network=TEXT,
            input=ref("Input"),
            preprocess=ref("Preprocess"),
            nodes=array(ref("Node")),
        ),
        "Node": _node(),
        "FeatureMaps": _feature_maps(),
        "Layer": _layer(),
        "Tiles": _tiles(),
    }


def _codes(kind: type[Exception] = Exception) -> list[str]:
    codes = {one.code for one in STATUS if issubclass(one, kind)}  # type: ignore[attr-defined]  # all of them have one
    return sorted(codes | ({INTERNAL} if kind is Exception else set()))


def _most_probable_first() -> Json:
    return {"description": "the most probable first", **array(ref("Prediction"), minItems=1)}


def _model() -> dict[str, Json]:
    return {
        "name": TEXT,
        "version": FROM_1,
        "network": TEXT,
        "classes": {"description": "how many", **FROM_1},
        "input": ref("Input"),
        "preprocess": ref("Preprocess"),
        "file": {"description": "the file that serves; null while the model is not in memory", **or_null(TEXT)},
        "engine": or_null(one_of("onnxruntime", "torchscript")),
        "device": or_null(one_of("cpu", "cuda")),
        "max_batch_size": {"description": "images run together at most, once measured", **or_null(FROM_1)},
        "inspectable": FLAG,
        "metrics": {"description": "of the training, by split", "type": "object"},
        "dataset": or_null(TEXT),
        "golden_difference": {"description": "largest difference to the golden probabilities", **or_null(NUMBER)},
    }


def _preprocess() -> Json:
    return record(
        resize={"description": "height and width, or the shorter side", "oneOf": [_PAIR, FROM_1]},
        crop=or_null(_PAIR),
        interpolation=TEXT,
        antialias=FLAG,
        background={"description": "what shows through transparent pixels, by channel", **array(COUNT)},
        mean=array(NUMBER),
        std=array(NUMBER),
    )


def _node() -> Json:
    """`models.graph.node.Node`."""
    return record(
        name={"description": "as torchvision's get_graph_node_names has it", **TEXT},
        op=TEXT,
        parents=array(TEXT),
        shape={"description": "of one image's value", **array(COUNT)},
        value={"description": "its name in the ONNX file; empty where it is not in there", **TEXT},
        kernel=or_null(_PAIR),
        stride=or_null(_PAIR),
        padding=or_null(_PAIR),
        dilation=or_null(_PAIR),
        parameters=COUNT,
        macs={"description": "multiply-accumulate operations for one image", **COUNT},
        receptive_field={"description": "in input pixels; null where it is all or cannot be told", **or_null(_PAIR)},
        jump={"description": "input pixels between neighbouring positions; null likewise", **or_null(_PAIR)},
    )


def _feature_maps() -> Json:
    served = record(file=TEXT, maximum_difference={"description": "of its probabilities to these", **NUMBER})
    return record(
        {"image": {"description": "as the network sees it; with values=tiles", **ref("Tiles")}},
        model=TEXT,
        version=FROM_1,
        file={"description": "the file that was run", **TEXT},
        served=served,
        predictions=_most_probable_first(),
        layers=array(ref("Layer")),
    )


def _layer() -> Json:
    return record(
        {
            "values": {
                "description": "nested as `shape` says; with tiles, only where each map is one number",
                **array({}),
            },
            "tiles": {"description": "with values=tiles", **ref("Tiles")},
        },
        name=TEXT,
        op=TEXT,
        shape=array(COUNT),
        minimum=NUMBER,
        maximum=NUMBER,
        mean=NUMBER,
    )


def _tiles() -> Json:
    return record(
        png={
            "description": "the channels in a grid, black at the minimum",
            "contentMediaType": "image/png",
            "contentEncoding": "base64",
            **TEXT,
        },
        columns=FROM_1,
        rows=FROM_1,
        tile_height=FROM_1,
        tile_width=FROM_1,
    )
