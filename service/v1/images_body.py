"""The bodies of routes that take images, for the OpenAPI document; `BodyReader.images` reads them."""

from collections.abc import Sequence

from models.images.header import FORMATS
from service.http.json_images import TEXT_FACTOR
from service.http.multipart import MULTIPART
from service.http.route import Json
from service.openapi.schema import BASE64, BINARY, ONE_PIXEL, Component, array, as_json, described, object_schema
from service.settings import Settings

_IMAGE = described("an image file in base64, URL-safe or not, or as a `data:` URL", BASE64)


def images_body(settings: Settings, *, most: int, options: Sequence[Json] = ()) -> Json:
    """The schema of a body: one image, or a form or JSON with up to `most` images.

    Args:
        options: query parameters that may be fields of the form or the JSON instead.
    """
    image = {**BINARY, "minLength": 1}
    file = BINARY if most > 1 else image  # an empty one among several has an error of its own in the answer
    form = {
        **object_schema({"images": array(file, minItems=1, maxItems=most)}),
        "additionalProperties": file,
        "minProperties": 1,
    }
    fields = {option["name"]: described(option["description"], option["schema"]) for option in options}
    one = object_schema(fields, image=_IMAGE)
    several = object_schema(fields, images=array(_IMAGE, minItems=1, maxItems=most))
    kind = "WithOptions" if options else "Body"
    one, several = (
        Component(f"{name}{kind}", {**schema, "additionalProperties": False})
        for name, schema in (("Image", one), ("Images", several))
    )
    schema = {"oneOf": [one, several]} if most > 1 else one
    return {
        "required": True,
        "description": f"The bytes of one image, under any media type; or a form with up to {most} files, whose field "
        "names do not matter; or JSON with base64, which may be `data:` URLs. "
        f"{', '.join(FORMATS)}, up to {settings.image_limit_pixels} pixels each; up to "
        f"{settings.body_limit_bytes} bytes together, and of JSON {settings.json_limit_bytes * TEXT_FACTOR}.",
        "content": {
            "application/octet-stream": {"schema": image},
            MULTIPART: {"schema": form},
            **as_json(schema, example={"image": ONE_PIXEL}),
        },
    }
