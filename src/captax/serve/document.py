"""The OpenAPI document, with the bodies that the handlers read by themselves."""

import copy
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from captax.serve import ollama_api, openai_api, responses_api, schemas
from captax.serve.gate import WORK
from captax.serve.refusals import OLLAMA, OPENAI
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
_MESSAGES = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What animal is this?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        ],
    }
]
# Those that take JSON alone, in the form of others' interfaces.
_OTHERS: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "/v1/chat/completions": (openai_api.ChatRequest, {"model": "any", "messages": _MESSAGES}),
    "/v1/responses": (
        responses_api.ResponseRequest,
        {
            "model": "any",
            "input": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "What animal is this?"},
                        {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}"},
                    ],
                }
            ],
        },
    ),
    "/api/generate": (
        ollama_api.GenerateRequest,
        {"model": "any", "prompt": "What animal is this?", "images": [PIXEL], "stream": False},
    ),
    "/api/chat": (
        ollama_api.ChatRequest,
        {
            "model": "any",
            "messages": [{"role": "user", "content": "What is this?", "images": [PIXEL]}],
            "stream": False,
        },
    ),
    "/api/show": (ollama_api.ShowRequest, {"model": "built-in"}),
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
    "and labels pictures. Every error has the body `{error: {type, message, request_id}}`, except "
    "at the addresses of OpenAI's and Ollama's interfaces, where errors are theirs."
)


def _add_bodies(made: dict[str, Any]) -> None:
    components = made["components"]["schemas"]
    for path, (schema, example) in {**_WORK, **_OTHERS}.items():
        json_schema = schema.model_json_schema(ref_template=_name(path))
        defined = json_schema.pop("$defs", {})
        names = {name: _name(path).format(model=name).rpartition("/")[2] for name in defined}
        components |= {names[name]: content for name, content in defined.items()}
        reference = _name(path).format(model=schema.__name__)
        components[reference.rpartition("/")[2]] = json_schema
        content = {"schema": {"$ref": reference}, "example": example}
        made["paths"][path]["post"]["requestBody"] = {
            "required": True,
            "content": {"application/json": content},
        }
        if path in _OTHERS:
            continue
        form = copy.deepcopy(json_schema)
        form["properties"]["images"] |= {
            "items": {"type": "string", "format": "binary"},
            "description": "Pictures, as files.",
        }
        forms = made["paths"][path]["post"]["requestBody"]["content"]
        forms["multipart/form-data"] = {"schema": form}


def _name(path: str) -> str:
    """The form of references in a body's schema: others' interfaces have names of their own."""
    return _REF if path in _WORK else _REF.replace("{", f"{path.strip('/').replace('/', '-')}-{{")


def _add_errors(made: dict[str, Any], settings: Settings) -> None:
    parts = schemas.ErrorBody.model_json_schema(ref_template=_REF)
    made["components"]["schemas"] |= parts.pop("$defs", {}) | {"ErrorBody": parts}
    ours = {"$ref": _REF.format(model="ErrorBody")}
    guarded = settings.api_key is not None
    for path, operations in made["paths"].items():
        for operation in operations.values():
            work = path in _WORK or path in _OTHERS
            codes = ["400", "403", "413", "421", "431", *(_REFUSED if work else ())]
            if path.endswith("}"):
                codes.append("404")
            schema = {"type": "object"} if path.startswith((*OPENAI, *OLLAMA)) else ours
            content = {"application/json": {"schema": schema}}
            if guarded and (path.startswith(WORK) or path == "/metrics"):
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
