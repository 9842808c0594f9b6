"""A page on which a person votes, blind, for one of two captions of a picture."""

import json
import logging.config
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from captax.compare.comparison import THUMBNAILS
from captax.compare.votes import Booth, Choice
from captax.files import PICTURE_LIMIT, OutputError, own_file
from captax.serve.app import PAGE, error_handlers
from captax.serve.gate import Door
from captax.serve.refusals import Refused
from captax.serve.server import LOG, Server, config_of, refuse_taken
from captax.serve.settings import Settings

HOST = "127.0.0.1"
# A vote is a few bytes; nobody else than the browser of one person is expected.
SETTINGS = Settings(max_bytes=4096, max_connections=64, local=True, grace=2.0, fixed=True)
OWN = Path(__file__).parent / "vote"
_ANSWERS = (Choice.left, Choice.right, Choice.tie)


def create_app(booth: Booth, out: Path) -> Starlette:
    """The application for one voter on the comparison in `out`.

    It tells no names of captioners, serves only the small pictures of its own questions, and takes
    votes from its own page alone, which `captax.serve.origins` describes.
    """

    def state() -> dict[str, Any]:
        told = {
            "voter": booth.voter,
            "done": booth.done,
            "total": booth.total,
            "same": booth.same,
        }
        number = booth.next()
        if number is None:
            return {**told, "question": None}
        ballot = booth.ballot(number)
        shown = booth.comparison.pictures[ballot.picture]
        return {
            **told,
            "question": number,
            "picture": f"/pictures/{number}" if shown.thumbnail else None,
            "left": shown.said[ballot.left].caption,
            "right": shown.said[ballot.right].caption,
        }

    async def page(request: Request) -> Response:
        return FileResponse(OWN / "index.html", headers={"cache-control": "no-cache"})

    async def current(request: Request) -> Response:
        return JSONResponse(state(), headers={"cache-control": "no-store"})

    async def picture(request: Request) -> Response:
        number = request.path_params["number"]
        if number != booth.next():
            raise Refused(404, "not_found", "this is not the picture of the current question")
        name = booth.comparison.pictures[booth.ballot(number).picture].thumbnail
        try:
            with own_file(out / THUMBNAILS / (name or ""), "rb", inside=out) as file:
                content = file.read(PICTURE_LIMIT)
        except (OSError, OutputError):
            raise Refused(404, "not_found", "this picture has no small copy any more") from None
        return Response(content, media_type="image/jpeg", headers={"cache-control": "no-store"})

    async def vote(request: Request) -> Response:
        asked = await _json(request)
        question, choice = asked.get("question"), asked.get("choice")
        if type(question) is not int or choice not in _ANSWERS:
            raise Refused(
                422,
                "invalid_request",
                "send the question's number, and left, right or tie as the choice",
            )
        if question != booth.next():
            raise Refused(
                409, "not_the_question", "this question is not the next one; reload the page"
            )
        _written(lambda: booth.vote(question, Choice(choice)))
        return JSONResponse(state())

    async def undo(request: Request) -> Response:
        await _json(request)
        _written(booth.undo)
        return JSONResponse(state())

    return Starlette(
        routes=[
            Route("/", page),
            Route("/state", current),
            Route("/pictures/{number:int}", picture),
            Route("/votes", vote, methods=["POST"]),
            Route("/undo", undo, methods=["POST"]),
            Mount("/page", StaticFiles(directory=PAGE)),
            Mount("/vote", StaticFiles(directory=OWN)),
        ],
        middleware=[Middleware(Door, settings=SETTINGS)],
        exception_handlers=error_handlers(),
    )


async def _json(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "invalid_request", "the body must be JSON (application/json)")
    try:
        found = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise Refused(422, "invalid_request", "the body is no JSON; send an object") from None
    if not isinstance(found, dict):
        raise Refused(422, "invalid_request", "the body is no JSON object; send one")
    return found


def _written(write: Callable[[], object]) -> None:
    try:
        write()
    except OutputError as error:
        raise Refused(507, "not_written", str(error)) from None


def make_server(booth: Booth, out: Path, *, port: int) -> Server:
    """A server that does not run yet; only this machine reaches it."""
    return Server(config_of(create_app(booth, out), SETTINGS, host=HOST, port=port))


def serve_votes(booth: Booth, out: Path, *, port: int, ready: Callable[[str], None]) -> None:
    """Serve the page until told to stop; `ready` is given its address.

    Raises:
        CaptaxError: the port cannot be listened on.
    """
    refuse_taken(HOST, port)
    logging.config.dictConfig(LOG)
    logging.getLogger("captax.serve").setLevel(logging.WARNING)  # a line for each vote is too much
    ready(f"http://{HOST}:{port}/")
    make_server(booth, out, port=port).run()
