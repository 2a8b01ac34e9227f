"""The schemas that the routes under /v2 share, by their names in the document."""

from service.openapi.schema import COUNT, FLAG, NUMBER, TEXT, Json, array, one_of, or_null, record, ref
from service.v2.request import INPUT
from service.v2.routes import EXTENSIONS, PLATFORMS

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
