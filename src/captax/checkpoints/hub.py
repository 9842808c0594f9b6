"""Checkpoints from and to the Hugging Face hub."""

import fnmatch
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from captax.checkpoints.state import CheckpointError
from captax.checkpoints.weights import FOREIGN, NAMES

DEFAULT_ENDPOINT = "https://huggingface.co"
# Everything a checkpoint has beside its weights: configs, vocabularies, merges, tokenizers.
SMALL = ("*.json", "*.txt", "*.model", "*.bpe")
UNREAD = ("trainer_state.json", "requirements*.txt")
WEIGHTS = {
    "model.safetensors": "model.safetensors",
    "model.safetensors.index.json": "*.safetensors",
    "pytorch_model.bin": "pytorch_model.bin",
    "pytorch_model.bin.index.json": "pytorch_model*.bin",
}


class HubError(CheckpointError):
    """A checkpoint cannot be taken from, or put on, the Hugging Face hub."""


def fetch(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
) -> Path:
    """The directory of a checkpoint: `name` itself, or what the hub has as `name`.

    A hub name is `org/name`, or one word such as `gpt2`; `revision` is a branch, tag or commit.
    What captax reads of it, and no code, is kept in the hub's own cache and taken from there when
    the network is away or `offline` is set. The library's variables hold: HF_HOME, HF_ENDPOINT,
    HF_TOKEN, HF_HUB_OFFLINE. Raises `HubError` when there is no such checkpoint or no access.
    """
    if os.fspath(name) and Path(name).is_dir():
        return Path(name)
    name = _checked(name)
    if offline or _is_offline():
        return _cached(name, revision, "not looking on the hub, which is switched off")
    # Start-up time: huggingface_hub takes 0.4 s.
    from huggingface_hub import HfApi, constants, snapshot_download

    with _errors(name, revision):
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
    """Put a checkpoint directory on the hub in one commit, its README.md as the model card.

    The repository is made, `private` or not, if there is none. Returns its URL. Raises `HubError`
    when `directory` is no checkpoint, or the hub does not let this token write there.
    """
    directory = Path(directory)
    if not (directory / "config.json").is_file() or not any(
        (directory / weights).is_file() for weights in NAMES
    ):
        raise HubError(f"{directory}: not a checkpoint; one has config.json and {NAMES[0]}")
    if _is_offline():
        raise HubError(f"{name}: cannot be uploaded while HF_HUB_OFFLINE is set")
    # Start-up time: huggingface_hub takes 0.4 s.
    from huggingface_hub import CommitOperationAdd, HfApi

    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    places = [path.relative_to(directory) for path in files]
    with _errors(name, None, writing=True):
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


def _checked(name: str | os.PathLike[str]) -> str:
    """A name that the hub could have."""
    # Start-up time: huggingface_hub takes 0.4 s.
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    text = os.fspath(name)
    if Path(text).is_file():
        raise HubError(f"{text}: is a file; give the directory of a checkpoint")
    looks_like_path = text.startswith((".", "~")) or "\\" in text or text.count("/") > 1
    if not isinstance(name, str) or looks_like_path or Path(text).is_absolute():
        raise HubError(f"{text}: no such directory")
    try:
        validate_repo_id(text)
    except HFValidationError:
        raise HubError(
            f"{text!r}: neither a directory nor a name on the hub, such as org/name"
        ) from None
    return text


def _wanted(name: str, files: Iterable[str]) -> list[str]:
    """Of a repository's files, those that captax reads: weights of one form, and what is small."""
    files = [file for file in files if "/" not in file]
    weights = next((first for first in NAMES if first in files), None)
    if weights is None:
        foreign = {kind for mask, kind in FOREIGN.items() if fnmatch.filter(files, mask)}
        only = f"; only {' and '.join(sorted(foreign))}, which is not supported" if foreign else ""
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
    raise HubError(f"{which}: no such directory here, {why}, and no copy of it is cached")


@contextmanager
def _errors(name: str, revision: str | None, *, writing: bool = False) -> Iterator[None]:
    """Say in one line what the hub, or the way to it, answered."""
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
            reason = f"cannot be written to; {login} that may"
        else:
            reason = f"no such directory, and no such repository at {where}; if private, {login}"
    except errors.RevisionNotFoundError:
        reason = f"has no revision {revision!r}; give a branch, tag or commit of {where}"
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
        reason = f"the {done} broke off ({type(cause).__name__}: {cause}); run it again to go on"
    else:
        return
    raise HubError(" ".join(f"{name}: {reason}".split()))


def _is_away(error: Exception) -> bool:
    """Whether the hub gave no answer, or none of its own."""
    # Start-up time: huggingface_hub takes 0.4 s.
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code >= 500
    # What is not JSON came from something between: a proxy, the page one logs in at.
    return isinstance(error, errors.HTTPError | OSError | ValueError)


# The library reads these variables once, when it is imported; a notebook sets them later.
def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def _cache() -> Path | None:
    if cache := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(cache)
    return Path(home, "hub") if (home := os.environ.get("HF_HOME")) else None


def _is_offline() -> bool:
    switch = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return switch.upper() in ("1", "ON", "YES", "TRUE")
