"""The decoding options of a checkpoint, which a call may change."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from captax.errors import nearest, quoted
from captax.generation.automaton import schema_text
from captax.generation.beam import Beam, DiverseBeam
from captax.generation.constraints import Constraints, Phrase, shortest_spelling
from captax.generation.decoding import GenerationError, Strategy
from captax.generation.strategies import Greedy, Sample
from captax.models.config import Roles, checked_fields
from captax.text import Borders

# New tokens if neither the checkpoint nor the caller gives a limit, as in transformers.
DEFAULT_NEW_TOKENS = 20

# Options of transformers' `generate` that captax does not support, with the values that have no
# effect.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "constraints": (),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "exponential_decay_length_penalty": (),
    "guidance_scale": (1.0,),
    "max_time": (),
    "penalty_alpha": (0.0,),
    "sequence_bias": (),
    "token_healing": (False,),
    "top_h": (),
    "typical_p": (1.0,),
    "watermarking_config": (),
}
# Those that only apply to sampling.
SAMPLING = ("epsilon_cutoff", "eta_cutoff", "top_h", "typical_p")
# Marks what captax saved. For some families transformers ignores the decoding options of a
# checkpoint; captax obeys those that it wrote itself.
MARK = {"saved_by": "captax"}
NEW_TOKENS = "captax_max_new_tokens"


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """Decoding options, with the names and the meaning that they have in transformers' `generate`.

    A caption has at most `max_new_tokens` tokens. If that is None, it has at most `max_length`
    tokens together with its prompt; if both are None, 20 new tokens, or fewer if the model can read
    no more. `min_length` counts the prompt too. `best_of` captions are sampled and those with the
    highest scores returned. `force_words_ids` holds phrases that a caption must contain; each is a
    sequence of tokens, or several sequences of which one is enough. A token id that is None is the
    tokenizer's; `eos_token_id` may hold several ids. `end_loops`, which transformers does not have,
    ends a caption that says the same again and again for 64 tokens or more, and cuts the copies.
    A caption ends before the first of `stop_strings`, which transformers leaves in it. Of those
    that transformers does not have: with a `json_schema`, captions are JSON that the schema
    describes; a caption has at most `max_words` words after its prompt, which white space divides;
    and without `preamble` it does not begin with words about itself, such as "This image shows".
    """

    num_beams: int = 3
    max_new_tokens: int | None = 20
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    num_return_sequences: int = 1
    decoder_start_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    max_length: int | None = None
    min_length: int = 0
    min_new_tokens: int = 0
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float | None = None
    best_of: int | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    renormalize_logits: bool = False
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: tuple[int, ...] = ()
    bad_words_ids: tuple[Phrase, ...] = ()
    force_words_ids: tuple[tuple[Phrase, ...], ...] = ()
    end_loops: bool = True
    stop_strings: tuple[str, ...] = ()
    json_schema: str | None = None
    max_words: int | None = None
    preamble: bool = True

    @property
    def strategy(self) -> Strategy:
        """Sampling if `do_sample`; else greedy for one beam, and beam search for more."""
        if self.do_sample:
            if self.num_beams > 1:
                raise GenerationError(
                    f"`do_sample=True` is not supported with {self.num_beams} beams; use "
                    "`num_beams=1`"
                )
            sampling = ("temperature", "top_k", "top_p", "min_p", "num_return_sequences", "best_of")
            return Sample(
                length_penalty=self.length_penalty,
                **{name: getattr(self, name) for name in sampling},
            )
        if self.best_of is not None:
            raise GenerationError("`best_of` only applies to sampling; add `do_sample=True`")
        if self.num_beams == 1 and self.num_return_sequences == 1:
            return Greedy(length_penalty=self.length_penalty)
        shared: dict[str, Any] = {
            "num_beams": self.num_beams,
            "length_penalty": self.length_penalty,
            "early_stopping": self.early_stopping,
            "num_return_sequences": self.num_return_sequences,
        }
        if self.num_beam_groups == 1:
            if self.diversity_penalty:
                raise GenerationError(
                    "`diversity_penalty` only applies to groups of beams; add `num_beam_groups`"
                )
            return Beam(**shared)
        return DiverseBeam(
            num_beam_groups=self.num_beam_groups, diversity_penalty=self.diversity_penalty, **shared
        )

    @property
    def constraints(self) -> Constraints:
        """What captions must and must not contain. Raises `GenerationError` for invalid options."""
        names = [field.name for field in dataclasses.fields(Constraints)]
        if not self.repetition_penalty > 0:
            raise GenerationError(
                f"`repetition_penalty` is {self.repetition_penalty}; use more than 0 (1 is none)"
            )
        for name in ("no_repeat_ngram_size", "min_length", "min_new_tokens"):
            if getattr(self, name) < 0:
                raise GenerationError(f"`{name}` is {getattr(self, name)}; it must be 0 or more")
        if self.max_words is not None and self.max_words < 1:
            raise GenerationError(f"`max_words` is {self.max_words}; it must be 1 or more")
        return Constraints(**{name: getattr(self, name) for name in names})

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """All tokens that end a caption."""
        eos = self.eos_token_id
        return eos if isinstance(eos, tuple) else () if eos is None else (eos,)

    @property
    def forced_begin(self) -> tuple[int, ...]:
        """The token that every caption begins with, if decoding forces one."""
        forced = self.forced_bos_token_id
        return () if forced is None else (forced,)

    @property
    def usual_limit(self) -> int:
        """The largest number of tokens that follow a prompt of one token."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        return DEFAULT_NEW_TOKENS if self.max_length is None else self.max_length - 1

    def limits(
        self, prompts: np.ndarray, max_positions: int, borders: Borders | None = None
    ) -> np.ndarray:
        """The largest number of tokens for each caption with its prompt.

        `prompts` holds the number of tokens in each prompt. Raises `GenerationError` if there is no
        room for a new token, or for the required words.
        """
        if self.max_new_tokens is not None:
            limits = prompts + self.max_new_tokens
            if self.max_new_tokens < 1:
                raise GenerationError(
                    f"`max_new_tokens` is {self.max_new_tokens}; it must be 1 or more"
                )
        elif self.max_length is not None:
            limits = np.full_like(prompts, self.max_length)
            if self.max_length <= prompts.max():
                raise GenerationError(
                    f"`max_length` is {self.max_length} and counts the prompt, which has "
                    f"{prompts.max()} tokens; use more, or use `max_new_tokens`"
                )
        else:
            limits = np.minimum(prompts + DEFAULT_NEW_TOKENS, max_positions)
            limits = np.maximum(limits, prompts + 1)
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise GenerationError(
                f"`min_new_tokens` is {self.min_new_tokens}; it must be at most `max_new_tokens`, "
                f"which is {self.max_new_tokens}"
            )
        needed = sum(shortest_spelling(phrase, borders) for phrase in self.force_words_ids)
        room = int((limits - prompts).min()) - bool(self.forced_eos_token_id)
        if room < needed:
            raise GenerationError(
                f"the required words need {needed} tokens and a caption has {room}; use a higher "
                "`max_new_tokens`"
            )
        return limits

    def replace(self, **options: Any) -> "GenerationConfig":
        """A copy with other options.

        More sequences than beams widen the beam, unless `num_beams` is given. `do_sample` sets one
        beam, unless `num_beams` is given. `max_length` replaces `max_new_tokens`, and the reverse.
        Raises `GenerationError` for an unknown option.
        """
        known = [field.name for field in dataclasses.fields(self)]
        for name in options:
            if name in UNSUPPORTED:
                raise GenerationError(
                    f"captax does not support the option `{name}` of transformers; leave it out"
                )
            if name not in known:
                raise GenerationError(f"unknown option {quoted(name)}{nearest(name, known)}")
        if not options.get("do_sample", self.do_sample):
            for name in ("temperature", "top_k", "top_p", "min_p"):
                if options.get(name, getattr(self, name)) != getattr(self, name):
                    raise GenerationError(
                        f"`{name}` only applies to sampling; add `do_sample=True`"
                    )
        if options.get("do_sample"):
            options.setdefault("num_beams", 1)
        elif "num_return_sequences" in options and not options.get("do_sample", self.do_sample):
            count, beams = options["num_return_sequences"], options.get("num_beams")
            if beams is not None and count > beams:
                raise GenerationError(
                    f"`num_return_sequences` is {count}, more than `num_beams`, which is {beams}; "
                    f"use `num_beams={count}`, or `do_sample=True`"
                )
            options["num_beams"] = beams or max(count, self.num_beams)
        if options.get("max_length") is not None:
            options.setdefault("max_new_tokens", None)
        return dataclasses.replace(self, **_frozen(options))

    @classmethod
    def read(cls, stored: Mapping[str, Any], roles: Roles) -> "GenerationConfig":
        """The options in a `generation_config.json`, or in a `config.json` that holds its keys.

        `roles` are the token ids that the model's config names. The defaults are those of
        transformers: greedy, 20 new tokens. Warns of options that captax does not support.
        """
        ours = all(stored.get(key) == value for key, value in MARK.items())
        if roles.binding and not ours:
            stored = {}
        said = {key: value for key, value in stored.items() if value is not None}
        for name, neutral in UNSUPPORTED.items():
            if said.get(name) in (None, *neutral):
                continue
            if name not in SAMPLING or said.get("do_sample"):
                warnings.warn(
                    f"the checkpoint sets the decoding option {name}={quoted(said[name])}, which "
                    "captax "
                    "does not support; captions may differ from those of transformers",
                    stacklevel=2,
                )
        if ours and NEW_TOKENS in said:
            said = {**said, "max_new_tokens": said[NEW_TOKENS], "max_length": None}
        known = {field.name for field in dataclasses.fields(cls)}
        options = {key: value for key, value in said.items() if key in known}
        options.setdefault("num_beams", 1)
        options.setdefault("max_new_tokens", None)
        options.setdefault("decoder_start_token_id", said.get("bos_token_id"))
        named = {
            "decoder_start_token_id": roles.start,
            "eos_token_id": roles.eos,
            "pad_token_id": roles.pad,
        }
        for key, value in named.items():
            if value is not None and (roles.binding or options.get(key) is None):
                options[key] = value
        try:
            options = _frozen(options)
        except (TypeError, LookupError) as error:
            raise GenerationError(f"a list of token ids was expected: {error}") from None
        return cls(**checked_fields(cls, options))

    def write(self) -> dict[str, Any]:
        """The contents of a `generation_config.json`, which transformers can read as well.

        There, the greatest length is `max_length`, which counts the start token. transformers
        would prefer a `max_new_tokens` of the file to a `max_length` of the caller, so captax's own
        limit has a name of its own.
        """
        contents = {**self.changed(), "bos_token_id": self.decoder_start_token_id, **MARK}
        if (most := contents.pop("max_new_tokens", None)) is not None:
            contents |= {"max_length": 1 + most, NEW_TOKENS: most}
        return contents

    def changed(self) -> dict[str, Any]:
        """The options that are not the defaults, and some that transformers should always see."""
        default = GenerationConfig(num_beams=1, max_new_tokens=None)
        always = ("num_beams", "length_penalty", "early_stopping", "num_return_sequences")
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name in always or value != getattr(default, name)
        }


def _frozen(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options in the form that the config holds: tuples for lists, empty ones for None."""
    frozen: dict[str, Any] = {}
    for name, value in options.items():
        if name in ("suppress_tokens", "begin_suppress_tokens"):
            value = tuple(value or ())
        elif name == "forced_eos_token_id":
            value = () if value is None else (value,) if isinstance(value, int) else tuple(value)
        elif name == "bad_words_ids":
            value = tuple(tuple(phrase) for phrase in value or ())
        elif name == "force_words_ids":
            value = tuple(
                (tuple(phrase),) if isinstance(phrase[0], int) else tuple(map(tuple, phrase))
                for phrase in value or ()
            )
        elif name == "eos_token_id" and isinstance(value, list | tuple):
            value = tuple(dict.fromkeys(value))
            value = value[0] if len(value) == 1 else value
        elif name == "stop_strings":
            value = (value,) if isinstance(value, str) else tuple(value or ())
            if not all(isinstance(text, str) and text for text in value):
                raise GenerationError("`stop_strings` holds a text that is empty; leave it out")
        elif name == "json_schema" and value is not None:
            value = schema_text(value)
        elif name in ("min_length", "min_new_tokens", "no_repeat_ngram_size", "top_k"):
            value = value or 0
        frozen[name] = value
    return frozen
