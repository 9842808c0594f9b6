"""The HTTP API: what each address accepts and answers."""

import asyncio
import importlib.metadata
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from captax.images import Prepared
from captax.pipelines.captioner import Captioner
from captax.serve import ollama_api, openai_api, responses_api, schemas
from captax.serve.asking import Desk, unless_gone
from captax.serve.document import describe
from captax.serve.gate import Gate
from captax.serve.origins import OtherPages
from captax.serve.pictures import Sent, Unreadable, read_request
from captax.serve.refusals import Refused, error_record, repeated
from captax.serve.service import Service
from captax.serve.settings import Settings
from captax.serve.work import Model, Work

PAGE = Path(__file__).parent / "page"
Asked = TypeVar("Asked", bound=BaseModel)


def create_app(
    model: Model, settings: Settings, when_warm: Callable[[], None] = lambda: None
) -> FastAPI:
    """The application that serves a captioner or a classifier; its service is `app.state.service`.

    It warms up when it starts, then calls `when_warm` and accepts work.
    """
    service = Service(model, settings, when_warm)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="captax",
        version=importlib.metadata.version("captax"),
        lifespan=lifespan,
        # FastAPI's pages of documentation load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    app.add_middleware(Gate, service=service)
    if settings.allow_origins:
        app.add_middleware(OtherPages, settings=settings)
    for kind, handler in error_handlers().items():
        app.add_exception_handler(kind, handler)
    _add_work(app, service)
    _add_facts(app, service)
    desk = Desk(service)
    openai_api.add(app, desk)
    responses_api.add(app, desk)
    ollama_api.add(app, desk)
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    describe(app, settings)
    return app


def _add_work(app: FastAPI, service: Service) -> None:
    settings = service.settings
    kind = "captioner" if isinstance(service.worker.model, Captioner) else "classifier"

    async def read(request: Request, schema: type[Asked]) -> tuple[Asked, list[Sent]]:
        wanted = "classifier" if schema is schemas.ClassifyRequest else "captioner"
        if kind != wanted:
            there = "/v1/classify" if kind == "classifier" else "/v1/caption"
            raise Refused(
                404, "wrong_model", f"this server runs a {kind}, which cannot do that; use {there}"
            )
        return await read_request(request, schema, settings, service.parsers)

    async def answer(
        request: Request, work: Work, sent: Sequence[Sent], asks: Sequence[Mapping[str, Any]]
    ) -> list[tuple[Sent, Any]]:
        """Pictures and results for `asks`: one for each picture, or any number for one picture."""
        places = [place if len(sent) > 1 else 0 for place in range(len(asks))]
        found = await unless_gone(
            request, service.answer(work, sent, list(zip(places, asks, strict=True)))
        )
        return [(sent[place], each) for place, each in zip(places, found, strict=True)]

    @app.post("/v1/caption", response_model=schemas.CaptionResponse, tags=["captioner"])
    async def caption(request: Request) -> Any:
        """Caption pictures. Each of several that cannot be read gets an error in its place."""
        asked, sent = await read(request, schemas.CaptionRequest)
        work = Work.of("caption", {**asked.given(), **asked.told()}, asked.prompt)
        found = await answer(request, work, sent, [{"seed": asked.seed}] * len(sent))
        captions = [
            _unread(request, each, result)
            or {
                "name": each.name,
                "caption": result[1].text,
                "score": result[1].score,
                "confidence": result[1].confidence,
                "looped": result[1].looped,
                "removed": result[1].removed,
                "alternatives": [
                    {"caption": other.text, "score": other.score}
                    for other in result[1].alternatives
                ],
            }
            for each, result in found
        ]
        return {"model": settings.name, "captions": captions}

    @app.post("/v1/explain", response_model=schemas.ExplainResponse, tags=["captioner"])
    async def explain(request: Request) -> Any:
        """Show where the model looked for each word of a caption, given or its own."""
        asked, sent = await read(request, schemas.ExplainRequest)
        if len(sent) != 1:
            raise Refused(
                422, "invalid_request", "images: only one picture can be explained; send one"
            )
        told = {name: getattr(asked, name) for name in ("method", "layer", "head")}
        work = Work.of("explain", {**asked.given(), **told}, asked.prompt)
        asks = [{"seed": asked.seed, "caption": asked.caption}]
        ((_, found),) = await answer(request, work, sent, asks)
        picture, explained = found
        steps = [[{"text": t, "probability": p} for t, p in step] for step in explained.steps]
        return {
            "model": settings.name,
            "caption": explained.caption,
            "words": explained.words,
            "steps": steps,
            "grid": explained.grid,
            "seen": picture.seen,
            "unknown_words": explained.unknown_words,
        }

    @app.post("/v1/score", response_model=schemas.ScoreResponse, tags=["captioner"])
    async def score(request: Request) -> Any:
        """Score captions: one for each picture, or any number for one picture."""
        asked, sent = await read(request, schemas.ScoreRequest)
        captions = asked.captions
        if len(sent) not in (1, len(captions)):
            raise Refused(
                422,
                "invalid_request",
                f"captions: there are {len(captions)} captions for {len(sent)} pictures; "
                "send one caption for each picture, or one picture",
            )
        if len(captions) > settings.max_images:
            raise Refused(
                413,
                "too_many_captions",
                f"the request has {len(captions)} captions; send at most {settings.max_images}",
            )
        work = Work.of("score", {**asked.given(), **asked.told()}, asked.prompt)
        found = await answer(request, work, sent, [{"caption": each} for each in captions])
        scores = [
            _unread(request, each, result)
            or {
                "name": each.name,
                "caption": caption,
                "score": result[1].score,
                "unknown_words": result[1].unknown_words,
            }
            for caption, (each, result) in zip(captions, found, strict=True)
        ]
        return {"model": settings.name, "scores": scores}

    @app.post("/v1/classify", response_model=schemas.ClassifyResponse, tags=["classifier"])
    async def classify(request: Request) -> Any:
        """Label pictures. Each of several that cannot be read gets an error in its place."""
        asked, sent = await read(request, schemas.ClassifyRequest)
        work = Work.of("classify", {"top": asked.top})
        labels = [
            _unread(request, each, result)
            or {
                "name": each.name,
                "label": result[1].label,
                "probability": result[1].probability,
                "alternatives": [
                    {"label": other.label, "probability": other.probability}
                    for other in result[1].alternatives
                ],
            }
            for each, result in await answer(request, work, sent, [{}] * len(sent))
        ]
        return {"model": settings.name, "labels": labels}


def _add_facts(app: FastAPI, service: Service) -> None:
    settings, model = service.settings, service.worker.model
    captions = isinstance(model, Captioner)
    calibration = model.calibration if isinstance(model, Captioner) else None

    @app.get("/v1/model", response_model=schemas.ModelResponse, tags=["server"])
    async def facts() -> Any:
        """The model that this server runs, its limits and its defaults."""
        return {
            "model": settings.name,
            "kind": "captioner" if captions else "classifier",
            "version": app.version,
            "limits": {
                "bytes": settings.max_bytes,
                "pixels": settings.max_pixels,
                "images": settings.max_images,
            },
            "urls": settings.allow_urls,
            "threshold": calibration and calibration.threshold,
            "defaults": model.generation.changed() if isinstance(model, Captioner) else {},
        }

    @app.get("/health", response_model=schemas.Health, tags=["server"])
    @app.get("/health/ready", response_model=schemas.Health, tags=["server"])
    async def ready(response: Response) -> Any:
        """Whether the server takes work: status 200, or 503 while it starts or stops."""
        if service.state != "ready":
            response.status_code = 503
        return {"status": service.state}

    @app.get("/health/live", response_model=schemas.Health, tags=["server"])
    async def live() -> Any:
        """The process runs: status 200."""
        return {"status": "live"}

    @app.get("/metrics", tags=["server"], response_class=Response)
    async def metrics() -> Any:
        """Counts and times in the text format of Prometheus."""
        text = await asyncio.to_thread(service.metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    async def page() -> Any:
        return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})


def _unread(request: Request, sent: Sent, result: Any) -> dict[str, Any] | None:
    """The record of a picture that could not be read; `None` for one that could."""
    if isinstance(result, Unreadable):
        error = error_record(result.kind, result.message, request.state.request_id)
        return {"name": sent.name, "error": error}
    assert isinstance(result[0], Prepared)
    return None


def error_handlers() -> dict[Any, Callable[..., Any]]:
    """What answers a request that was refused, or for which there is nothing."""
    return {Refused: _refused, HTTPException: _not_here}


async def _refused(request: Request, error: Any) -> JSONResponse:
    request.scope["state"]["refused"] = error.kind
    return error.response(request.state.request_id, request.url.path)


async def _not_here(request: Request, error: Any) -> JSONResponse:
    kind = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    message = (
        f"{repeated(request.method)} {repeated(request.url.path)}: {str(error.detail).lower()}"
    )
    refused = Refused(error.status_code, kind, message, error.headers)
    return await _refused(request, refused)
