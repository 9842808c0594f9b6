"""The tools: caption, alt, explain and tag, over standard input and output."""

import functools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from captax.alt.wording import alt_text
from captax.errors import CaptaxError
from captax.images import Prepared
from captax.images.decode import DECODE_SECONDS
from captax.mcp.pictures import read_picture
from captax.pipelines.captioner import Captioner
from captax.pipelines.tagger import Tagger
from captax.pipelines.vision_language import VisionLanguageCaptioner

MAX_PIXELS = 50_000_000
MOST_PROMPT = 8000
ALT, TAGS = "alt", "tags"
_INSTRUCTIONS = (
    "Captions, alt texts and explanations of pictures, by a model on this machine. Give a picture "
    "by `path`, in a folder that the user allowed, or in base64 as `image`."
)

PicturePath = Annotated[str, Field(description="Path of a picture in a folder that was allowed.")]
Image = Annotated[str, Field(description="The picture's file in base64, or a data: URL.")]
Prompt = Annotated[
    str,
    Field(
        max_length=MOST_PROMPT,
        description="What to ask a vision-language model about the picture; "
        "captions of other models begin with it.",
    ),
]


class Tools:
    """What the tools do; one picture at a time goes through the models."""

    def __init__(self, captioner: Captioner, tagger: Tagger | None, folders: Sequence[Path]):
        self.captioner, self.tagger, self.folders = captioner, tagger, folders
        self._lock = threading.Lock()

    @property
    def can_tag(self) -> bool:
        """Whether there is a model that was taught to write tags."""
        return self.tagger is not None or self._style(TAGS) is not None

    def caption(
        self, path: PicturePath = "", image: Image = "", prompt: Prompt = ""
    ) -> dict[str, Any]:
        """Describe a picture in words, or answer a question about it."""
        [found] = self.captioner.caption(
            [self._picture(self.captioner, path, image)], prompt=prompt
        )
        told = {"caption": found.text, "score": found.score}
        return told | ({} if found.confidence is None else {"confidence": found.confidence})

    def alt(self, path: PicturePath = "", image: Image = "") -> dict[str, Any]:
        """Write a short alt text for a picture, for people who cannot see it."""
        prompt = self._style(ALT) or ""
        [found] = self.captioner.caption(
            [self._picture(self.captioner, path, image)], prompt=prompt
        )
        told = {"alt": alt_text(found.text)}
        return told | ({} if found.confidence is None else {"confidence": found.confidence})

    def explain(
        self,
        path: PicturePath = "",
        image: Image = "",
        caption: Annotated[
            str,
            Field(description="A caption to explain instead of the model's own.", max_length=1000),
        ] = "",
    ) -> dict[str, Any]:
        """Tell how sure the model is of each word of a caption, and where in the picture it looked.

        Positions are the centre of the attention: from 0, 0 at the upper left to 1, 1 at the lower
        right of what the model saw.
        """
        picture = self._picture(self.captioner, path, image)
        found = self.captioner.explain(picture, caption or None, quiet=True)
        words = [
            {
                "word": word.text,
                "probability": float(np.exp(word.logprob)),
                "position": _centre(np.asarray(weights, np.float64)),
            }
            for word, weights in zip(found.words, found.maps("attention"), strict=True)
        ]
        unknown = self.captioner.unknown_words(caption)
        return {"caption": str(found.caption), "words": words, "unknown_words": unknown}

    def tag(self, path: PicturePath = "", image: Image = "") -> dict[str, Any]:
        """List tags of a picture."""
        if self.tagger is not None:
            [found] = self.tagger.tag([self._picture(self.tagger, path, image)])
            tags = [{"tag": each.tag, "probability": each.probability} for each in found.tags]
            return {"tags": tags} | ({"rating": found.rating.tag} if found.rating else {})
        picture = self._picture(self.captioner, path, image)
        [said] = self.captioner.caption([picture], prompt=self._style(TAGS) or "")
        names = dict.fromkeys(filter(None, (part.strip(" .") for part in said.text.split(","))))
        return {"tags": [{"tag": name} for name in names]}

    def guarded(self, tool: Callable[..., Any]) -> Callable[..., Any]:
        """A tool whose errors are told to the client in one line."""

        @functools.wraps(tool)  # its signature and words are what clients are told
        def call(*given: Any, **named: Any) -> Any:
            try:
                with self._lock:
                    return tool(*given, **named)
            except CaptaxError as error:
                raise ToolError(str(error)) from None

        return call

    def _style(self, name: str) -> str | None:
        """The prompt of a style, if the captioner is asked and knows it."""
        if not isinstance(self.captioner, VisionLanguageCaptioner):
            return None
        styles = self.captioner.styles
        return styles.prompt(name) if name in styles.styles else None

    def _picture(self, pipeline: Any, path: str, image: str) -> Prepared:
        data = read_picture(path, image, self.folders)
        limits = {"max_pixels": MAX_PIXELS, "seconds": DECODE_SECONDS}
        return pipeline.processor.prepare(pipeline.processor.decode(data, **limits))


def make_server(captioner: Captioner, tagger: Tagger | None, folders: Sequence[Path]) -> MCPServer:
    """A server of the tools that these models allow; `run()` serves standard input and output.

    Files in `folders` may be read.
    """
    tools = Tools(captioner, tagger, folders)
    server = MCPServer("captax", instructions=_INSTRUCTIONS, log_level="WARNING")
    offered = [tools.caption, tools.alt, tools.explain, *([tools.tag] if tools.can_tag else [])]
    for tool in offered:
        server.add_tool(tools.guarded(tool))
    return server


def _centre(weights: np.ndarray) -> list[float]:
    """The centre of a map, as fractions of its width and height."""
    rows, columns = weights.shape
    share = weights / max(weights.sum(), 1e-12)
    x = (share.sum(0) * (np.arange(columns) + 0.5)).sum() / columns
    y = (share.sum(1) * (np.arange(rows) + 0.5)).sum() / rows
    return [round(float(x), 2), round(float(y), 2)]
