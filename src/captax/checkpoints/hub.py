"""Downloads checkpoints from the Hugging Face hub, and uploads them."""

import fnmatch
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from captax.checkpoints.names import BUILT_IN, DEFAULT, FORMER_NAMES
from captax.checkpoints.state import CheckpointError
from captax.checkpoints.weights import FOREIGN, NAMES
from captax.errors import quoted
from captax.progress import no_bars_in_logs

DEFAULT_ENDPOINT = "https://huggingface.co"
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
    if offline or _is_offline():
        return _cached(name, revision, "the hub is switched off")
    # Start-up time: huggingface_hub takes 0.4 s.
    from huggingface_hub import HfApi, constants, snapshot_download, utils

    with _errors(name, revision), no_bars_in_logs(utils):
        try:
            info = HfApi(_endpoint(), token=token).model_info(
                name, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT
            )
        except Exception as error:
            if not _is_away(error):
                raise
            return _cached(name, revision, f"{_endpoint()} cannot be reached")
        wanted = _wanted(name, [file.rfilename for file in info.siblings or []])
        folder = snapshot_download(
            name,
            revision=revision,
            token=token,
            endpoint=_endpoint(),
            cache_dir=_cache(),
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
    if _is_offline():
        raise HubError(f"{name}: cannot be uploaded while HF_HUB_OFFLINE is set; unset it")
    # Start-up time: huggingface_hub takes 0.4 s.
    from huggingface_hub import CommitOperationAdd, HfApi, utils

    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    for path in files:
        _check_own(path, directory)
    places = [path.relative_to(directory) for path in files]
    with _errors(name, None, writing=True), no_bars_in_logs(utils):
        api = HfApi(_endpoint(), token=token)
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
    return f"{_endpoint()}/{repository}"


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
            cache_dir=_cache(),
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


@contextmanager
def _errors(name: str, revision: str | None, *, writing: bool = False) -> Iterator[None]:
    """Turn an error of the hub, or of the connection to it, into a `HubError` of one line."""
    # Start-up time: huggingface_hub takes 0.4 s.
    from huggingface_hub import errors

    where = f"{_endpoint()}/{name}"
    login = "give a token (HF_TOKEN, or `hf auth login`)"
    try:
        yield
    except CheckpointError:
        raise
    except errors.GatedRepoError:
        reason = f"is gated; accept its terms at {where} and {login}"
    except errors.RepositoryNotFoundError:
        if writing:
            reason = f"cannot be written to; {login} that may write to it"
        else:
            reason = (
                f"no such directory, and no such repository at {where}; if it is private, {login}"
            )
    except errors.RevisionNotFoundError:
        reason = f"has no revision {quoted(revision)}; give a branch, tag or commit of {where}"
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            act = "write to" if writing else "read"
            reason = f"the hub does not let you {act} it ({status}); {login} that may"
        else:
            reason = f"the hub answered {status} ({error.server_message or 'no reason given'})"
    except errors.HFValidationError:
        reason = "not a name for a repository; give org/name"
    except ValueError as error:
        reason = str(error)
    except (errors.HTTPError, OSError, RuntimeError) as error:
        cause = error.__cause__ or error
        done = "upload" if writing else "download"
        reason = f"the {done} failed ({type(cause).__name__}: {cause}); run it again to continue"
    else:
        return
    raise HubError(" ".join(f"{name}: {reason}".split()))


def _is_away(error: Exception) -> bool:
    """Whether the hub did not answer, or something on the way to it answered in its place."""
    # Start-up time: huggingface_hub takes 0.4 s.
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code >= 500
    # An answer that is not JSON comes from a proxy or a login page, not from the hub.
    return isinstance(error, errors.HTTPError | OSError | ValueError)


# The library reads these variables once, when it is imported; a notebook may set them later.
def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def _cache() -> Path | None:
    if cache := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(cache)
    return Path(home, "hub") if (home := os.environ.get("HF_HOME")) else None


def _is_offline() -> bool:
    switch = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return switch.upper() in ("1", "ON", "YES", "TRUE")
