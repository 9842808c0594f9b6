"""The Hugging Face hub: where it is, whether it may be asked, and what its errors mean."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from captax.errors import CaptaxError, quoted

DEFAULT_ENDPOINT = "https://huggingface.co"


def is_dataset(path: str | os.PathLike[str]) -> bool:
    """Whether a path is `hf://...`, which `captax.data` reads; a `Path` has one slash there."""
    return os.fspath(path).startswith("hf:/")


# The library reads these variables once, when it is imported; a notebook may set them later.
def endpoint() -> str:
    """The hub's address: `HF_ENDPOINT`, or the public one."""
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def cache() -> Path | None:
    """The folder of what was downloaded; None for the library's own default."""
    if cache := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(cache)
    return Path(home, "hub") if (home := os.environ.get("HF_HOME")) else None


def is_offline() -> bool:
    """Whether the hub is switched off by `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`."""
    switch = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return switch.upper() in ("1", "ON", "YES", "TRUE")


def is_away(error: Exception) -> bool:
    """Whether the hub did not answer, or something on the way to it answered in its place."""
    # Start-up time: huggingface_hub takes 0.4 s.
    from huggingface_hub import errors

    if isinstance(error, errors.HFValidationError):
        return False
    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code >= 500
    # An answer that is not JSON comes from a proxy or a login page, not from the hub.
    return isinstance(error, errors.HTTPError | OSError | ValueError)


@contextmanager
def told_errors(
    name: str,
    revision: str | None,
    raised: type[CaptaxError],
    *,
    dataset: bool = False,
    writing: bool = False,
) -> Iterator[None]:
    """Turn an error of the hub, or of the connection to it, into a `raised` of one line.

    `name` is the repository, of a model or of a `dataset`. Errors of captax pass unchanged.
    """
    # Start-up time: huggingface_hub takes 0.4 s.
    from huggingface_hub import errors

    where = f"{endpoint()}/{'datasets/' if dataset else ''}{name}"
    login = "give a token (HF_TOKEN, or `hf auth login`)"
    try:
        yield
    except CaptaxError:
        raise
    except errors.GatedRepoError:
        reason = f"is gated; accept its terms at {where} and {login}"
    except errors.RepositoryNotFoundError:
        if writing:
            reason = f"cannot be written to; {login} that may write to it"
        elif dataset:
            reason = f"there is no such dataset at {where}; if it is private, {login}"
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
    shown = f"hf://{name}" if dataset else name
    raise raised(" ".join(f"{shown}: {reason}".split()))
