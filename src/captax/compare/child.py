"""The process of one captioner: it captions what is left to do, and measures itself.

Each captioner has a process of its own, so the memory of one is free before the next is loaded, and
the peak is its own.
"""

import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from captax.collection.captioning import CaptionOptions, Copies, Wanted, caption_batches
from captax.collection.item import Item
from captax.collection.job import Summary, caption_collection
from captax.collection.journal import Journal
from captax.collection.outputs import Elsewhere
from captax.collection.record import Record
from captax.compare.pictures import open_pictures
from captax.compilation import persist_compiled_programs
from captax.errors import CaptaxError
from captax.files import CONFIG_LIMIT, parse_json, read_text, write_text
from captax.generation.programs import seconds_compiling
from captax.pipelines.endpoint import Endpoint, EndpointCaptioner
from captax.pipelines.loading import load
from captax.pipelines.vision_language import VisionLanguageCaptioner
from captax.progress import Progress
from captax.stopping import stopping

if sys.platform != "win32":
    import resource

MEASURED = "measured.json"


@dataclasses.dataclass(frozen=True)
class ChildJob:
    """What a process is asked to do.

    Attributes:
        name: what the captioner is called.
        model: a checkpoint, or a model of the server at `url`.
        url: the server; "" for a checkpoint.
        folder: where the journal is kept.
        root: the folder that it is in, out of which no link leads.
        settings: what its captions depend on.
        data: the arguments of `open_pictures`.
        prompt: what models are asked that answer a prompt.
        max_new_tokens: the most tokens of a caption; None is the model's own.
        batch_size: pictures at a time.
        retry_errors: whether pictures that failed are tried again.
        loading: arguments of `captax.load`.
        key_variable: the environment variable that has the server's key.
        concurrency: pictures that the server is asked about at a time.
    """

    name: str
    model: str
    url: str
    folder: str
    root: str
    settings: dict[str, Any]
    data: dict[str, Any]
    prompt: str = ""
    max_new_tokens: int | None = None
    batch_size: int = 32
    retry_errors: bool = False
    loading: dict[str, Any] = dataclasses.field(default_factory=dict)
    key_variable: str = ""
    concurrency: int = 4


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a captioner took, over all runs of the comparison.

    Attributes:
        pictures: how many it captioned.
        seconds: how long that took, with reading the pictures, without loading and compiling.
        compiling: the seconds that compiling took.
        memory: the most bytes that its process had; None for a server, whose memory is not known.
        device_memory: the most bytes that it had on an accelerator, where the device tells.
        device: the kind of device that it ran on.
    """

    pictures: int = 0
    seconds: float = 0.0
    compiling: float = 0.0
    memory: int | None = None
    device_memory: int | None = None
    device: str = ""

    @property
    def speed(self) -> float | None:
        """Pictures a second, where any was measured."""
        return self.pictures / self.seconds if self.pictures and self.seconds else None


def read_measured(folder: Path) -> Measured | None:
    """What earlier runs measured, if they did."""
    try:
        return Measured(**parse_json(read_text(folder / MEASURED, limit=CONFIG_LIMIT)))
    except (OSError, ValueError, TypeError):
        return None


class _Kept(Elsewhere):
    """Captions that only the journal keeps."""

    holds_errors = True

    def write(self, record: Record) -> str:
        return ""

    def finish(self, records: Callable[[], Iterator[Record]]) -> list[Path]:
        return []


def caption_for(job: ChildJob) -> bool:
    """Do the job, or what is left of it. Returns whether it was stopped before its end."""
    pictures = open_pictures(**job.data)
    captioner: Any
    options: dict[str, Any] = {}
    if job.max_new_tokens is not None:
        options["max_new_tokens"] = job.max_new_tokens
    if job.url:
        key = os.environ.get(job.key_variable, "").strip() or None
        endpoint = Endpoint(job.url, key)
        captioner = EndpointCaptioner(endpoint, job.model, concurrency=job.concurrency)
        answers = True
    else:
        persist_compiled_programs()
        captioner = load(job.model, **job.loading)
        answers = isinstance(captioner, VisionLanguageCaptioner)
    asked = CaptionOptions(
        batch_size=job.batch_size, prompt=job.prompt if answers else "", decoding=options
    )
    folder = Path(job.folder)
    before = read_measured(folder) or Measured()
    started, compiled = time.perf_counter(), seconds_compiling()
    bar = Progress(len(pictures), unit="picture", label=job.name)

    def engine(wanted: Iterator[Wanted], copies: Copies | None) -> Iterator[list[Record]]:
        return caption_batches(captioner, wanted, asked, copies)

    def watch(records: list[Record], summary: Summary) -> None:
        bar.update(summary.settled - bar.done)
        compiling = seconds_compiling() - compiled
        measured = dataclasses.replace(
            before,
            pictures=before.pictures + summary.captioned,
            seconds=before.seconds + time.perf_counter() - started - compiling,
            compiling=before.compiling + compiling,
        )
        if not job.url:
            measured = _with_memory(measured)
        text = json.dumps(dataclasses.asdict(measured))
        write_text(folder / MEASURED, text, inside=Path(job.root), own=True)

    items: list[Item] = [picture.item for picture in pictures]
    journal = Journal(folder, job.settings, retry_errors=job.retry_errors, inside=Path(job.root))
    with journal, stopping("batch") as stop:
        summary = caption_collection(
            items, engine, _Kept(), journal=journal, asked=stop, watch=watch
        )
    bar.close()
    return summary.stopped


def _with_memory(measured: Measured) -> Measured:
    """The measurements with the peak of this process, if it is the highest so far."""
    device = jax.local_devices()[0]
    told = device.memory_stats() or {}
    on_device = max(told.get("peak_bytes_in_use", 0), measured.device_memory or 0)
    memory = measured.memory or 0
    if sys.platform != "win32":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        memory = max(memory, peak if sys.platform == "darwin" else peak * 1024)
    return dataclasses.replace(
        measured,
        memory=memory or None,
        device_memory=on_device or None,
        device=f"{device.platform} ({device.device_kind})",
    )


def _leave_with_parent() -> None:
    """End when the process that asked is gone; what is done is in the journal."""
    while os.read(0, 1):  # a buffered reader would be in use when this process ends
        pass
    os._exit(1)


def main() -> None:
    """Read a job from standard input, do it, and say on standard output how it ended."""
    job = ChildJob(**json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        answer: dict[str, Any] = {"stopped": caption_for(job)}
    except CaptaxError as error:
        answer = {"error": str(error)}
    except KeyboardInterrupt:
        answer = {"stopped": True}
    print(json.dumps(answer), flush=True)
