"""The same job on many machines: shards of it, each captioned by one of Ray Data's workers.

The shards depend only on the pictures. A worker writes the records of a shard to a file in the
job's folder, whole or not at all. If a worker dies, Ray gives its shard to another worker. If all
die, run the same command again: it uses the files that exist. The process that the user started
adds the shards to the journal in order and writes all output, as it does with its own batches.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import pickle
import platform
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from captax.collection.captioning import Copies, PictureOptions, Wanted, caption_batches
from captax.collection.item import CollectionError
from captax.collection.record import SAID, Record
from captax.compilation import persist_compiled_programs
from captax.data import batched
from captax.errors import CaptaxError
from captax.files import (
    TABLE_LIMIT,
    make_folder,
    own_file,
    parse_json,
    write_text,
)
from captax.pipelines.loading import load

SHARDS = "shards"
# Environment variables that workers get from the process that starts them.
ENVIRONMENT = ("CAPTAX_CACHE", "HF_HOME", "HF_TOKEN", "JAX_PLATFORMS", "XLA_FLAGS")
# How often a shard is tried, so that a shard that always kills its worker is not tried forever.
TRIES = 4


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Workers on a Ray cluster: the one at `RAY_ADDRESS`, or this machine alone.

    Attributes:
        model: arguments of `captax.load`. Every machine must be able to open the checkpoint
            directory, the pictures and the job's folder.
        workers: the maximum number; by default one for each GPU or TPU, or, if there are none, one
            for each machine. Ray starts and ends workers as machines come and go.
        shard_size: the number of pictures in a shard, rounded to whole batches.
    """

    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    workers: int | None = None
    shard_size: int = 256

    def batches(
        self,
        wanted: Iterable[Wanted],
        options: PictureOptions,
        folder: Path,
        settings: Mapping[str, Any],
        copies: Copies | None = None,
    ) -> Iterator[list[Record]]:
        """Records of the pictures, in order, a shard at a time, captioned as one process would.

        `folder` keeps finished shards; a job with the same `settings` uses them again. Raises
        `CollectionError` if Ray is not installed, or if `copies` is given, because a worker does
        not know the pictures of the others.
        """
        if copies is not None:
            raise CollectionError("--dedupe only works within one process; use --engine local")
        ray = _library()
        size = max(1, self.shard_size // options.batch_size) * options.batch_size
        place = (folder / SHARDS).absolute()
        shards = [_Shard(place, settings, pictures) for pictures in batched(wanted, size)]
        if not shards:
            return
        with _connected(ray):
            done = self._run(ray, shards, options)
            for shard in shards:
                while not shard.file.exists():
                    if next(done, None) is None:
                        raise CollectionError(
                            f"{shard.file}: no worker has written this shard; run the command again"
                        )
                yield shard.read()
                # The caller asks for the next shard once this one is in the journal.
                shard.remove()
            for _ in done:
                pass
        with contextlib.suppress(OSError):
            place.rmdir()

    def _run(self, ray: Any, shards: list["_Shard"], options: PictureOptions) -> Iterator[Any]:
        """Caption the shards that are not done; yield once for each that becomes done."""
        todo = [
            {"file": str(shard.file), "wanted": pickle.dumps(shard.wanted)}
            for shard in shards
            if not shard.file.exists()
        ]
        if not todo:
            return
        resources, most = _resources(ray, self.workers, len(todo))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        dataset = ray.data.from_items(todo, override_num_blocks=len(todo)).map_batches(
            ShardWorker,
            fn_constructor_args=(dict(self.model), options, os.getcwd()),  # noqa: PTH109
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=most),
            runtime_env={"env_vars": environment},
            **resources,
        )
        try:
            yield from dataset.iter_rows()
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, CaptaxError):
                raise error.cause from None
            raise


class _Shard:
    """Pictures that one worker captions, and the file for their records."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], wanted: list[Wanted]):
        self.wanted = wanted
        key = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
        for each in wanted:
            key.update(
                f"{each.place} {each.item.name} {each.stamp}\n".encode(errors="surrogateescape")
            )
        self.file = folder / f"{key.hexdigest()}.json"

    def read(self) -> list[Record]:
        """The records that its worker made, each with the target of its picture, not the file's.

        Raises `CollectionError` if the file does not hold a record of each picture in order.
        """
        try:
            with own_file(self.file, "rb", inside=self.file.parent) as file:
                content = file.read(TABLE_LIMIT).decode()
            records = [Record.read(each) for each in parse_json(content)]
            if [each.name for each in records] != [each.item.name for each in self.wanted]:
                raise ValueError("it is about other pictures")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CollectionError(
                f"{self.file}: is damaged ({error}); remove it to caption its pictures again"
            ) from None
        return [
            record
            if record.error
            else dataclasses.replace(
                wanted.record(), **{name: getattr(record, name) for name in SAID}
            )
            for record, wanted in zip(records, self.wanted, strict=True)
        ]

    def remove(self) -> None:
        """Remove its files."""
        for path in (self.file, tries_of(self.file)):
            path.unlink(missing_ok=True)


def tries_of(file: Path) -> Path:
    """The file that grows by one byte each time a worker begins the shard."""
    return file.with_suffix(".tries")


class ShardWorker:
    """A process with a model that captions shards; paths are relative to `folder`."""

    def __init__(self, model: Mapping[str, Any], options: PictureOptions, folder: str):
        try:
            os.chdir(folder)
        except OSError as error:
            raise CollectionError(
                f"{folder}: a worker on {platform.node()} cannot open this folder "
                f"({error.strerror}); run the command in a folder that every machine sees"
            ) from None
        persist_compiled_programs()
        self.captioner: Any = load(**model)
        self.options = options

    def __call__(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        for name, pickled in zip(batch["file"], batch["wanted"], strict=True):
            file = Path(name)
            wanted = pickle.loads(pickled)  # pickled by the process that started this one
            _count_try(file, wanted)
            records: list[Record] = []
            for found in caption_batches(self.captioner, wanted, self.options):
                records += found
            shard = json.dumps([record.write() for record in records])
            write_text(file, shard, inside=file.parent, own=True)
        return {"file": batch["file"]}


def _count_try(file: Path, wanted: list[Wanted]) -> None:
    tries = tries_of(file)
    make_folder(tries.parent, inside=tries.parent.parent)
    with own_file(tries, "ab", inside=tries.parent) as growing:
        growing.write(b".")
    if tries.stat().st_size > TRIES:
        tries.unlink()  # another run of the job may do better
        raise CollectionError(
            f"the shard from {wanted[0].item.name} to {wanted[-1].item.name} ended its worker "
            f"{TRIES} times; try a smaller --batch-size, or use --engine local to see why"
        )


@contextlib.contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """Connect to the cluster, unless this process already is connected."""
    if ray.is_initialized():
        yield
        return
    with warnings.catch_warnings():
        # JAX warns about every fork, but this one only starts another program.
        warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
        ray.init(log_to_driver=False, logging_level="error")
    try:
        yield
    finally:
        ray.shutdown()


def _resources(ray: Any, workers: int | None, shards: int) -> tuple[dict[str, Any], int]:
    """The resources of one worker, and the maximum number of workers."""
    there = ray.cluster_resources()
    for device, needs in (("GPU", {"num_gpus": 1}), ("TPU", {"resources": {"TPU": 1}})):
        if there.get(device):
            return needs, min(shards, workers or int(there[device]))
    cores = (int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    machines = [count for count in cores if count] or [1]
    most = min(shards, workers or len(machines))
    # XLA uses all cores that it sees, so workers share those of a machine rather than divide them.
    return {"num_cpus": max(1, min(max(machines), sum(machines) // most))}, most


def _library() -> Any:
    """Ray, with Ray Data. Raises `CollectionError` if it is not installed."""
    try:
        import ray.data  # an extra
    except ModuleNotFoundError:
        raise CollectionError(
            "--engine ray needs Ray, which is not installed; pip install 'captax[scale]', or use "
            "--engine local"
        ) from None
    return ray
