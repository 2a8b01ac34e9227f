"""What the OpenAPI document says of the routes under /v1 and of /predict."""

from models.images.decode import FORMATS
from models.images.errors import EmptyImage, ImageError, ImageTooLarge, ImageUndecodable, NotAnImage, UnsupportedMode
from service.errors import (
    STATUS,
    BodyEmpty,
    BodyTooLarge,
    DeadlinePassed,
    GpuLost,
    GpuMemoryFull,
    InferenceFailed,
    MalformedBody,
    ModelNotReady,
    NotInspectable,
    QueueFull,
    TooManyImages,
    TooManyValues,
    UnknownLayer,
    UnknownModel,
    UnknownParameter,
    UnknownPath,
    UnsupportedType,
    WrongShape,
)
from service.http.multipart import FORM
from service.openapi.operation import Kind, Operation
from service.openapi.schema import (
    BINARY,
    COUNT,
    FLAG,
    FROM_1,
    NUMBER,
    TEXT,
    Json,
    array,
    as_json,
    digits,
    one_of,
    or_null,
    record,
    ref,
)
from service.serving.predictions import DEFAULT_TOP_K
from service.settings import Settings
from service.telemetry.metrics import INTERNAL
from service.v1.predict import PATH as PREDICT

BAD_IMAGE: tuple[Kind, ...] = (EmptyImage, ImageTooLarge, ImageUndecodable, NotAnImage, UnsupportedMode)
OVERLOAD: tuple[Kind, ...] = (QueueFull, DeadlinePassed, ModelNotReady, GpuMemoryFull, GpuLost)
UPLOAD: tuple[Kind, ...] = (*BAD_IMAGE, *OVERLOAD, BodyEmpty, BodyTooLarge, MalformedBody, TooManyImages)
LOOKUP: tuple[Kind, ...] = (UnknownModel, UnknownPath, ModelNotReady, GpuLost)  # a slash makes it another path
NAME = "`name`, which means its newest version, or `name:version`"
MODEL: Json = {"name": "model", "in": "path", "required": True, "description": NAME, "schema": {**TEXT, "minLength": 1}}


def v1_paths(settings: Settings) -> dict[str, dict[str, Operation]]:
    """Operations by path and method, with the limits that are set."""
    one = "/v1/models/{model}"
    return {
        "/v1/classify": {"post": _classify(settings)},
        "/v1/models": {
            "get": Operation(
                summary="Every model that is served, and every artifact that is not",
                answers=as_json(
                    record(models=array(ref("Model")), failed=array(record(artifact=TEXT, reason=TEXT))),
                ),
            )
        },
        one: {"get": _about("One model and its versions", "ModelVersions")},
        f"{one}/labels": {"get": _about("The names of a model's classes, by index", "Labels")},
        f"{one}/graph": {"get": _about("Every layer of a model: shape, parents, parameters, receptive field", "Graph")},
        f"{one}/feature-maps": {"post": _feature_maps(settings)},
        PREDICT: {"post": _predict(settings)},
    }


def _about(summary: str, schema: str) -> Operation:
    return Operation(summary=summary, parameters=[MODEL], answers=as_json(ref(schema)), errors=LOOKUP)


def _classify(settings: Settings) -> Operation:
    return Operation(
        summary="Classifies images",
        description="A lone bad image gets its status. Among several it fails alone: the answer is 200 then, with an "
        "error in its place.",
        parameters=[
            _query("model", f"{NAME}; may be left out where only one model is served", {**TEXT, "minLength": 1}),
            _query("version", "of the model; the newest if left out", digits(least=1)),
            _query(
                "top_k",
                f"classes for each image, up to {settings.top_k_limit} and up to all; {DEFAULT_TOP_K} if left out, "
                "or all where there are fewer",
                digits(least=1),
            ),
        ],
        body=_images(settings, most=settings.images_per_request),
        answers=as_json(ref("Classification")),
        errors=(*UPLOAD, UnknownModel, UnknownParameter, InferenceFailed),
    )


def _feature_maps(settings: Settings) -> Operation:
    return Operation(
        summary="What every layer of the served file makes of one image",
        description=f"An answer has up to {settings.inspection_limit_values} values, and up to "
        f"{settings.inspection_limit_json_values} as numbers in JSON.",
        parameters=[
            MODEL,
            _query(
                "layers",
                "names or globs (`conv*`), also several with commas between them; all layers if left out",
                array(TEXT),
            ),
            _query(
                "format", "`json`, `npz` for numpy, or `png` for a sheet of pictures", _choice("json", "npz", "png")
            ),
            _query("values", "in JSON: numbers, or a picture of every layer's channels", _choice("numbers", "tiles")),
        ],
        body=_images(settings, most=1),
        answers={
            **as_json(ref("FeatureMaps")),
            "application/x-npz": {"schema": BINARY},
            "image/png": {"schema": BINARY},
        },
        errors=(*UPLOAD, *LOOKUP, UnknownParameter, UnknownLayer, NotInspectable, TooManyValues),
    )


def _predict(settings: Settings) -> Operation:
    pixel = {"type": "integer", "minimum": 0, "maximum": 255}
    image = array(array(array(pixel, minItems=1), minItems=1), minItems=1)
    body = record(
        {"model": {**TEXT, "description": f"{NAME}; empty where only one model is served", "default": ""}},
        images=array(image, minItems=1, maxItems=settings.images_per_request),
    )
    limit = min(settings.json_limit_bytes, settings.body_limit_bytes)
    return Operation(
        summary="Class probabilities of pixels, as BentoML's own client asks for them",
        description="Images are `[N, H, W, C]` and have the network's size and mode already.",
        body={
            "required": True,
            "description": f"up to {limit} bytes",
            "content": as_json({**body, "additionalProperties": False}),
        },
        answers=as_json(array(array(NUMBER))),
        errors=(
            *OVERLOAD,
            *(BodyTooLarge, InferenceFailed, MalformedBody, TooManyImages),
            *(UnknownModel, UnknownParameter, UnsupportedType, WrongShape),
        ),
    )


def _images(settings: Settings, *, most: int) -> Json:
    """A body that is an image, or a form with up to `most` of them."""
    image = {**BINARY, "minLength": 1}
    form = {
        **record({"images": array(image, minItems=1, maxItems=most)}),
        "additionalProperties": image,
        "minProperties": 1,
    }
    return {
        "required": True,
        "description": f"The bytes of one image, under any media type, or a form with up to {most} files; field names "
        f"do not matter. {', '.join(FORMATS)}, up to {settings.image_limit_pixels} pixels each; up to "
        f"{settings.body_limit_bytes} bytes together.",
        "content": {"image/*": {"schema": image}, FORM: {"schema": form}},
    }


def _query(name: str, description: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _choice(*values: str) -> Json:
    return {**one_of(*values), "default": values[0]}


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
        "FeatureMaps": _feature_maps_schema(),
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


def _feature_maps_schema() -> Json:
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
