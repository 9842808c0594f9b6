"""How text is decoded unless a call says otherwise."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from captax.generation.strategies import Beam, GenerationError, Greedy, Strategy
from captax.models.config import Roles


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """Options bear the names of transformers' `generate`, and mean the same.

    Token ids that are None are the tokenizer's.
    """

    num_beams: int = 3
    max_new_tokens: int = 20
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    num_return_sequences: int = 1
    decoder_start_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None

    @property
    def strategy(self) -> Strategy:
        """Greedy for one beam, else beam search."""
        if self.num_beams == 1 and self.num_return_sequences == 1:
            return Greedy(length_penalty=self.length_penalty)
        return Beam(
            num_beams=self.num_beams,
            length_penalty=self.length_penalty,
            early_stopping=self.early_stopping,
            num_return_sequences=self.num_return_sequences,
        )

    def replace(self, **options: Any) -> "GenerationConfig":
        """This with other options; more sequences asked for than there are beams widen the beam.

        Raises `GenerationError` for an option that there is not.
        """
        known = [field.name for field in dataclasses.fields(self)]
        unknown = sorted(options.keys() - set(known))
        if unknown:
            raise GenerationError(f"unknown options {unknown}; known are {', '.join(known)}")
        wanted = options.get("num_return_sequences")
        if wanted is not None and wanted > options.get("num_beams", self.num_beams):
            options = {**options, "num_beams": wanted}
        return dataclasses.replace(self, **options)

    @classmethod
    def read(cls, stored: Mapping[str, Any], roles: Roles) -> "GenerationConfig":
        """From a `generation_config.json`, or from a `config.json` that holds its keys.

        `roles` are the token ids that the model's config names. What neither says is as
        transformers has it: greedy, and a `max_length` of 20 that counts the token it starts with.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        said = {key: value for key, value in stored.items() if value is not None}
        options = {key: value for key, value in said.items() if key in known}
        options.setdefault("num_beams", 1)
        options.setdefault("max_new_tokens", max(1, said.get("max_length", 20) - 1))
        options.setdefault("decoder_start_token_id", said.get("bos_token_id"))
        named = {
            "decoder_start_token_id": roles.start,
            "eos_token_id": roles.eos,
            "pad_token_id": roles.pad,
        }
        for key, value in named.items():
            if value is not None and (roles.binding or options.get(key) is None):
                options[key] = value
        eos = options.get("eos_token_id")
        if isinstance(eos, list):
            if len(set(eos)) != 1:
                raise GenerationError(f"eos_token_id {eos}: several are not supported; name one")
            options["eos_token_id"] = eos[0]
        return cls(**options)

    def write(self) -> dict[str, Any]:
        """The contents of a `generation_config.json`, which transformers reads too."""
        contents = dataclasses.asdict(self)
        return {**contents, "bos_token_id": self.decoder_start_token_id}
