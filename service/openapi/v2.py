"""What the OpenAPI document says of the routes under /v2; docs/http-v2.md says it for people."""

from collections.abc import Sequence

from service.errors import (
    BodyEmpty,
    BodyTooLarge,
    DeadlinePassed,
    GpuLost,
    GpuMemoryFull,
    InferenceFailed,
    LoadFailed,
    LoadingOff,
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
from service.openapi.operation import Kind, Operation
from service.openapi.schema import (
    BINARY,
    COUNT,
    FLAG,
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
from service.openapi.v1 import BAD_IMAGE, MODEL
from service.settings import Settings
from service.v2.infer import HEADER
from service.v2.request import INPUT
from service.v2.routes import EXTENSIONS, PLATFORMS, SMALL_LIMIT_BYTES

_BINARY = "application/octet-stream"
_NAMED: Json = {**MODEL, "name": "name"}
_VERSION: Json = {"name": "version", "in": "path", "required": True, "schema": digits(least=1)}
_VERSIONED = "/v2/models/{name}/versions/{version}"
_EXAMPLE: Json = {
    "inputs": [
        {
            "name": INPUT,
            "datatype": "BYTES",
            "shape": [1],
            "parameters": {"content_type": "base64"},
            # A PNG of one pixel, which every model takes.
            "data": ["iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="],
        }
    ]
}


def v2_paths(settings: Settings) -> dict[str, dict[str, Operation]]:
    """Operations by path and method, with the limits that are set."""
    paths = {
        "/v2": {"get": Operation(summary="The server and its extensions", answers=as_json(ref("V2Server")))},
        "/v2/health/live": {"get": _health("Whether the server runs", "live")},
        "/v2/health/ready": {"get": _health("Whether every artifact is served", "ready", ModelNotReady)},
        "/v2/models/stats": {
            "get": Operation(summary="Statistics of everything", answers=as_json(ref("V2Statistics"))),
        },
        "/v2/repository/index": {"post": _index()},
        **{f"/v2/repository/models/{{name}}/{verb}": {"post": _load(verb, settings)} for verb in ("load", "unload")},
    }
    return paths | _of_model("/v2/models/{name}", settings) | _of_model(_VERSIONED, settings)


def _of_model(path: str, settings: Settings) -> dict[str, dict[str, Operation]]:
    parameters, errors = [_NAMED], [UnknownModel, UnknownPath, ModelNotReady, GpuLost]
    if path == _VERSIONED:
        parameters.append(_VERSION)
        errors.append(UnknownParameter)  # another version than in `name:version`

    def about(summary: str, schema: str) -> Operation:
        return Operation(summary=summary, parameters=parameters, answers=as_json(ref(schema)), errors=errors)

    return {
        path: {"get": about("What a model takes and gives", "V2Model")},
        f"{path}/ready": {"get": about("Whether a model is served", "V2ModelReady")},
        f"{path}/stats": {"get": about("What a model has done", "V2Statistics")},
        f"{path}/infer": {"post": _infer(settings, parameters, errors)},
    }


def _health(summary: str, word: str, *errors: type[ModelNotReady]) -> Operation:
    return Operation(summary=summary, answers=as_json(record(**{word: {"const": True}})), errors=errors, public=True)


def _infer(settings: Settings, parameters: Sequence[Json], errors: Sequence[Kind]) -> Operation:
    header = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "description": "how many bytes of the body are JSON; all, if left out",
        "schema": digits(least=0),
    }
    tensor = {"description": "JSON and the tensor after it; or, with a header of 0, the pixels of one image", **BINARY}
    image = {"description": "one image file, with a header of 0", **BINARY}
    return Operation(
        summary="Inference: probabilities, logits, and any layer by its name",
        parameters=[*parameters, header],
        body={
            "required": True,
            "description": f"Up to {settings.body_limit_bytes} bytes, of which up to {settings.json_limit_bytes} are "
            "JSON; may come with `Content-Encoding: gzip` or `deflate`, and the limits are those of what is inside. "
            f"Up to {settings.images_per_request} images.",
            "content": {
                **as_json(ref("V2Request"), example=_EXAMPLE),
                _BINARY: {"schema": tensor},
                "image/*": {"schema": image},
            },
        },
        answers={**as_json(ref("V2Answer")), _BINARY: {"schema": BINARY}},
        headers={
            HEADER: {"description": "how many bytes of a binary answer are JSON", "schema": {"type": "integer"}},
        },
        errors=(
            *errors,
            *BAD_IMAGE,
            *(BodyEmpty, BodyTooLarge, DeadlinePassed, GpuMemoryFull, InferenceFailed, MalformedBody, NotInspectable),
            *(QueueFull, TooManyImages, TooManyValues, UnknownLayer, UnsupportedType, WrongShape),
        ),
    )


def _index() -> Operation:
    ready = record({"ready": {"description": "leaves out what is not served", **FLAG}})
    return Operation(
        summary="Every artifact that was found, and why some are not served",
        body={"description": f"up to {SMALL_LIMIT_BYTES} bytes", "content": as_json(ready)},
        answers=as_json(array(ref("V2IndexEntry"))),
        errors=(BodyTooLarge, MalformedBody, QueueFull),
    )


def _load(verb: str, settings: Settings) -> Operation:
    if not settings.allow_loading:
        return Operation(
            summary=f"Refused, as CONVSCOPE_ALLOW_LOADING is off: no request can {verb} anything",
            parameters=[_NAMED],
            answers={},
            errors=(LoadingOff, UnknownPath),
        )
    parameters = {"parameters": record({"unload_dependents": FLAG} if verb == "unload" else {})}
    own = (LoadFailed,) if verb == "load" else (ModelNotReady,)
    return Operation(
        summary=f"{verb.capitalize()}s a model, in every worker by the time it is answered",
        parameters=[_NAMED],
        body={"description": f"up to {SMALL_LIMIT_BYTES} bytes", "content": as_json(record(parameters))},
        answers=as_json(record({})),
        errors=(
            *own,
            *(BodyTooLarge, DeadlinePassed, MalformedBody, QueueFull),
            UnknownModel,
            UnknownParameter,
            UnknownPath,
        ),
    )


_INFINITE: Json = {"description": "-1 is any number", "type": "integer", "minimum": -1}
_PARAMETERS: Json = or_null({"type": "object"})


def v2_schemas() -> dict[str, Json]:
    """Schemas by name."""
    return {
        "V2Error": record(error=TEXT),
        "V2Server": record(name=TEXT, version=TEXT, extensions=array(one_of(*EXTENSIONS))),
        "V2Model": _model(),
        "V2ModelReady": record(name=TEXT, ready={"const": True}),
        "V2IndexEntry": record(name=TEXT, version=TEXT, state=one_of("READY", "UNAVAILABLE"), reason=TEXT),
        **_statistics(),
        **_request(),
        **_answer(),
    }


def _model() -> Json:
    kinds = record(or_datatype=TEXT, or_shape=TEXT, or_content=TEXT)
    tensor = {"name": TEXT, "datatype": TEXT, "shape": array(_INFINITE)}
    return record(
        name=TEXT,
        versions=array(TEXT, minItems=1),
        platform=one_of(*PLATFORMS.values()),
        inputs=array(record(**tensor, parameters=kinds), minItems=1, maxItems=1),
        outputs=array(record(**tensor), minItems=2, maxItems=2),
        parameters=record(layers={"description": "the names of all layers, with commas between them", **TEXT}),
    )


def _statistics() -> dict[str, Json]:
    duration, spent = ref("V2Duration"), ("compute_input", "compute_infer", "compute_output")
    kinds = ("success", "fail", "queue", *spent, "cache_hit", "cache_miss")
    batch = record(batch_size=COUNT, **dict.fromkeys(spent, duration))
    one = record(
        name=TEXT,
        version=TEXT,
        last_inference={"description": "milliseconds since 1970", **COUNT},
        inference_count={"description": "images", **COUNT},
        execution_count={"description": "batches", **COUNT},
        inference_stats=record(**dict.fromkeys(kinds, duration)),
        batch_stats=array(batch),
    )
    return {"V2Statistics": record(model_stats=array(one)), "V2Duration": record(count=COUNT, ns=COUNT)}


def _request() -> dict[str, Json]:
    binary = {"description": "the length of the tensor after the JSON, in place of `data`", "type": "integer"}
    tensor = record(
        {
            "data": {"description": "pixels, flat or nested, or image files in base64", **array({})},
            "parameters": {
                **_PARAMETERS,
                "properties": {
                    "binary_data_size": binary,
                    "content_type": {"description": "`base64` for image files in JSON", **TEXT},
                },
            },
        },
        name={"const": INPUT},
        datatype={"description": "UINT8 is pixels, BYTES is image files", **one_of("UINT8", "BYTES")},
        shape={"description": "[N, H, W, C] of UINT8, [N] or [N, 1] of BYTES", **array(COUNT, minItems=1, maxItems=4)},
    )
    wanted = record(
        {
            "parameters": {
                **_PARAMETERS,
                "properties": {
                    "binary_data": or_null(FLAG),
                    "classification": {
                        "description": "so many of the highest, as `value:index:label`; bounded like `top_k`",
                        **or_null(COUNT),
                    },
                },
            }
        },
        name={"description": "probabilities, logits, or a layer", **TEXT, "maxLength": 256},
    )
    whole = record(
        {
            "id": {"description": "is given back", **or_null(TEXT)},
            "outputs": {"description": "probabilities and logits, if left out", **or_null(array(ref("V2Wanted")))},
            "parameters": {**_PARAMETERS, "properties": {"binary_data_output": or_null(FLAG)}},
        },
        inputs=array(ref("V2Tensor"), minItems=1, maxItems=1),
    )
    return {"V2Request": whole, "V2Tensor": tensor, "V2Wanted": wanted}


def _answer() -> dict[str, Json]:
    output = record(
        {
            "data": {"description": "flat, row by row", **array({"type": ["number", "string"]})},
            "parameters": {"description": "in place of `data`", **record(binary_data_size=COUNT)},
        },
        name=TEXT,
        datatype=one_of("FP32", "BYTES"),
        shape=array(COUNT),
    )
    layers = record(
        layers_file={"description": "the file that gave the layers", **TEXT},
        maximum_difference={"description": "of its probabilities to those of the file that serves", **NUMBER},
    )
    return {
        "V2Answer": record(
            {"id": TEXT, "parameters": {"description": "where layers were asked for", **layers}},
            model_name=TEXT,
            model_version=TEXT,
            outputs=array(ref("V2Output")),
        ),
        "V2Output": output,
    }
