"""Downloads checkpoints from the Hugging Face hub, and uploads them."""

import fnmatch
import os
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from captax.checkpoints.names import BUILT_IN, DEFAULT, FORMER_NAMES
from captax.checkpoints.state import CheckpointError
from captax.checkpoints.weights import FOREIGN, NAMES
from captax.errors import quoted
from captax.hub import cache, endpoint, is_away, is_offline, told_errors
from captax.progress import no_bars_in_logs

# Everything in a checkpoint besides its weights: configs, vocabularies, merges, tokenizers.
SMALL = ("*.json", "*.txt", "*.model", "*.bpe", "chat_template.jinja", "selected_tags.csv")
UNREAD = ("trainer_state.json", "requirements*.txt")
WEIGHTS = {
    "model.safetensors": "model.safetensors",
    "model.safetensors.index.json": "*.safetensors",
    "pytorch_model.bin": "pytorch_model.bin",
    "pytorch_model.bin.index.json": "pytorch_model*.bin",
}


class HubError(CheckpointError):
    """A checkpoint cannot be downloaded from, or uploaded to, the Hugging Face hub."""


def fetch(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
) -> Path:
    """The directory of a checkpoint: `name` itself, or the hub's checkpoint of that name.

    `default` is the built-in captioner, also beside a directory of that name (give `./default`). So
    are its own name and its former ones, where there is no such directory.
    A hub name is `org/name`, or one word such as `gpt2`; `revision` is a branch, tag or commit.
    Only the files that captax reads are downloaded, and no code. They are kept in the hub's own
    cache and read from there when the network is down or `offline` is set. The hub's environment
    variables apply: HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE. Raises `HubError` when the
    checkpoint does not exist or may not be read.
    """
    if name == DEFAULT:
        return Path(str(resources.files("captax") / "assets" / BUILT_IN))
    if os.fspath(name) and Path(name).is_dir():
        return Path(name)
    if name in (BUILT_IN, *FORMER_NAMES):
        return fetch(DEFAULT)
    name = _checked(name)
    if offline or is_offline():
        return _cached(name, revision, "the hub is switched off")
    # Start-up time: huggingface_hub takes 0.4 s.
    from huggingface_hub import HfApi, constants, snapshot_download, utils

    with told_errors(name, revision, HubError), no_bars_in_logs(utils):
        try:
            info = HfApi(endpoint(), token=token).model_info(
                name, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT
            )
        except Exception as error:
            if not is_away(error):
                raise
            return _cached(name, revision, f"{endpoint()} cannot be reached")
        wanted = _wanted(name, [file.rfilename for file in info.siblings or []])
        folder = snapshot_download(
            name,
            revision=revision,
            token=token,
            endpoint=endpoint(),
            cache_dir=cache(),
            allow_patterns=wanted,
        )
    return Path(folder)


def push(
    directory: Path,
    name: str,
    *,
    token: str | None = None,
    private: bool = False,
    message: str = "Upload captioner with captax",
) -> str:
    """Upload a checkpoint directory to the hub in one commit; README.md becomes the model card.

    The repository is created, `private` or public, if it does not exist. Returns its URL. Raises
    `HubError` when `directory` is not a checkpoint, or the token may not write there.
    """
    directory = Path(directory)
    if not (directory / "config.json").is_file() or not any(
        (directory / weights).is_file() for weights in NAMES
    ):
        raise HubError(f"{directory}: not a checkpoint; it needs config.json and {NAMES[0]}")
    if is_offline():
        raise HubError(f"{name}: cannot be uploaded while HF_HUB_OFFLINE is set; unset it")
    # Start-up time: huggingface_hub takes 0.4 s.
    from huggingface_hub import CommitOperationAdd, HfApi, utils

    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    for path in files:
        _check_own(path, directory)
    places = [path.relative_to(directory) for path in files]
    with told_errors(name, None, HubError, writing=True), no_bars_in_logs(utils):
        api = HfApi(endpoint(), token=token)
        url = api.create_repo(name, private=private, exist_ok=True)
        repository = name if "/" in name else url.repo_id
        api.create_commit(
            repository,
            [
                CommitOperationAdd(place.as_posix(), path)
                for path, place in zip(files, places, strict=True)
                if not any(part.startswith(".") for part in place.parts)
            ],
            commit_message=message,
        )
    return f"{endpoint()}/{repository}"


def _check_own(path: Path, directory: Path) -> None:
    """Raise `HubError` if a link would publish a file that is not of the checkpoint.

    In the hub's own cache, files are links to the `blobs` beside the `snapshots`.
    """
    real, home = path.resolve(), directory.resolve()
    if not real.is_relative_to(home) and not (
        home.parent.name == "snapshots" and real.parent == home.parent.parent / "blobs"
    ):
        raise HubError(
            f"{path}: is a link to {real}, outside of the directory, so nothing is uploaded; "
            "remove it, or put a copy of the file there"
        )


def _checked(name: str | os.PathLike[str]) -> str:
    """Return `name` if the hub could have a checkpoint of that name."""
    # Start-up time: huggingface_hub takes 0.4 s.
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    text = os.fspath(name)
    if Path(text).is_file():
        raise HubError(f"{text}: is a file; give the directory of a checkpoint")
    looks_like_path = text.startswith((".", "~")) or "\\" in text or text.count("/") > 1
    if not isinstance(name, str) or looks_like_path or Path(text).is_absolute():
        raise HubError(f"{text}: no such directory; give a directory or a name on the hub")
    try:
        validate_repo_id(text)
    except HFValidationError:
        raise HubError(
            f"{quoted(text)}: neither a directory nor a name on the hub, such as org/name"
        ) from None
    return text


def _wanted(name: str, files: Iterable[str]) -> list[str]:
    """The files of a repository that captax reads: one form of weights, and all small files."""
    files = [file for file in files if "/" not in file]
    weights = next((first for first in NAMES if first in files), None)
    if weights is None:
        foreign = {kind for mask, kind in FOREIGN.items() if fnmatch.filter(files, mask)}
        kinds = " and ".join(sorted(foreign))
        only = f"; it only has {kinds} weights, which are not supported" if foreign else ""
        raise HubError(f"{name}: has no weights that captax reads ({', '.join(NAMES)}){only}")
    masks = (*SMALL, WEIGHTS[weights])
    return [
        file
        for file in files
        if any(fnmatch.fnmatchcase(file, mask) for mask in masks)
        and not any(fnmatch.fnmatchcase(file, mask) for mask in UNREAD)
    ]


def _cached(name: str, revision: str | None, why: str) -> Path:
    # Start-up time: huggingface_hub takes 0.4 s.
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            name,
            revision=revision,
            cache_dir=cache(),
            local_files_only=True,
            allow_patterns=["config.json"],
        )
    except OSError:
        pass
    else:
        if any((Path(folder) / weights).is_file() for weights in NAMES):
            return Path(folder)
    which = f"{name} at {revision}" if revision else name
    raise HubError(f"{which}: no such directory, {why}, and no copy of it is cached")
