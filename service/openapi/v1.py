"""What the OpenAPI document says of the routes under /v1 and of /predict."""

from models.images.decode import FORMATS
from models.images.errors import EmptyImage, ImageTooLarge, ImageUndecodable, NotAnImage, UnsupportedMode
from service.errors import (
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
from service.openapi.schema import BINARY, NUMBER, TEXT, Json, array, as_json, digits, one_of, record, ref
from service.serving.predictions import DEFAULT_TOP_K
from service.settings import Settings
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
