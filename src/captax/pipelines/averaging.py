"""Average the weights of several checkpoints of one model, as of one training run."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from captax.checkpoints import hub
from captax.checkpoints.directory import CONFIG, load_model, save_model, write_directory
from captax.errors import CaptaxError
from captax.files import parse_json
from captax.pipelines.conversion import companions_of, copy_companions
from captax.pipelines.generator import CONFIDENCE

# Files that tell of one set of weights, and are not copied.
_OF_WEIGHTS = (CONFIDENCE, "README.md")
# They may differ, and so may options, which do not change what the weights mean.
_OWN = (*_OF_WEIGHTS, "generation_config.json")


def average(sources: Sequence[str], out: Path, *, dtype: str = "float32") -> None:
    """Write a checkpoint directory, `out`, whose weights are the mean of those of all `sources`.

    The sources are checkpoint directories or hub names of the same model: other epochs or stages of
    a run, or runs that began with the same weights. Such a mean often generalises better than each
    of them (Wortsman et al., *Model soups*, https://arxiv.org/abs/2203.05482). The tokenizer and
    the options are those of the first source. A source that is named twice counts twice. Raises
    `CaptaxError` for sources that are not the same model.
    """
    if len(sources) < 2:
        raise CaptaxError("give two checkpoints or more to average")
    first, *others = [hub.fetch(source) for source in sources]
    model = load_model(first)
    total = nnx.state(model)
    for other in others:
        if difference := _difference(first, other):
            raise CaptaxError(
                f"{other}: {difference} is not that of {first}; give checkpoints of one model"
            )
        total = jax.tree.map(jnp.add, total, nnx.state(load_model(other)))
    nnx.update(model, jax.tree.map(lambda value: value / len(sources), total))

    def write(folder: Path) -> None:
        save_model(folder, model, dtype=dtype)
        kept = [path for path in companions_of(first) if path.name not in _OF_WEIGHTS]
        copy_companions(kept, first, folder)

    write_directory(out, write)


def _difference(first: Path, other: Path) -> str | None:
    """The name of a file in which two checkpoints are not the same model."""
    configs = [parse_json((each / CONFIG).read_text("utf-8")) for each in (first, other)]
    for config in configs:
        config.pop("dtype", None)
    if configs[0] != configs[1]:
        return CONFIG
    for path in companions_of(first):
        there = other / path
        if path.name not in _OWN and (
            not there.is_file() or there.read_bytes() != (first / path).read_bytes()
        ):
            return str(path)
    return None
