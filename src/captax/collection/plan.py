"""A job: its pictures, where and how their captions are written, and how it is run."""

import contextlib
import dataclasses
import glob
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from captax.checkpoints.state import weights_digest
from captax.collection.beside import Beside, Embedded, Kind, TextSidecars, XmpSidecars
from captax.collection.captioning import (
    CaptionOptions,
    Copies,
    PictureOptions,
    Wanted,
    caption_batches,
)
from captax.collection.choices import CaptionFormat, Compare, OnExists, Resume
from captax.collection.cluster import Cluster
from captax.collection.exiftool import ExifTool
from captax.collection.item import ARCHIVES, CollectionError
from captax.collection.items import find_items
from captax.collection.job import Output, Shape, Summary, caption_collection, lists_of
from captax.collection.journal import Journal
from captax.collection.outputs import HOLD_ONE, OneFile, Screen, below, format_of
from captax.collection.own_files import JOB, LINES, OwnFiles
from captax.collection.record import Record
from captax.data.tables import parquet_library
from captax.errors import OptionError, quoted
from captax.files import Kind as FileKind
from captax.files import NewFile, check_new_files, unwritable
from captax.images import (
    SHEET,
    ImageError,
    NativeProcessor,
    SheetRow,
    TileProcessor,
    names_picture,
    write_sheet,
)
from captax.pipelines.captioner import Captioner
from captax.pipelines.endpoint import EndpointCaptioner
from captax.pipelines.tagger import Tagger

AnyCaptioner = Captioner | Tagger | EndpointCaptioner
_CAPTIONS = FileKind(
    "file of captions", suffixes=(".txt", ".jsonl", ".csv", ".parquet", ".json", ".md")
)
_BESIDE = (CaptionFormat.sidecar, CaptionFormat.xmp, CaptionFormat.embed)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A job.

    Attributes:
        sources: what to caption, as `find_items` takes it.
        out: the file for captions, or the folder for sidecars. Without it, captions are printed, or
            sidecars are written beside their pictures.
        format: the format of the captions; by default it depends on the name of `out`.
        ext: the suffix of sidecars, which replaces the picture's. By default it is `.txt`, or for
            XMP `.xmp`, which is added after the picture's suffix.
        on_exists: what to do if a picture already has a caption.
        separator: text between the old caption and the new one.
        options: what is asked of each picture.
        shape: how captions are written.
        sheet: the path of a page with pictures and captions, if one is wanted.
        follow_links: whether to write where links lead that lead out of the folders given.
        csv_safe: whether cells of a CSV file that a spreadsheet would run get an apostrophe.
        compare: how pictures are compared with those of an earlier run.
        overwrite: whether files are replaced that captax did not make. For `out`, `on_exists` may
            say so too.
    """

    sources: tuple[str, ...]
    out: Path | None = None
    format: CaptionFormat | None = None
    ext: str | None = None
    on_exists: OnExists = OnExists.skip
    separator: str = "\n"
    options: PictureOptions = dataclasses.field(default_factory=CaptionOptions)
    shape: Shape = dataclasses.field(default_factory=Shape)
    sheet: Path | None = None
    follow_links: bool = False
    csv_safe: bool = True
    compare: Compare = Compare.time
    overwrite: bool = False

    def __post_init__(self) -> None:
        within = [each for each in self.sources if "://" in each or each.endswith(ARCHIVES)]
        if self.beside:
            self._check_beside(within)
        elif self.ext is not None:
            raise CollectionError("--ext only applies to sidecars; add --format sidecar or xmp")
        elif self.out is None and self.wanted not in (CaptionFormat.text, CaptionFormat.jsonl):
            raise CollectionError(f"--format {self.wanted} writes a file; add --out")
        elif self.out is not None:
            self._check_file(self.out, within)
        several = self.options.several
        if self.wanted in HOLD_ONE and several > 1 and self.sheet is None:
            raise OptionError(
                f"`num_return_sequences` is {several}, and the format {self.wanted} holds one "
                "caption of each picture; leave it out, or write text, jsonl, csv, parquet or "
                "sidecars"
            )

    def check_new_files(self, others: Sequence[Path] = ()) -> None:
        """Raise `OutputError` if the job would write over what it or its model (`others`) reads,
        or over what captax did not make.
        """
        beside = [
            NewFile("--out", path, LINES, self._replaces)
            for path in (lists_of(self.listed) if self.folder is not None and self.listed else ())
        ]
        # Whether the file of all captions may be replaced, `OneFile` knows from the journal.
        out = NewFile("--out", None if self.beside else self.out, _CAPTIONS, overwrite=True)
        sheet = NewFile("--sheet", self.sheet, SHEET, self.overwrite)
        check_new_files(
            [out, sheet, *beside],
            [*self.sources, *others],
            reads=lambda name: names_picture(name, videos=True),
        )

    @property
    def _replaces(self) -> bool:
        return self.overwrite or self.on_exists is OnExists.overwrite

    def _check_file(self, out: Path, within: list[str]) -> None:
        try:
            is_folder = out.is_dir()
            if not is_folder and out.exists() and not out.is_file():
                raise CollectionError(
                    f"{out}: is not a regular file; leave out --out to print captions"
                )
        except OSError as error:
            raise unwritable(out, error) from None
        if is_folder:
            raise CollectionError(f"{out}: is a folder; give a file, or add --format sidecar")
        if self.wanted is CaptionFormat.parquet:
            parquet_library(out)
        if self.wanted is CaptionFormat.metadata:
            if within:
                raise CollectionError(
                    f"{within[0]}: metadata.jsonl names only pictures in its folder; "
                    "give --out another name, such as captions.jsonl"
                )
            for source in self.sources:
                if Path(source).is_dir():
                    below(out.parent, Path(source))

    def _check_beside(self, within: list[str]) -> None:
        if self.wanted is CaptionFormat.embed and within:
            raise CollectionError(
                f"{within[0]}: a description can only be embedded in a picture's own file; "
                "use --format sidecar --out FOLDER"
            )
        if self.wanted is CaptionFormat.embed and self.out is not None:
            raise CollectionError(
                "--format embed writes into the pictures themselves; leave out --out"
            )
        if within and self.out is None:
            raise CollectionError(f"{within[0]}: its sidecars need a folder; add --out FOLDER")
        if self.out is not None and self.out.is_file():
            raise CollectionError(
                f"{self.out}: is a file, and sidecars need a folder; give one as --out"
            )
        if self.ext is not None and (
            not self.ext.startswith(".") or "/" in self.ext or not self.ext.strip(".")
        ):
            raise CollectionError(f"--ext is {quoted(self.ext)}; give one such as .txt or .caption")
        if self.ext is not None and names_picture(f"a{self.ext}", videos=True):
            raise CollectionError(
                f"--ext is {quoted(self.ext)}, a suffix of pictures; give one such as .txt"
            )
        if self.wanted is CaptionFormat.xmp and self.ext not in (None, ".xmp"):
            raise CollectionError(
                f"--ext is {quoted(self.ext)}, but .xmp sidecars end in .xmp; leave it out, or "
                "give .xmp"
            )

    @property
    def wanted(self) -> CaptionFormat:
        """The format that captions are written in."""
        if self.out is None or self.format in _BESIDE:
            return self.format or CaptionFormat.text
        return format_of(self.out, self.format)

    @property
    def printed(self) -> bool:
        """Whether captions are only printed, and not kept."""
        return self.out is None and not self.beside

    @property
    def beside(self) -> bool:
        """Whether each caption is written beside its own picture."""
        return self.wanted in _BESIDE

    def _output(self, stack: contextlib.ExitStack) -> Output:
        """The output, which is open until `stack` is closed."""
        if not self.beside:
            if self.out is None or self.folder is None:
                return Screen(self.wanted)
            output = OneFile(self.out, self.wanted, self.folder / "written", csv_safe=self.csv_safe)
            if not self._replaces:
                output.check()
            return output
        kind: Kind
        if self.wanted is CaptionFormat.sidecar:
            kind = TextSidecars(self.ext or ".txt")
        elif self.wanted is CaptionFormat.xmp:
            kind = XmpSidecars(adobe=self.ext is not None)
        else:
            kind = Embedded(stack.enter_context(ExifTool()))
        local = [source for source in self.sources if "://" not in source]
        return Beside(
            kind,
            self.out,
            self.on_exists,
            self.separator,
            # A picture that the user named himself may be a link to anywhere.
            roots=[*map(_folder, local), *(Path(each) for each in local if Path(each).is_file())],
            follow_links=self.follow_links,
        )

    @property
    def folder(self) -> Path | None:
        """The folder of the journal; None if captions are only printed."""
        if not self.beside:
            return self.out and self.out.with_name(f".{self.out.name}{JOB}")
        return self._root / JOB / f"{self.wanted}{self.ext or ''}"

    @property
    def named(self) -> list[str]:
        """The sources, each by one name: "photos/" and "photos" are the same folder."""
        return [each if "://" in each else str(Path(each)) for each in self.sources]

    @property
    def _job_root(self) -> Path:
        """The folder of the user's that the journal's folder is in."""
        return self.out.parent if self.out is not None and not self.beside else self._root

    @property
    def listed(self) -> Path | None:
        """The path that the lists of errors and of captions for review begin with."""
        if not self.beside:
            return self.out
        return self._root / f"captax-{self.wanted}"

    @property
    def _root(self) -> Path:
        """The folder that all sidecars are in."""
        if self.out is not None:
            return self.out
        folders = [_folder(source) for source in self.sources if "://" not in source]
        if not folders:
            raise CollectionError(
                "sidecars of pictures behind URLs need a folder; add --out FOLDER"
            )
        absolute = [os.path.abspath(folder) for folder in folders]  # noqa: PTH100
        return Path(os.path.commonpath(absolute))

    def settings(self, captioner: AnyCaptioner, model: str | None) -> dict[str, Any]:
        """Everything that captions depend on. It must stay the same when a job is resumed."""
        relative = any("://" not in each and not Path(each).is_absolute() for each in self.sources)
        return {
            "sources": self.named,
            **({"working directory": str(Path.cwd())} if relative else {}),
            "model": model,
            **_identity(captioner),
            "format": str(self.wanted),
            **(self._beside() if self.beside else {}),
            **dataclasses.asdict(self.shape.template),
            "min_score": self.shape.min_score,
            **({"calibration": captioner.calibration.write()} if captioner.calibration else {}),
            **({"min_confidence": least} if (least := self.shape.min_confidence) else {}),
            **self.options.settings(),
            **_shown(captioner.processor),
            **({"frames": captioner.frames} if captioner.frames else {}),
        }

    def takes_videos(self, captioner: AnyCaptioner) -> bool:
        """Whether videos are captioned too: nothing is embedded in them."""
        return captioner.frames > 0 and self.wanted is not CaptionFormat.embed

    def _beside(self) -> dict[str, Any]:
        return {"ext": self.ext, "on_exists": str(self.on_exists), "separator": self.separator}

    def run(
        self,
        captioner: AnyCaptioner,
        *,
        model: str | None = None,
        cluster: Cluster | None = None,
        resume: Resume = Resume.if_possible,
        retry_errors: bool = False,
        asked: Callable[[], bool] = lambda: False,
        watch: Callable[[list[Record], Summary], None] = lambda records, summary: None,
    ) -> Summary:
        """Do the job, or the part of it that is left; see `caption_collection`.

        `model` is the name that the captioner was loaded from. If a `cluster` is given, its workers
        caption instead of `captioner`. Raises `CollectionError` if an earlier run had other
        settings, unless `resume` says what to do then.
        """
        left_out: Counter[str] = Counter()
        written = frozenset(
            os.path.abspath(each)  # noqa: PTH100 (`resolve` follows links)
            for each in (self.out, self.sheet)
            if each is not None
        )
        own = OwnFiles(written, self.ext or "" if self.beside else "")
        items = find_items(self.sources, left_out, own, videos=self.takes_videos(captioner))
        shown: list[Record] = []

        def engine(wanted: Iterator[Wanted], copies: Copies | None) -> Iterator[list[Record]]:
            if cluster is not None and self.folder is not None:
                found = cluster.batches(wanted, self.options, self.folder, settings, copies)
            else:
                found = caption_batches(captioner, wanted, self.options, copies)
            for batch in found:
                if self.printed and self.sheet is not None:
                    shown.extend(batch)
                yield batch

        settings: dict[str, Any] = {}
        with contextlib.ExitStack() as stack:
            journal = None
            if self.folder is not None:
                settings |= self.settings(captioner, model)
                journal = Journal(
                    self.folder,
                    settings,
                    resume=resume,
                    retry_errors=retry_errors,
                    inside=None if self.follow_links else self._job_root,
                )
                stack.enter_context(journal)
            summary = caption_collection(
                items,
                engine,
                self._output(stack),
                journal=journal,
                shape=self.shape,
                dedupe=self.options.dedupe,
                listed=self.listed,
                left_out=left_out,
                compare=self.compare,
                asked=asked,
                watch=watch,
            )
            summary.done = self.options.done
            if self.sheet is not None and not summary.stopped:
                batches = [shown] if journal is None else journal.batches()
                records = itertools.chain.from_iterable(batches)
                rows = self._cards(records, captioner)
                write_sheet(self.sheet, rows, title="Captions")
        return summary

    def _cards(self, records: Iterable[Record], captioner: AnyCaptioner) -> Iterator[SheetRow]:
        calibration = captioner.calibration
        found = find_items(self.sources, videos=self.takes_videos(captioner))
        items = {item.name: item for item in found}
        last = {record.name: record for record in records}  # failed writes have a second record
        for record in map(self.shape.as_written, last.values()):
            if record.name not in items:
                continue
            if record.error:
                yield SheetRow(None, record.name, "", None, error=record.error)
                continue
            unsure = calibration is not None and calibration.unsure(record.confidence)
            notes = ["Graphic"] * (record.graphic is not None) + ["Not sure"] * unsure
            notes += ["Said the same again and again"] * record.looped
            notes += ["For review"] * self.shape.doubtful(record)
            notes += [f"{name}: {value}" for name, value in record.facts.items() if value]
            error, note = None, ", ".join(notes) or None
            try:
                image = items[record.name].source()
            except ImageError as unreadable:
                image, error = None, str(unreadable)
            others = record.captions[1:]
            outlines = [(each.label, each.outlines) for each in record.regions or ()]
            yield SheetRow(
                image,
                record.name,
                record.text,
                record.score,
                others,
                error=error,
                note=note,
                regions=tuple(outlines),
            )


def _identity(captioner: AnyCaptioner) -> dict[str, Any]:
    """What says which captioner it is, besides its name."""
    if isinstance(captioner, EndpointCaptioner):
        return captioner.identity()
    return {"weights": weights_digest(captioner.model)}


def _shown(processor: Any) -> dict[str, Any]:
    """What says how much of a picture a model is shown, if it sees tiles or any size."""
    if isinstance(processor, NativeProcessor):
        return {"min_pixels": processor.min_pixels, "max_pixels": processor.max_pixels}
    if not isinstance(processor, TileProcessor):
        return {}
    return {"image_size": processor.longest_edge, "image_splitting": processor.split}


def _folder(source: str) -> Path:
    """The folder that contains the pictures of a source."""
    path = Path(source)
    if path.is_dir():
        return path
    # For a pattern, the deepest folder that has no special characters.
    folders = [path.parent, *path.parent.parents]
    return next(folder for folder in folders if folder.is_dir() or not glob.has_magic(str(folder)))
