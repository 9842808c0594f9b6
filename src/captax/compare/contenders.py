"""What is compared: checkpoints, models of servers, and files of captions, each by a name."""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from captax.checkpoints.directory import outline
from captax.checkpoints.hub import fetch
from captax.collection.record import utf8
from captax.errors import CaptaxError, quoted
from captax.files import is_file
from captax.models.clip import Clip
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.encoders import VisionEncoder
from captax.models.vision_language import VisionLanguageModel

_ENDPOINT = re.compile(r"([^@]+)@(https?://.+)")
_TEXTS = (".jsonl", ".json", ".csv", ".txt", ".token")


class Source(StrEnum):
    """Where captions come from."""

    checkpoint = "checkpoint"
    endpoint = "endpoint"
    file = "file"


@dataclasses.dataclass(frozen=True)
class Contender:
    """A captioner, or its captions.

    Attributes:
        name: what it is called in the comparison.
        source: where its captions come from.
        model: the checkpoint or the server's model, by name, or the file's path.
        url: the server's address.
    """

    name: str
    source: Source
    model: str
    url: str = ""

    @property
    def label(self) -> str:
        """The name as part of a file's name, which no other one's is."""
        plain = re.sub(r"[^\w.-]+", "-", self.name).strip(".-")[:60]
        digest = hashlib.sha256(self.name.encode()).hexdigest()[:8]
        return plain if plain == self.name else f"{plain}-{digest}".strip("-")

    def told(self) -> str:
        """Where its captions come from, for people."""
        if self.source is Source.endpoint:
            return f"{self.model} at {self.url}"
        return utf8(f"captions in {self.model}" if self.source is Source.file else self.model)


def contenders_of(given: Sequence[str]) -> list[Contender]:
    """What the arguments `MODEL` or `NAME=MODEL` mean.

    A file holds captions, `MODEL@http://...` is a server's model, and all else is a checkpoint.
    Without a name, it is called by the last part of its path, or by what was given.

    Raises:
        CaptaxError: there are fewer than two, or two have the same name.
    """
    if len(given) < 2:
        raise CaptaxError(
            "a comparison needs two captioners or more; give checkpoints, files of captions or "
            "MODEL@http://localhost:11434/v1"
        )
    found: dict[str, Contender] = {}
    for each in given:
        contender = _contender(each)
        contender = dataclasses.replace(contender, name=utf8(contender.name))
        if (other := found.get(contender.name)) is not None:
            raise CaptaxError(
                f"two captioners are called {quoted(contender.name)} ({other.told()}, and "
                f"{contender.told()}); name them, as in first={each}"
            )
        found[contender.name] = contender
    labels: dict[str, str] = {}
    for name, contender in found.items():
        # Some file systems do not tell letters of two cases apart.
        if (same := labels.setdefault(contender.label.lower(), name)) != name:
            raise CaptaxError(f"the names {quoted(same)} and {quoted(name)} differ too little")
    return list(found.values())


def _contender(given: str) -> Contender:
    name, equals, model = given.partition("=")
    if not equals or "/" in name or "@" in name or os.path.lexists(given):
        name, model = "", given
    if (equals and not name and model != given) or not model.strip():
        raise CaptaxError(f"{quoted(given)}: has no model or no name; give MODEL, or NAME=MODEL")
    name = name.strip()
    if found := _ENDPOINT.fullmatch(model):
        return Contender(name or found[1], Source.endpoint, found[1], found[2])
    if "://" in model:
        raise CaptaxError(
            f"{model}: name one of the server's models before it, as in llava@{model}"
        )
    path = Path(model)
    if is_file(path):
        return Contender(name or path.stem, Source.file, model)
    if path.suffix.lower() in _TEXTS and not path.is_dir():
        raise CaptaxError(f"{model}: no such file; give a file of captions that is there")
    if path.is_dir():
        return Contender(name or path.resolve().name, Source.checkpoint, model)
    return Contender(name or model, Source.checkpoint, model)


def check_checkpoint(model: str, *, offline: bool = False) -> dict[str, Any]:
    """What says which weights a checkpoint has, after a look at all but their values.

    It is downloaded if needed.

    Raises:
        CaptaxError: there is none, it is broken, or it cannot caption.
    """
    directory = fetch(model, offline=offline)
    found = outline(directory)
    sees = isinstance(getattr(found, "encoder", None), VisionEncoder)
    if not (isinstance(found, EncoderDecoder) and (sees or isinstance(found, VisionLanguageModel))):
        raise CaptaxError(
            f"{model}: holds a {type(found).__name__}, which cannot caption; give a captioner"
        )
    files = [(p.name, s.st_size, s.st_mtime_ns) for p in sorted(directory.iterdir())
             if p.is_file() and (s := p.stat())]  # fmt: skip
    return {"files": hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]}


def check_clip(model: str, *, offline: bool = False) -> None:
    """Raise `CaptaxError` if a checkpoint is no CLIP, which CLIPScore needs."""
    found = outline(fetch(model, offline=offline))
    if not isinstance(found, Clip):
        raise CaptaxError(f"{model}: holds a {type(found).__name__}, but CLIPScore needs a CLIP")
