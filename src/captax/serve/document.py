"""The OpenAPI document, with the bodies that the handlers read by themselves."""

import copy
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from captax.serve import schemas
from captax.serve.settings import Settings

# A picture of one pixel, for examples that work.
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)
_REFUSED = ("404", "408", "413", "415", "422", "429", "503")
_WORK: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "/v1/caption": (
        schemas.CaptionRequest,
        {"images": [PIXEL], "num_beams": 3, "num_return_sequences": 3},
    ),
    "/v1/explain": (
        schemas.ExplainRequest,
        {"images": [PIXEL], "caption": "a dog runs"},
    ),
    "/v1/score": (
        schemas.ScoreRequest,
        {"images": [PIXEL], "captions": ["a dog runs", "a cat sleeps"]},
    ),
    "/v1/classify": (
        schemas.ClassifyRequest,
        {"images": [PIXEL], "top": 3},
    ),
}
_MEANINGS = {
    "400": "The request is not valid HTTP, or its body has too many chunks.",
    "401": "The API key is missing or wrong.",
    "403": "The request comes from a page of another site, which was not allowed.",
    "404": "The model of this server cannot do this.",
    "408": "The body arrives too slowly.",
    "413": "The body is too large, or has too many pictures, captions or values.",
    "415": "The body is neither JSON nor a form, or it is encoded, as by gzip.",
    "421": "The request calls the server by a name that is not one of its own.",
    "422": "The request is not valid, or none of its pictures can be read.",
    "429": "Too many pictures are waiting; Retry-After says when to ask again.",
    "431": "The head of the request is too large, or has too many lines.",
    "503": "The server is starting or shutting down.",
}
_REF = "#/components/schemas/{model}"


def describe(app: FastAPI, settings: Settings) -> None:
    """Make `app.openapi()`, and so /openapi.json, describe the whole API."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title,
                version=app.version,
                description=_ABOUT,
                routes=app.routes,
            )
            _add_bodies(made)
            _add_errors(made, settings)
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


_ABOUT = (
    "This server captions pictures, shows where the model looked for each word, scores captions "
    "and labels pictures. Every error has the body `{error: {type, message, request_id}}`."
)


def _add_bodies(made: dict[str, Any]) -> None:
    components = made["components"]["schemas"]
    for path, (schema, example) in _WORK.items():
        json_schema = schema.model_json_schema(ref_template=_REF)
        components |= json_schema.pop("$defs", {})
        components[schema.__name__] = json_schema
        form = copy.deepcopy(json_schema)
        form["properties"]["images"] |= {
            "items": {"type": "string", "format": "binary"},
            "description": "Pictures, as files.",
        }
        made["paths"][path]["post"]["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": _REF.format(model=schema.__name__)},
                    "example": example,
                },
                "multipart/form-data": {"schema": form},
            },
        }


def _add_errors(made: dict[str, Any], settings: Settings) -> None:
    parts = schemas.ErrorBody.model_json_schema(ref_template=_REF)
    made["components"]["schemas"] |= parts.pop("$defs", {}) | {"ErrorBody": parts}
    content = {"application/json": {"schema": {"$ref": _REF.format(model="ErrorBody")}}}
    guarded = settings.api_key is not None
    for path, operations in made["paths"].items():
        for operation in operations.values():
            codes = ["400", "403", "413", "421", "431", *(_REFUSED if path in _WORK else ())]
            if guarded and (path.startswith("/v1/") or path == "/metrics"):
                codes.append("401")
                operation["security"] = [{"key": []}]
            for code in codes:
                operation["responses"][code] = {"description": _MEANINGS[code], "content": content}
            if path in ("/health", "/health/ready"):
                operation["responses"]["503"] = {
                    **operation["responses"]["200"],
                    "description": _MEANINGS["503"],
                }
    if guarded:
        made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
