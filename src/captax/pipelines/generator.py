"""The common base of captioners and text generators: a model, its tokenizer and its options."""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from captax.checkpoints.directory import CARD, CONFIG, read_json, save_model, write_directory
from captax.checkpoints.state import rebuilder
from captax.errors import CheckpointError, quoted
from captax.files import Kind
from captax.generation import (
    Calibration,
    Constraints,
    GenerationConfig,
    GenerationError,
    Loop,
    Prompts,
    Running,
    Sequences,
    Strategy,
    looping,
)
from captax.generation.automaton import Automaton, avoiding, of_schema, of_words, until
from captax.generation.confidence import measure
from captax.generation.constraints import Rules
from captax.generation.loops import LEAST, first_copy_end, settled
from captax.generation.programs import Programs, fill_prompts, here_only, rooms, with_limits
from captax.generation.result import Alternative
from captax.models.registry import ConfigError, model_config
from captax.pipelines.replicas import Replicated
from captax.text import Borders, TextError, Tokenizer
from captax.text.growing import steady, told
from captax.text.preambles import BEGINNINGS, without_preamble

GENERATION = "generation_config.json"
CONFIDENCE = "confidence.json"


# How many automata are kept: of each schema, of each set of texts to end at, and so on.
_AUTOMATA = 16
# Constraints that forbid tokens, whatever a schema needs.
_AGAINST_SCHEMAS = (
    *("min_length", "min_new_tokens", "no_repeat_ngram_size", "bad_words_ids", "force_words_ids"),
    *("suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id", "stop_strings"),
    *("max_words", "preamble"),
)


class Generator(Replicated):
    """A model that writes text, its tokenizer, and its default options for decoding."""

    def __init__(
        self, model: Any, tokenizer: Tokenizer, generation: GenerationConfig | None = None
    ):
        self._model = model
        self.tokenizer = tokenizer
        generation = generation or GenerationConfig()
        self.generation = dataclasses.replace(
            generation,
            decoder_start_token_id=_first(generation.decoder_start_token_id, tokenizer, "start_id"),
            eos_token_id=_first(generation.eos_token_id, tokenizer, "eos_id"),
            pad_token_id=_first(generation.pad_token_id, tokenizer, "pad_id"),
        )
        self._rebuild = rebuilder(model)
        self._programs = Programs()
        self._automata: dict[Any, Automaton | None] = {}

    @property
    def model(self) -> Any:
        """The model; each call uses the weights that it has at that time."""
        return self._model

    def keep_programs(self) -> None:
        """Keep what has been compiled so far for good; what comes later goes when it is unused."""
        self._programs.pin()

    def _prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of prompts. Raises `GenerationError` for a prompt with unknown words."""
        prompts = self.tokenizer.encode_plain(texts)
        unknown = self.tokenizer.unk_id
        for text, tokens in zip(texts, prompts, strict=True):
            if unknown is not None and unknown in tokens:
                lacking = ", ".join(map(quoted, self.tokenizer.unknown_in(text)))
                raise GenerationError(
                    f"prompt {quoted(text)}: holds words that the tokenizer lacks ({lacking}); use "
                    "other words"
                )
        return prompts

    def _refuse_special(self, texts: Sequence[str]) -> None:
        """Raise `GenerationError` if a user's text holds one of the tokens that are no text."""
        read = self.tokenizer.encode_special(texts)
        if not self.tokenizer.special_ids.isdisjoint(token for ids in read for token in ids):
            raise GenerationError(
                "the prompt contains a token that has a meaning of its own to the model; leave it "
                "out"
            )

    def spell(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens by which the model writes these texts, without eos."""
        return self.tokenizer.encode_plain(texts)

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """The texts of token sequences."""
        return [self.tokenizer.decode(row) for row in tokens]

    def encode(self, model: Any, inputs: Any) -> Any:
        """Features of a batch of inputs, inside a program; `model` has the weights to use."""
        raise NotImplementedError

    def normalized(self, inputs: Any) -> Any:
        """A batch of inputs as the encoder takes it, inside a program."""
        return inputs

    def _config(self, options: Mapping[str, Any]) -> GenerationConfig:
        """The default options with those of a call; `bad_words` and `force_words` become tokens."""
        said = dict(options)
        for name, spell in (("bad_words", self._bad_words), ("force_words", self._force_words)):
            if name in said:
                words = said.pop(name)
                phrases = [words] if isinstance(words, str) else list(words or ())
                if not all(phrase.strip() for phrase in phrases):
                    raise GenerationError(
                        f"`{name}` has a phrase without words; give it some, or leave it out"
                    )
                said[f"{name}_ids"] = spell(phrases)
        config = self.generation.replace(**said)
        if config.json_schema is not None:
            # Loops are not ended either, for what is cut is no JSON.
            config = _without(config, said, _AGAINST_SCHEMAS, "json_schema")
            config = dataclasses.replace(config, end_loops=False)
        elif config.max_words is not None:
            config = _without(config, said, ("force_words_ids",), "max_words")
        _ = config.strategy, config.constraints  # this raises if options contradict each other
        return config

    def _bad_words(self, words: Iterable[str]) -> tuple[tuple[int, ...], ...]:
        # A word that the tokenizer cannot write needs no ban.
        return tuple(way for word in words for way in self._spellings(word))

    def _force_words(self, words: Iterable[str]) -> tuple[tuple[tuple[int, ...], ...], ...]:
        phrases = [(word, self._spellings(word)) for word in words]
        for word, ways in phrases:
            if not ways:
                raise GenerationError(
                    f"{quoted(word)} cannot be required: the tokenizer cannot write it; use "
                    "another word"
                )
        return tuple(ways for _, ways in phrases)

    def _spellings(self, word: str) -> tuple[tuple[int, ...], ...]:
        """The tokens of a word or phrase, at the beginning of a text and inside it."""
        ways = self.tokenizer.encode_plain([word, f" {word}"])
        unknown = self.tokenizer.unk_id
        return tuple(dict.fromkeys(tuple(way) for way in ways if way and unknown not in way))

    def _start(self, config: GenerationConfig) -> int:
        assert config.decoder_start_token_id is not None  # `__init__` set it
        return config.decoder_start_token_id

    @property
    def _max_positions(self) -> int:
        decoder = getattr(self.model, "decoder", self.model)
        return decoder.max_positions

    def _dispatch(
        self,
        inputs: Any,
        prompts: Sequence[Sequence[int]],
        rows: int,
        config: GenerationConfig,
        seeds: Sequence[tuple[int, int]] | None = None,
        signals: tuple[str, ...] | None = (),
    ) -> Sequences:
        """Decode a batch, without waiting for the device.

        `prompts` include the token that captions begin with, `inputs` are padded to `rows` rows,
        and random draws for row `i` depend on `seeds[i]`. `signals` are the names of those that are
        measured of the best texts, which are captions of pictures; None is all.
        """
        return self._run(inputs, self._given(prompts, rows, config, seeds), config, signals)

    def _given(
        self,
        prompts: Sequence[Sequence[int]],
        rows: int,
        config: GenerationConfig,
        seeds: Sequence[tuple[int, int]] | None,
    ) -> "_Given":
        """What the programs for a batch are given."""
        real = len(prompts)
        lengths = np.array([len(prompt) for prompt in prompts])
        limits = config.limits(lengths, self._max_positions, self._borders(config))
        rules = self._rules(config)
        if rules is not None and config.json_schema is not None:
            room = int((limits - lengths).min())
            needed = rules.automata[0].shortest + len(config.forced_begin)
            if room < needed:
                raise GenerationError(
                    f"`json_schema` needs {needed:,} tokens at least and a text has {room:,}; use "
                    "a higher `max_new_tokens`"
                )
        usual, most = self.generation.usual_limit, self._max_positions
        prompt = with_limits(
            fill_prompts(prompts, rows, max_positions=most),
            limits - lengths,
            usual=usual,
            max_positions=most,
        )
        drawn = None
        if config.do_sample:
            drawn = np.zeros((rows, 2), np.int64)
            drawn[:real] = [(0, i) for i in range(real)] if seeds is None else seeds
            drawn = (drawn & 0x7FFFFFFF).astype(np.int32)
        alive = np.arange(rows) < real
        # All hypotheses come back, so that the number of those wanted needs no program of its own.
        return _Given(prompt, alive, drawn, config.strategy.returning_all(), rules)

    def _run(
        self,
        inputs: Any,
        given: "_Given",
        config: GenerationConfig,
        signals: tuple[str, ...] | None,
    ) -> Sequences:
        """Run one program for a batch, or, for long texts, one for each size of the cache."""
        run = self._runner(given, config, signals)
        first, *larger = rooms(given.prompt.new_tokens)
        if not larger:
            return run("whole", inputs)
        running, features = run("begin", inputs, room=first)
        for room in larger:
            if not running.live:  # here the host waits for the device
                break
            running = run("proceed", running, room=room)
        return run("finish", None if signals == () else inputs, running, features)

    def _runner(
        self, given: "_Given", config: GenerationConfig, signals: tuple[str, ...] | None
    ) -> Callable[..., Any]:
        """Runs parts of decoding by their names in `_Parts`, each compiled once.

        With a `room`, the part's program is for a cache of that size. What is `spent` is an
        argument whose memory the program may take.
        """
        assert config.pad_token_id is not None
        how = {"eos_id": config.eos_ids, "pad_id": config.pad_token_id}
        how["end_loops"] = config.end_loops
        parts = _Parts(self._rebuild, self.encode, self.normalized, how, signals)
        weights = self._weights()

        def run(part: str, *arguments: Any, room: int | None = None, spent: Any = None) -> Any:
            program = getattr(parts, part)
            if room is not None:
                program = functools.partial(program, room=room)
            key = (part, room, *how.values(), signals)
            return self._programs.run(key, lambda: program, weights, given, *arguments, spent=spent)

        return run

    def _steps(
        self,
        inputs: Any,
        prompts: Sequence[Sequence[int]],
        rows: int,
        config: GenerationConfig,
        seeds: Sequence[tuple[int, int]] | None = None,
    ) -> Iterator[Sequences]:
        """Decode a batch as `_dispatch` does; what there is of it after each token.

        Beam search may still choose other tokens than those that it had.
        """
        run = self._runner(self._given(prompts, rows, config, seeds), config, ())
        running, found = run("first", inputs)
        waits = True  # nothing is given before both programs are there
        while running.live:
            running, later = run("next", spent=running)
            if waits:
                yield jax.device_get(found)
            yield jax.device_get(later)
            waits = False
        if waits:
            yield jax.device_get(found)

    def _rules(self, config: GenerationConfig) -> Rules | None:
        """The constraints of captions, as a program takes them; None if there are none."""
        constraints, automata = config.constraints, self._automata_of(config)
        if constraints == Constraints() and not automata:
            return None
        return constraints.rules(self._vocab_size, config.eos_ids, self._borders(config), automata)

    @property
    def _vocab_size(self) -> int:
        return getattr(self.model, "decoder", self.model).config.vocab_size

    def _automata_of(self, config: GenerationConfig) -> tuple[Automaton, ...]:
        """What may follow each token; none if anything may."""
        given = self._vocab_size, config.eos_ids
        makers: dict[Any, Callable[[bool], Automaton | None]] = {}
        if (schema := config.json_schema) is not None:
            makers["schema", schema] = lambda apart: self._of_schema(schema, given, apart)
        if stops := config.stop_strings:
            makers["stops", stops] = lambda apart: self._until(stops, given)
        if (most := config.max_words) is not None:
            makers["words", ""] = lambda apart: of_words(self.tokenizer.written, *given)
        if not config.preamble:
            makers["preamble", ""] = lambda apart: avoiding(
                BEGINNINGS, self.tokenizer.written, *given
            )
        found = [self._automaton((*key, config.eos_ids), make) for key, make in makers.items()]
        # One automaton serves all numbers of words.
        return tuple(each.with_words(most or 0) for each in found if each is not None)

    def _automaton(self, key: Any, make: Callable[[bool], Automaton | None]) -> Automaton | None:
        """The automaton of a key, which `make` makes, of what a stranger gave apart."""
        known = self._automata  # the one that is looked at: another thread may put another there
        if key not in known:

            def elsewhere(options: Any = None) -> None:
                self._keep_automaton(key, make(True))

            here_only(("automaton", key), elsewhere)
            made = make(False)
            self._keep_automaton(key, made)
            return made
        return known[key]

    def _keep_automaton(self, key: Any, automaton: Automaton | None) -> None:
        others = [*self._automata.items()][1 - _AUTOMATA :]
        self._automata = {**dict(others), key: automaton}  # a new one: threads may look at the old

    def _until(self, stops: Sequence[str], given: tuple[int, Sequence[int]]) -> Automaton | None:
        try:
            return until(stops, self.tokenizer.pieces, *given)
        except TextError:
            return None  # what is written too much is cut all the same

    def _of_schema(self, schema: str, given: tuple[int, Sequence[int]], apart: bool) -> Automaton:
        try:
            pieces = self.tokenizer.pieces
        except TextError as error:
            raise GenerationError(f"`json_schema`: {error}") from None
        special = self.tokenizer.special_ids
        plain = [b"" if i in special else piece for i, piece in enumerate(pieces)]
        return of_schema(schema, plain, *given, apart=apart)

    def _borders(self, config: GenerationConfig) -> Borders | None:
        """Where words begin and end, which only matters for required ones."""
        return self.tokenizer.borders if config.force_words_ids else None

    def _texts(
        self, prompt: Sequence[int], found: Sequences, config: GenerationConfig
    ) -> dict[str, Any]:
        """The fields of `Generated` for one input's row; texts begin with the prompt."""
        said = self._said_best_first(found, config)
        texts = self._written(prompt, [each.bare for each in said], config)
        removed = ""
        if not config.preamble:
            begun = self.decode([prompt])[0]
            cut = [without_preamble(text.removeprefix(begun)) for text in texts]
            texts, removed = [f"{begun}{text}" for text, _ in cut], cut[0][1]
        best = said[0]
        return {
            "text": texts[0],
            "score": best.score,
            "tokens": best.tokens,
            "alternatives": tuple(
                Alternative(text, each.score, each.tokens, each.logprobs)
                for text, each in zip(texts, said, strict=True)
            ),
            "logprobs": best.logprobs,
            "looped": best.looped,
            "removed": removed,
        }

    def _written(
        self, prompt: Sequence[int], said: Sequence[Sequence[int]], config: GenerationConfig
    ) -> list[str]:
        """The texts of tokens after a prompt, which end before a stop."""
        before = len(self.decode([prompt])[0]) if config.stop_strings else 0
        texts = self.decode([[*prompt, *tokens] for tokens in said])
        return [_before(text, config.stop_strings, before) for text in texts]

    def _told(
        self, prompt: Sequence[int], tokens: Sequence[int], room: int, config: GenerationConfig
    ) -> str:
        """What can be told of a text so far, because nothing that follows changes it.

        It may have `room` tokens in the end.
        """
        if tokens and tokens[-1] in config.eos_ids:
            tokens = tokens[:-1]
        count = steady(self.tokenizer, tokens)
        if config.end_loops and room >= LEAST:
            count = min(count, settled(tokens))
        [text] = self._written(prompt, [tokens[:count]], config)
        return told(self.tokenizer, text, config.stop_strings)

    def _said_best_first(self, found: Sequences, config: GenerationConfig) -> "list[_Said]":
        """The texts that were decoded for one input."""
        rows = range(min(config.num_return_sequences, len(found.tokens)))
        said = [self._said_in(found, row, config) for row in rows]
        if any(each.looped for each in said):  # what is left of a loop has another score
            said.sort(key=lambda each: -each.score)
        return said

    def _said_in(self, found: Sequences, row: int, config: GenerationConfig) -> "_Said":
        """One of the texts that were decoded, without the copies if it is a loop."""
        length = int(found.lengths[row])
        tokens = tuple(map(int, found.tokens[row][:length]))
        logprobs = tuple(map(float, found.logprobs[row][:length]))
        end = tokens[-1:] if tokens and tokens[-1] in config.eos_ids else ()
        bare = tokens[: len(tokens) - len(end)]
        cut = first_copy_end(bare) if config.end_loops else None
        if cut is None:
            return _Said(bare, tokens, logprobs, float(found.scores[row]), looped=False)
        # What ended the loop says nothing of the text that is left, which is like one at its limit.
        bare, logprobs = bare[:cut], logprobs[:cut]
        score = sum(logprobs) / len(logprobs) ** config.length_penalty
        return _Said(bare, bare, logprobs, score, looped=True)

    def _save(
        self,
        directory: str | Path,
        extras: Callable[[Path], None],
        *,
        dtype: str | None,
        card: str,
    ) -> None:
        def write(folder: Path) -> None:
            save_model(folder, self.model, dtype=dtype)
            self.tokenizer.save(folder)
            contents = json.dumps(self.generation.write(), indent=2)
            (folder / GENERATION).write_text(contents + "\n")
            extras(folder)
            if card:
                (folder / CARD).write_text(card)

        write_directory(Path(directory), write)


class _Given(NamedTuple):
    """What decides the texts of a batch, besides the model and the inputs."""

    prompt: Prompts
    alive: Any
    seeds: Any
    strategy: Strategy
    rules: Rules | None


@dataclasses.dataclass(frozen=True)
class _Parts:
    """The functions that become programs: of a whole text, or of its parts one after the other.

    `room` is the number of new tokens that the cache has room for, by default all. `how` are
    further arguments of `looping`.
    """

    rebuild: Callable[[dict[str, Any]], Any]
    encode: Callable[[Any, Any], Any]
    normalized: Callable[[Any], Any]
    how: dict[str, Any]
    signals: tuple[str, ...] | None

    def _loop(self, model: Any, given: _Given) -> Loop:
        return looping(
            model,
            given.prompt,
            given.strategy,
            constraints=given.rules,
            alive=given.alive,
            seeds=given.seeds,
            **self.how,
        )

    def begin(
        self, weights: Any, given: _Given, inputs: Any, *, room: int | None = None
    ) -> tuple[Running, Any]:
        """The texts as far as there is room, and the features if they are still needed."""
        model = self.rebuild(weights)
        loop = self._loop(model, given)
        features = self.encode(model, inputs)
        running = loop.proceed(loop.begin(features, room))
        return running, None if self.signals == () else features

    def proceed(self, weights: Any, given: _Given, running: Running, *, room: int) -> Running:
        """The same texts, as far as there is more room."""
        return self._loop(self.rebuild(weights), given).proceed(running, room)

    def finish(
        self, weights: Any, given: _Given, inputs: Any, running: Running, features: Any
    ) -> Sequences:
        """The texts, and what is measured of them."""
        model = self.rebuild(weights)
        found = self._loop(model, given).finish(running)
        if self.signals == ():
            return found
        measured = measure(model, features, self.normalized(inputs), given.prompt.prompt, found)
        return dataclasses.replace(found, signals=_chosen(measured, self.signals))

    def first(self, weights: Any, given: _Given, inputs: Any) -> tuple[Running, Sequences]:
        """The first token of each text, with room for all."""
        model = self.rebuild(weights)
        loop = self._loop(model, given)
        running = loop.begin(self.encode(model, inputs))
        return running, loop.finish(running)

    def next(self, weights: Any, given: _Given, running: Running) -> tuple[Running, Sequences]:
        """One token more of each text."""
        loop = self._loop(self.rebuild(weights), given)
        running = loop.step(running)
        return running, loop.finish(running)

    def whole(self, weights: Any, given: _Given, inputs: Any) -> Sequences:
        """All of it in one program."""
        return self.finish(weights, given, inputs, *self.begin(weights, given, inputs))


def _without(
    config: GenerationConfig, said: Mapping[str, Any], names: Sequence[str], wanted: str
) -> GenerationConfig:
    """The options without those of the checkpoint that could forbid what `wanted` asks for.

    `names` are those options. Raises `GenerationError` for one that was given with it.
    """
    usual = GenerationConfig()
    if given := [
        name for name in names if said.get(name, getattr(usual, name)) != getattr(usual, name)
    ]:
        name = given[0].removesuffix("_ids")
        raise GenerationError(f"`{name}` and `{wanted}` may contradict each other; use one of them")
    return dataclasses.replace(config, **{name: getattr(usual, name) for name in names})


def _before(text: str, stops: Sequence[str], begin: int) -> str:
    """The text before the first of `stops`, which are looked for from `begin` on."""
    found = [place for stop in stops if (place := text.find(stop, begin)) >= 0]
    return text[: min(found)].rstrip() if found else text


@dataclasses.dataclass(frozen=True)
class _Said:
    """A text that was decoded: its tokens without and with eos."""

    bare: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    score: float
    looped: bool


def read_generation(directory: Path, model: Any) -> GenerationConfig:
    """Read the decoding options of a checkpoint directory."""
    path = directory / GENERATION
    if path.is_file():
        stored = read_json(path)
    else:
        # Older versions of transformers kept the options in the model's config, and those missing
        # there in the decoder's config.
        path = directory / CONFIG
        stored = read_json(path)
        for half in ("decoder", "generator", "text_config"):
            if isinstance(inner := stored.get(half), dict):
                said = {key: value for key, value in stored.items() if value is not None}
                stored = {**inner, **said}
                break
    try:
        return GenerationConfig.read(stored, model_config(model).roles())
    except (ConfigError, GenerationError) as error:
        raise GenerationError(f"{path}: {error}") from None


def read_calibration(directory: Path) -> Calibration | None:
    """Read the calibration of a checkpoint directory, if it has one."""
    path = directory / CONFIDENCE
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        return Calibration.read(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}; make it anew with captax calibrate") from None


CALIBRATION = Kind("calibration", re.compile(rb'{\s*"weights": {[^}]*},\s*"bias": '))


def calibration_text(calibration: Calibration) -> str:
    """What the file of a calibration holds."""
    return json.dumps(calibration.write(), indent=2) + "\n"


def _chosen(measured: dict[str, Any], names: tuple[str, ...] | None) -> dict[str, Any]:
    """The signals of those names, or all. Raises `CheckpointError` if the model lacks one."""
    names = tuple(measured) if names is None else names
    if missing := [name for name in names if name not in measured]:
        raise CheckpointError(
            f"the calibration of this checkpoint weighs {missing[0]}, which its model does not "
            f"give; calibrate it anew (captax calibrate) or remove its {CONFIDENCE}"
        )
    return {name: measured[name] for name in names}


def _first(index: Any, tokenizer: Tokenizer, role: str) -> Any:
    return getattr(tokenizer, role) if index is None else index
