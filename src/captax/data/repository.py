"""Datasets on the Hugging Face hub: which files are their splits, and a copy of these.

The dataset's card names its configurations and their files; where it does not, names of files do,
as https://huggingface.co/docs/hub/datasets-data-files-configuration describes. Files of other forms
than Parquet are taken from the hub's own conversion to Parquet, or read as they are. No code of a
repository is downloaded.
"""

import dataclasses
import glob
import hashlib
import json
import posixpath
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from captax import hub
from captax.data.example import DataError
from captax.data.splits import SPLIT_NAMES, split_in
from captax.data.tables import TABLE_SUFFIXES
from captax.errors import plural, quoted
from captax.files import OutputError, cache_directory, own_file, parse_json, write_text
from captax.images.kinds import is_image_path
from captax.progress import no_bars_in_logs, tell

CONVERTED = "refs/convert/parquet"
PARTIAL = "partial-"  # how the hub names splits of which it converted only the beginning
PARQUET = ".parquet"
DEFAULT = "default"  # the configuration that is read if none is named
_NAME = re.compile(
    r"(?P<repository>[^/@]+(?:/[^/@]+)?)(?:@(?P<revision>refs/[a-z]+/[^/]+|[^/]+))?(?:/(?P<part>(?!@).+))?"
)
_SHARD = re.compile(r"(?:^|/)(\w[\w.]*)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.")
_OTHER = (*TABLE_SUFFIXES, ".txt", ".caption", ".tar")
_TOLD = 8  # configurations that a message names
_MOST_MASKS = 1000
_BLOCK = 2**20

Splits = dict[str, list[str]]  # the files of each split by its name; "" if nothing names it


@dataclasses.dataclass(frozen=True)
class HubName:
    """A dataset on the hub, as `hf://[datasets/]owner/name[@revision][/part]` names it.

    `part` is one of its configurations, or a folder in it; empty for the default one.
    """

    repository: str
    revision: str | None = None
    part: str = ""

    @property
    def source(self) -> str:
        """What its examples name as their source: the dataset's name without its owner's."""
        return self.repository.split("/")[-1]

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repository}{at}{'/' * bool(self.part)}{self.part}"


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: its path, size in bytes, and the hex SHA-256 of what is in LFS.

    For other files, `sha1` is the hash that Git gives them.
    """

    path: str
    size: int | None = None
    sha256: str | None = None
    sha1: str | None = None


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of a repository at a commit, and the `configs` in its card."""

    commit: str
    files: list[RemoteFile]
    configs: list[Any]


@dataclasses.dataclass(frozen=True)
class Found:
    """The files of a dataset, at a commit: Parquet by splits, or a folder of files of other forms.

    Nothing of them is downloaded before `fetch` or `fetch_folder` is called.
    """

    name: HubName
    listing: Listing
    splits: Splits
    folder: str | None = None

    def fetch(self, split: str) -> list[Path]:
        """The local copies of a split's files, downloaded if need be."""
        return _fetch(self.name, self.listing, self.splits[split])

    def fetch_folder(self) -> Path:
        """The local copy of the folder, downloaded if need be."""
        assert self.folder is not None
        files = [path for path in _below(self.listing, self.folder) if _is_data(path)]
        copy = _fetch(self.name, self.listing, files)[0]
        return copy.parents[len(Path(files[0]).parts) - 1] / self.folder

    def size(self, split: str) -> int:
        """How many bytes a split has."""
        sizes = {file.path: file.size or 0 for file in self.listing.files}
        return sum(sizes[path] for path in self.splits[split])


def hub_name(path: str | Path) -> HubName | None:
    """The dataset that `hf://...` names; None for other paths.

    A `Path`, which joins the two slashes into one, is understood too. `~parquet` is the revision of
    the hub's conversion, as in fsspec.

    Raises:
        DataError: it has no name of a dataset.
    """
    if not hub.is_dataset(path):
        return None
    text = str(path)
    rest = text.removeprefix("hf:").strip("/").removeprefix("datasets/")
    found = _NAME.fullmatch(rest)
    if found is None:
        raise DataError(
            f"{text}: names no dataset; give hf://owner/name, with a configuration as "
            "hf://owner/name/CONFIG, or a revision as hf://owner/name@REVISION"
        )
    revision = unquote(found["revision"] or "") or None
    return HubName(
        found["repository"], CONVERTED if revision == "~parquet" else revision, found["part"] or ""
    )


def find(name: HubName) -> Found:
    """Ask the hub for a dataset's files.

    What is known of a dataset that was read before serves where the hub cannot be reached.

    Raises:
        DataError: there is no such dataset, it may not be read, it has no such configuration or
            several of which none was named, or no files that captax reads.
    """
    listing = _listing(name, name.revision)
    if name.revision == CONVERTED:
        chosen = _choose(name, _converted(listing, beginnings=True))
        return Found(name, listing, chosen or _folder_splits(name, listing))
    configs = _own_configs(listing)
    chosen = _choose(name, configs)
    if chosen is None and name.part and _below(listing, name.part):
        chosen = _folder_splits(name, listing)
    if chosen and all(path.endswith(PARQUET) for split in chosen.values() for path in split):
        return Found(name, listing, chosen)
    converted = None if name.revision else _listing(name, CONVERTED, missing_ok=True)
    whole = _converted(converted) if converted else {}
    if converted and whole and (splits := _choose(name, whole)):
        return Found(name, converted, splits)
    folder = "" if name.part in configs else name.part
    if any(map(_is_data, _below(listing, folder))):
        return Found(name, listing, {}, folder)
    beginnings = _converted(converted, beginnings=True) if converted else {}
    if name.part and name.part not in beginnings:
        raise DataError(_no_part(name, {**configs, **whole}))
    if beginnings:
        raise DataError(
            f"{name}: the hub has converted only the beginning of it to Parquet; read that part as "
            f"hf://{name.repository}@~parquet"
        )
    raise DataError(
        f"{name}: has no Parquet, pictures, tables or .tar shards, and the hub has not converted "
        "it to Parquet; captax runs no script of a dataset, so save it as Parquet first"
    )


def _choose(name: HubName, configs: Mapping[str, Splits]) -> Splits | None:
    """The splits of the configuration that `name` asks for; None if there is none of that name."""
    if name.part or not configs:
        return configs.get(name.part)
    if len(configs) > 1 and DEFAULT not in configs:
        raise DataError(
            f"{name}: has several configurations ({_named(configs)}); name one, as "
            f"{dataclasses.replace(name, part=next(iter(configs)))}"
        )
    return configs.get(DEFAULT) or next(iter(configs.values()))


def _folder_splits(name: HubName, listing: Listing) -> Splits:
    """The Parquet files of a folder, by splits."""
    files = [path for path in _below(listing, name.part) if path.endswith(PARQUET)]
    if not files and name.revision == CONVERTED:
        raise DataError(_no_part(name, _converted(listing, beginnings=True)))
    return _by_names(files, name.part)


def _no_part(name: HubName, configs: Iterable[str]) -> str:
    return (
        f"{name}: has neither a configuration nor a folder {quoted(name.part)}; "
        f"give one of {_named(configs) or 'its folders'}"
    )


def _named(configs: Iterable[str]) -> str:
    names = list(configs)
    return ", ".join(names[:_TOLD]) + (", ..." if len(names) > _TOLD else "")


def _own_configs(listing: Listing) -> dict[str, Splits]:
    """The configurations of a card; the one that it makes the default has that name, too."""
    found: dict[str, Splits] = {}
    for config in listing.configs:
        if not isinstance(config, Mapping) or not isinstance(config.get("config_name"), str):
            continue
        folder = str(config.get("data_dir") or "").removeprefix("./").strip("/")
        inside = _below(listing, folder)
        files = config.get("data_files")
        if files is None:
            splits = _by_names([path for path in inside if path.endswith(PARQUET)], folder)
        else:
            splits = _by_patterns(files, inside, folder)
        found[config["config_name"]] = splits
        if config.get("default") is True:
            found[DEFAULT] = splits
    if found:
        return found
    parquet = [file.path for file in listing.files if file.path.endswith(PARQUET)]
    return {DEFAULT: _by_names(parquet, "")} if parquet else {}


def _by_patterns(given: Any, paths: list[str], folder: str) -> Splits:
    """Files by a card's `data_files`: a pattern, several, or some for each split."""
    rows = given if isinstance(given, list) else [given]
    splits: Splits = {}
    for row in rows:
        named = isinstance(row, Mapping)
        split = str(row.get("split", "train")) if named else "train"
        patterns = row.get("path") if named else row
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            if not isinstance(pattern, str):
                continue
            whole = f"{folder}/{pattern}" if folder else pattern
            matched = _glob(whole.removeprefix("./"))
            new = [path for path in paths if matched(path)]
            splits.setdefault(split, []).extend(new)
    return {split: list(dict.fromkeys(files)) for split, files in splits.items() if files}


def _glob(pattern: str) -> Callable[[str], object]:
    """A function that matches paths: `*` and `?` stand for no slash, `**` for anything."""
    plain = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    text = ""
    for piece in re.split(r"(\*\*/|\*\*|\*|\?|\[!?[\w-]+\])", pattern):
        if re.fullmatch(r"\[!?[\w-]+\]", piece):
            text += piece.replace("[!", "[^")
        else:
            text += plain.get(piece, re.escape(piece))
    try:
        return re.compile(text).fullmatch
    except re.error:  # a range that ends before it begins
        return re.compile(re.escape(pattern)).fullmatch


def _by_names(paths: Iterable[str], folder: str) -> Splits:
    """Files by the splits that their own names name, or else the folders that they are in."""
    splits: Splits = {}
    for path in paths:
        inner = path.removeprefix(f"{folder}/") if folder else path
        shard = _SHARD.search(inner)
        *above, own = Path(inner).parts
        folders = [SPLIT_NAMES.get(each) for each in reversed(above)]
        named = split_in(Path(own).stem) or next(filter(None, folders), None)
        splits.setdefault(shard[1] if shard else named or "", []).append(path)
    return splits


def _converted(listing: Listing, *, beginnings: bool = False) -> dict[str, Splits]:
    """The configurations of the hub's conversion, whose files are `CONFIG/SPLIT/0000.parquet`.

    Those of which it converted only the beginning are left out, unless `beginnings` are wanted.
    """
    configs: dict[str, Splits] = {}
    for file in listing.files:
        match Path(file.path).parts:
            case [config, split, _] if file.path.endswith(PARQUET):
                configs.setdefault(config, {}).setdefault(split, []).append(file.path)
    return {
        config: {split.removeprefix(PARTIAL): files for split, files in splits.items()}
        for config, splits in configs.items()
        if beginnings or not any(split.startswith(PARTIAL) for split in splits)
    }


def _below(listing: Listing, folder: str) -> list[str]:
    paths = [file.path for file in listing.files]
    return [path for path in paths if not folder or path.startswith(f"{folder.rstrip('/')}/")]


def _is_data(path: str) -> bool:
    """Whether captax reads such a file of a dataset: a picture, a text, a table or a shard."""
    name = Path(path).name
    if name.startswith(".") or name.lower() in ("dataset_infos.json", "dataset_info.json"):
        return False
    return path.lower().endswith(_OTHER) or is_image_path(Path(path))


def _listing(name: HubName, revision: str | None, *, missing_ok: bool = False) -> Any:
    """What the hub lists, or listed when it was asked last; None for what it does not have."""
    if hub.is_offline():
        return _known(name, revision, "the hub is switched off", missing_ok=missing_ok)
    # Start-up time: huggingface_hub takes 0.4 s.
    from huggingface_hub import HfApi, constants, errors

    with hub.told_errors(name.repository, revision, DataError, dataset=True):
        try:
            info = HfApi(hub.endpoint()).dataset_info(
                name.repository,
                revision=revision,
                timeout=constants.HF_HUB_ETAG_TIMEOUT,
                files_metadata=True,
            )
        except errors.RevisionNotFoundError:
            if missing_ok:
                return None
            raise
        except Exception as error:
            if not hub.is_away(error):
                raise
            why = f"{hub.endpoint()} cannot be reached"
            return _known(name, revision, why, missing_ok=missing_ok)
    card = info.card_data.to_dict() if info.card_data else {}
    configs = card.get("configs")
    files = [
        RemoteFile(
            file.rfilename,
            file.lfs.size if file.lfs else file.size,
            file.lfs.sha256 if file.lfs else None,
            None if file.lfs else file.blob_id,
        )
        for file in info.siblings or []
        if not {"..", ""} & set(file.rfilename.split("/"))
    ]
    # It becomes a part of paths in the cache.
    if not re.fullmatch("[0-9a-f]{40}", str(info.sha)):
        raise DataError(f"{name}: {hub.endpoint()} names no commit of it; check HF_ENDPOINT")
    listing = Listing(str(info.sha), files, configs if isinstance(configs, list) else [])
    try:
        write_text(_kept(name, revision), json.dumps(dataclasses.asdict(listing)), own=True)
    except OutputError as error:
        tell(f"captax: {error}; without it, {name} cannot be read offline", sys.stderr)
    return listing


def _kept(name: HubName, revision: str | None) -> Path:
    """The file in which a listing is kept, for when the hub cannot be reached."""
    what = json.dumps([hub.endpoint(), name.repository, revision])
    digest = hashlib.blake2b(what.encode(), digest_size=16).hexdigest()
    return cache_directory() / "datasets" / f"{digest}.json"


def _known(name: HubName, revision: str | None, why: str, *, missing_ok: bool) -> Listing | None:
    try:
        with own_file(_kept(name, revision), "rb") as file:
            content = parse_json(file.read().decode())
        return Listing(
            content["commit"],
            [RemoteFile(**each) for each in content["files"]],
            content["configs"],
        )
    except (OSError, OutputError, ValueError, KeyError, TypeError):
        if missing_ok:
            return None
        raise DataError(f"{name}: {why}, and no copy of it is cached") from None


def _fetch(name: HubName, listing: Listing, paths: Sequence[str]) -> list[Path]:
    """The local copies of files, in the hub's own cache; those that are new are compared."""
    # Start-up time: huggingface_hub takes 0.4 s.
    from huggingface_hub import snapshot_download, try_to_load_from_cache, utils

    def cached(path: str) -> Path | None:
        found = try_to_load_from_cache(
            name.repository, path, hub.cache(), listing.commit, repo_type="dataset"
        )
        return Path(found) if isinstance(found, str) and Path(found).is_file() else None

    missing = [path for path in paths if cached(path) is None]
    if missing and hub.is_offline():
        raise DataError(
            f"{name}: the hub is switched off, and {missing[0]} is not cached"
            + (f" (nor are {len(missing) - 1} others)" if len(missing) > 1 else "")
        )
    if missing:
        known = {file.path: file for file in listing.files}
        size = sum(known[path].size or 0 for path in missing)
        # In a terminal, a bar shows the rest.
        tell(
            f"captax: downloading {plural(len(missing), 'file')} of {name} ({size / 1e6:,.1f} MB)",
            sys.stderr,
        )
        # A mask for each of thousands of pictures would take the library minutes.
        masks = [glob.escape(path) for path in missing]
        if len(masks) > _MOST_MASKS:
            folder = posixpath.commonpath([posixpath.dirname(path) for path in missing])
            above = f"{glob.escape(folder)}/" if folder else ""
            masks = sorted({f"{above}*{Path(path).suffix}" for path in missing})
        with (
            hub.told_errors(name.repository, name.revision, DataError, dataset=True),
            no_bars_in_logs(utils),
        ):
            snapshot_download(
                name.repository,
                repo_type="dataset",
                revision=listing.commit,
                endpoint=hub.endpoint(),
                cache_dir=hub.cache(),
                allow_patterns=masks,
            )
        # All of them: what stays in the cache is not compared again.
        wrong = [path for path in missing if not _arrived(known[path], cached(path))]
        if wrong:
            others = f" (nor did {plural(len(wrong) - 1, 'other')})" if len(wrong) > 1 else ""
            raise DataError(
                f"{name}: {wrong[0]} did not arrive as the hub lists it{others}, and was removed; "
                "run it again"
            )
    return [copy for path in paths if (copy := cached(path)) is not None]


def _arrived(file: RemoteFile, copy: Path | None) -> bool:
    """Whether a copy is what the hub lists; one that is not is removed."""
    if copy is None:
        return False
    size = copy.stat().st_size
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % size)
    wanted = file.sha256 or file.sha1
    if file.size in (None, size):
        with copy.open("rb") as content:
            while block := content.read(_BLOCK):
                digest.update(block)
        if wanted in (None, digest.hexdigest()):
            return True
    blob = copy.resolve()
    copy.unlink()
    blob.unlink(missing_ok=True)
    return False
