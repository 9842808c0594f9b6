"""What `captax caption --endpoint` needs: a captioner that asks a server elsewhere."""

import os
from typing import TYPE_CHECKING, Any

from captax.cli.options import spelt
from captax.errors import CaptaxError, OptionError, quoted

if TYPE_CHECKING:
    from captax.pipelines.endpoint import EndpointCaptioner

API_KEY = "OPENAI_API_KEY"
# Pictures at a time: in this process, and asked of a server; and the longest side that is sent.
BATCH, CONCURRENCY, MAX_SIDE = 32, 4, 1024
SHOWN = 10  # names of models in a message


def refuse_local(options: dict[str, Any], others: dict[str, bool]) -> None:
    """Raise `CaptaxError` for an option that a server elsewhere cannot be given.

    `options` are those of decoding, and `others` are whether each was given.
    """
    # Start-up time.
    from captax.pipelines.endpoint import body_of

    for option, given in others.items():
        if given:
            raise CaptaxError(f"{option} is for captioners in this process; leave it out")
    try:
        own = {"system", "raw", "preamble"}
        body_of("", **{name: options[name] for name in options.keys() - own})
    except OptionError as error:
        raise CaptaxError(spelt(str(error))) from None


def connect(
    url: str, model: str | None, *, concurrency: int, max_side: int, variable: str
) -> "EndpointCaptioner":
    """A captioner that asks the server at `url`, which is there.

    Raises:
        CaptaxError: it is not, or it has several models and none was named.
    """
    # Start-up time.
    from captax.pipelines.endpoint import Endpoint, EndpointCaptioner

    key = os.environ.get(variable, "").strip() or None
    if key is None and variable != API_KEY:
        raise CaptaxError(f"--api-key-env is {variable}, which is not set; set it to the key")
    endpoint = Endpoint(url, key)
    names = endpoint.models()
    if model is None:
        if len(names) != 1:
            shown = ", ".join(map(quoted, names[:SHOWN]))
            told = f"; it has {shown}" if names else ""
            raise CaptaxError(f"{url}: name one of the server's models by --model{told}")
        [model] = names
    return EndpointCaptioner(endpoint, model, concurrency=concurrency, max_side=max_side)
