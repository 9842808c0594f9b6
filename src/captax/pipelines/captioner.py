"""The captioner: a model with its tokenizer and image processor."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from captax.data import filled, load_images
from captax.errors import plural, quoted
from captax.explain import Explanation, Reader, explain, known_methods
from captax.generation import (
    Beam,
    Calibration,
    GenerationConfig,
    GenerationError,
    Greedy,
    Sequences,
    score,
)
from captax.generation.programs import (
    CAPTION_LENGTH,
    Begun,
    fill_prompts,
    padded,
    padded_length,
    seeds_of,
)
from captax.generation.result import Alternative, Generated
from captax.images import (
    FRAMES,
    AnyProcessor,
    CaptionSource,
    Group,
    ImageError,
    ImageSource,
    IsVideo,
    Prepared,
    Video,
    read_video,
)
from captax.models.arithmetic import map_pictures
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.encoders import Features
from captax.pipelines.generator import CONFIDENCE, Generator, calibration_text
from captax.pipelines.streaming import Picture, Placed, pace, several, stream_prepared
from captax.text import Tokenizer
from captax.text.growing import Growing
from captax.text.regions import Region
from captax.text.styles import Styles

Other = TypeVar("Other")


@dataclasses.dataclass(frozen=True)
class Caption(Generated):
    """A caption of a picture; `signals` are what its confidence was computed from.

    `regions` are what the caption says of parts of the picture, if it was asked for that.
    """

    signals: Mapping[str, float] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )
    regions: tuple[Region, ...] | None = None


class Captioner(Generator):
    """Writes captions of pictures.

    With a `calibration`, captions have a confidence. It holds for the weights that it was fitted
    to: a model that is trained further needs another. Pictures stay bytes until they are on the
    device. `measurable` says whether a confidence can be computed at all. Of a video it is shown
    `frames` frames; 0 says that it reads no videos.
    """

    measurable = True
    # Whether several pictures can be shown together.
    reads_several = False

    def __init__(
        self,
        model: EncoderDecoder,
        processor: AnyProcessor,
        tokenizer: Tokenizer,
        generation: GenerationConfig | None = None,
        calibration: Calibration | None = None,
    ):
        super().__init__(model, tokenizer, generation)
        self.processor: Any = processor
        self.calibration = calibration
        self.frames = min(FRAMES, self.most_frames)

    @property
    def most_frames(self) -> int:
        """The most frames of a video that it can be shown; 0 if it reads no videos."""
        return self.model.most_frames

    def caption(
        self,
        images: CaptionSource | Sequence[CaptionSource],
        *,
        prompt: str | Sequence[str] = "",
        system: str = "",
        raw: bool = False,
        seed: int | Sequence[int] = 0,
        batch_size: int = 32,
        **options: Any,
    ) -> list[Caption]:
        """Caption one picture or several, given as paths, bytes, PIL images or arrays, in order.

        Where the model reads them, a video is captioned as a picture is: its file, or a `Video`. A
        list within the sequence is several pictures that are shown together, for one caption.

        Captions begin with `prompt` and continue it; give one prompt for all pictures or one for
        each. A vision-language model answers it instead, in its prompt format, where `system` has a
        turn before it; if it is `raw`, it follows the picture as it is. Sampling (`do_sample=True`)
        depends on `seed` and the picture's place among `images`, or on its own seed if there are
        several, but not on the other pictures of the batch.
        `options` are fields of `GenerationConfig`, such as `num_beams=3, max_new_tokens=20`, and
        `bad_words` and `force_words`: words and phrases that captions must not, or must, contain.
        They are compared as tokens, so a bad word also excludes longer words whose tokens begin
        with it. Raises `ImageError` for the first picture that cannot be read; `stream` continues
        after it.
        """
        captions = []
        options |= {"prompt": prompt, "system": system, "raw": raw}
        options |= {"seed": seed, "batch_size": batch_size}
        for caption in self.stream(several(images), **options):
            if isinstance(caption, ImageError):
                raise caption
            captions.append(caption)
        return captions

    def stream(
        self,
        images: Iterable[CaptionSource],
        *,
        prompt: str | Sequence[str] = "",
        system: str = "",
        raw: bool = False,
        seed: int | Sequence[int] = 0,
        batch_size: int = 32,
        signals: bool = False,
        **options: Any,
    ) -> Iterator[Caption | ImageError]:
        """Caption pictures as they arrive, in order; yield the error of one that cannot be read.

        Pictures are decoded in threads while the model works on the ones before them. With
        `signals`, captions carry all signals of `captax.generation.confidence` that the model
        gives, whether or not it is calibrated.
        """
        pictures = load_images(images, self._prepare_one, **pace(batch_size, self.at_once))
        options |= {"prompt": prompt, "system": system, "raw": raw}
        return self.stream_pixels(
            pictures, seed=seed, batch_size=batch_size, signals=signals, **options
        )

    def stream_pixels(
        self,
        pictures: Iterable[Picture | Placed | Other],
        *,
        prompt: str | Sequence[str] = "",
        system: str = "",
        raw: bool = False,
        seed: int | Sequence[int] = 0,
        batch_size: int = 32,
        signals: bool = False,
        **options: Any,
    ) -> Iterator[Caption | Other]:
        """Caption pictures that `prepare` has prepared, as `stream` does.

        Anything else among `pictures` is passed on in its turn. A picture's prompt and random draws
        depend on its place among `pictures`. If it is a `Placed`, they depend on the place that it
        carries instead; this is for collections that are captioned in parts. It may carry a prompt
        of its own, which then takes the place of `prompt`.
        """
        if signals and not self.measurable:
            raise GenerationError(
                "the signals of a confidence cannot be measured of vision-language models; use "
                "another captioner"
            )
        config = self._config(options)
        calibration = self.calibration
        measured = None if signals else tuple(calibration.weights) if calibration else ()
        one = isinstance(prompt, str)
        asked = self._asked([prompt] if isinstance(prompt, str) else list(prompt), system, raw)
        own: dict[int, Any] = {}  # prompts that came with their pictures

        def prompted(place: int) -> Any:
            if place in own:
                return own[place]
            if not one and place >= len(asked):
                raise GenerationError(
                    f"{len(asked)} prompts are given for more pictures: give one prompt for each"
                )
            return asked[0 if one else place]

        def placed() -> Iterator[tuple[int, Any]]:
            for place, each in enumerate(pictures):
                if not isinstance(each, Placed):
                    yield place, each
                    continue
                if each.prompt is not None:
                    [own[each.place]] = self._asked([each.prompt], system, raw)
                yield each.place, each.picture

        def write(pictures: list[Picture], places: list[int]) -> Sequences:
            rows = padded(len(pictures), batch_size)
            prompts = [
                self._whole_prompt(prompted(place), picture, config)
                for place, picture in zip(places, pictures, strict=True)
            ]
            seeds = seeds_of(seed, places)
            inputs = self.inputs(pictures, rows)
            return self._dispatch(inputs, prompts, rows, config, seeds, measured)

        how: dict[str, Any] = {"at_once": self.at_once, "shape": self.shape}
        streamed = stream_prepared(placed(), write, batch_size=batch_size, **how)
        for place, found in streamed:
            if isinstance(found, Sequences):
                yield self._caption(prompted(place), found, config)
                own.pop(place, None)
            else:
                yield found

    def tell(
        self,
        images: Sequence[ImageSource],
        listeners: Sequence[Callable[[str], bool]],
        *,
        prompt: str = "",
        system: str = "",
        raw: bool = False,
        seed: int | Sequence[int] = 0,
        batch_size: int = 32,
        **options: Any,
    ) -> list[Caption]:
        """Caption pictures in one batch, and tell each listener its caption as it grows.

        A listener is called after each token with the text so far, which only grows, and returns
        whether it still listens; decoding ends when none does. At last it is called with the whole
        text. The text of beam search, one without `preamble`, and the best of several captions of a
        picture, come whole.
        Captions have no confidence. Raises `ImageError` for a picture that cannot be read.
        """
        config = self._config(options)
        [asked] = self._asked([prompt], system, raw)
        pictures = self._prepare_one(list(images))
        prompts = [self._whole_prompt(asked, picture, config) for picture in pictures]
        rows = padded(len(pictures), batch_size)
        inputs = self.inputs(pictures, rows)
        seeds = seeds_of(seed, range(len(pictures)))
        texts = [Growing() for _ in pictures]
        listening = [True for _ in pictures]

        found: Sequences | None = None
        if self._is_told(asked, config):
            begun = self._spoken(asked)
            steps = self._steps(inputs, prompts, rows, config, seeds)
            for count, found in enumerate(steps, start=1):
                for row in range(len(pictures)):
                    length = min(count, int(found.lengths[row][0]))
                    tokens = [int(token) for token in found.tokens[row][0][:length]]
                    if listening[row]:
                        so_far = self._told(begun, tokens, found.tokens.shape[-1], config)
                        texts[row].more(so_far)
                        listening[row] = listeners[row](texts[row].text)
                if not any(listening):
                    break
        else:
            found = jax.device_get(self._dispatch(inputs, prompts, rows, config, seeds))
        assert found is not None
        told = [jax.tree.map(lambda array, row=row: array[row], found) for row in range(len(texts))]
        captions = [self._caption(asked, each, config) for each in told]
        for row, caption in enumerate(captions):
            if listening[row]:
                texts[row].rest(caption.text)
                listeners[row](caption.text)
        return captions

    def _is_told(self, asked: Any, config: GenerationConfig) -> bool:
        """Whether a text's first tokens are known before its last, and are what is told of it."""
        alone = config.num_beams == config.num_return_sequences == 1 and config.best_of is None
        return alone and config.preamble

    def _caption(self, asked: Any, found: Sequences, config: GenerationConfig) -> Caption:
        """The caption in what was decoded for one picture."""
        told = {name: float(value) for name, value in found.signals.items()}
        texts = self._texts(self._spoken(asked), found, config)
        # Signals were measured of the text that decoding preferred, before loops were cut.
        same = texts["tokens"] == tuple(map(int, found.tokens[0][: found.lengths[0]]))
        confident = self.calibration is not None and bool(told) and same
        confidence = self.calibration.confidence(told) if confident and self.calibration else None
        return Caption(**texts, confidence=confidence, signals=told)

    def prompt_for(self, task: str, prompt: str = "") -> str:
        """The prompt by which a model that was taught tasks is asked for one of them.

        `prompt` is the text or the region that the task is about. Raises `GenerationError` for an
        unknown task, or if the model was taught none.
        """
        raise GenerationError(
            "tasks are for models that were taught them, such as Florence-2; leave the task out"
        )

    def prompt_in(self, language: str, prompt: str = "") -> str:
        """The prompt that asks for captions in a language, a name or a code of ISO 639.

        It is `prompt`, or what the model is asked without one, in that language. Raises
        `GenerationError` if the model cannot be asked for a language, and `OptionError` if the
        language is not known.
        """
        raise GenerationError(
            "`language` is for vision-language models that are asked in words, and this captioner "
            "writes the language that it was taught; leave it out"
        )

    @property
    def styles(self) -> Styles:
        """Prompts by name. Raises `GenerationError` for a captioner that is asked nothing."""
        raise GenerationError(
            "styles are for vision-language models, which are asked; leave the style out"
        )

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """The captions of token sequences, without the space that some tokenizers put first."""
        return [text.strip() for text in super().decode(tokens)]

    def score(
        self,
        images: CaptionSource | Sequence[CaptionSource],
        captions: str | Generated | Sequence[str | Generated],
        *,
        prompt: str = "",
        system: str = "",
        raw: bool = False,
        batch_size: int = 32,
        quiet: bool = False,
        **options: Any,
    ) -> list[float]:
        """How well each caption fits its picture, on the scale of `Caption.score`, in order.

        The score is the one that decoding with the same options would report for the same tokens.
        A text is tokenised and eos is added; a `Caption` has its own tokens. Captions begin with
        `prompt`, which does not count. `quiet` says that `unknown_words` are not to be warned of.
        Raises `ImageError` for the first picture that cannot be read, and `GenerationError` if the
        numbers of captions and pictures differ.
        """
        config = self._config(options)
        pictures = several(images)
        given = [captions] if isinstance(captions, str | Generated) else list(captions)
        if len(given) != len(pictures):
            raise GenerationError(
                f"{plural(len(given), 'caption')} for {plural(len(pictures), 'picture')}: give one "
                "for each"
            )
        [asked] = self._asked([prompt], system, raw)
        tokens = self._said(given, prompt, config)
        if not quiet:
            self._warn_of_unknown(given)
        # Captions of similar length share a batch, so that it needs little padding.
        order = sorted(range(len(given)), key=lambda i: len(tokens[i]))

        def read(pictures: list[Picture], places: list[int]) -> Float[jax.Array, " batch"]:
            prompts = [self._whole_prompt(asked, picture, config) for picture in pictures]
            rows = padded(len(pictures), batch_size)
            said = [tokens[order[place]] for place in places]
            return self._score(self.inputs(pictures, rows), prompts, said, rows, config)

        prepared = load_images(
            [pictures[i] for i in order], self._prepare_one, **pace(batch_size, self.at_once)
        )
        how: dict[str, Any] = {"at_once": self.at_once, "shape": self.shape}
        found = stream_prepared(enumerate(prepared), read, batch_size=batch_size, **how)
        scores = [0.0] * len(given)
        for i, (_, value) in zip(order, found, strict=True):
            if isinstance(value, ImageError):
                raise value
            scores[i] = float(value)
        return scores

    def explain(
        self,
        image: ImageSource,
        caption: str | Generated | None = None,
        *,
        prompt: str = "",
        system: str = "",
        raw: bool = False,
        seed: int = 0,
        methods: str | Sequence[str] = ("attention",),
        faithfulness: bool = False,
        hide: str = "mean",
        alternatives: int = 5,
        watch: Callable[[str], None] = lambda step: None,
        quiet: bool = False,
        **options: Any,
    ) -> Explanation:
        """Show where in the picture each word of its caption came from, and what else was likely.

        If `caption`, a text or a `Caption`, is given, it is explained instead of the caption that
        decoding with `options` gives. `methods` are names of `captax.explain.METHODS`, or "all" for
        every method that the model supports: attention costs one pass, evidence many.
        `faithfulness` also measures how far each method can be trusted, by hiding cells and showing
        them; `hide` says whether the mean colour or a blur hides them. `alternatives` is the number
        of other tokens kept at each step, none of which is suppressed. `watch` is called with the
        name of each step as it begins: `caption`, the methods and `faithfulness`. `quiet` says that
        `unknown_words` are not to be warned of. Raises `ImageError` for a picture that cannot be
        read, and `ExplainError` for a method that the model does not support.
        """
        config = self._config(options)
        known_methods(methods)
        picture = image if isinstance(image, Prepared) else self.processor.decode(image)
        if caption is None:
            watch("caption")
            [caption] = self.caption(
                picture, prompt=prompt, system=system, raw=raw, seed=seed, **options
            )
        [said] = self._said([caption], prompt, config)
        if not quiet:
            self._warn_of_unknown([caption])
        [asked] = self._asked([prompt], system, raw)
        shown = self.processor.prepare(picture)
        begin = self._whole_prompt(asked, shown, config)
        self._check_room(len(begin) + len(said))
        text = str(caption)
        given = caption if isinstance(caption, Caption) else Caption(text, 0.0, tuple(said), ())
        explanation = explain(
            self._reader,
            self.processor,
            self.tokenizer,
            picture,
            shown,
            given,
            begin,
            prompt=prompt,
            spoken=self._spoken(asked),
            eos=config.eos_ids,
            room=self._max_positions,
            methods=methods,
            faithfulness=faithfulness,
            hide=hide,
            alternatives=alternatives,
            unsaid=config.suppress_tokens,
            watch=watch,
        )
        if isinstance(caption, Caption):
            return explanation
        logprobs = tuple(map(float, explanation.logprobs))
        score = sum(logprobs) / len(said) ** config.strategy.length_penalty
        scored = Caption(text, score, tuple(said), (Alternative(text, score),), logprobs)
        return dataclasses.replace(explanation, caption=scored)

    def caption_again(
        self,
        explanation: Explanation,
        *,
        method: str = "attention",
        word: int | None = None,
        **options: Any,
    ) -> Caption:
        """Caption an explained picture again, darkened outside of what a map shows.

        The map is the mean over all words, or that of one word (its place among them, from 0). If
        the caption stays the same, the visible part is enough for it.
        """
        shown = explanation.attended(method, word=word)
        options = {"prompt": explanation.prompt, **options}
        return self.caption(self.processor.prepare(shown, whole=True), **options)[0]

    def unknown_words(self, caption: str) -> list[str]:
        """The words of a caption that the tokenizer lacks; the model reads each as unknown."""
        return self.tokenizer.unknown_in(caption)

    def _warn_of_unknown(self, captions: Sequence[str | Generated]) -> None:
        for caption in captions:
            if isinstance(caption, str) and (words := self.unknown_words(caption)):
                lacking = ", ".join(map(quoted, words))
                warnings.warn(
                    f"caption {quoted(caption)}: holds words that the tokenizer lacks "
                    f"({lacking}); the model reads each as an unknown word",
                    stacklevel=3,
                )

    @functools.cached_property
    def _reader(self) -> Reader:
        return Reader(self.model, self._rebuild, self._programs, self._weights)

    def _said(
        self, captions: Sequence[str | Generated], prompt: str, config: GenerationConfig
    ) -> list[list[int]]:
        """The tokens of captions after their prompt; texts are tokenised and eos is added."""
        texts = [
            "" if isinstance(each, Generated) else each.removeprefix(prompt) for each in captions
        ]
        encoded, begin = self.spell(texts), config.forced_begin
        return [
            list(each.tokens) if isinstance(each, Generated) else [*begin, *ids, config.eos_ids[0]]
            for each, ids in zip(captions, encoded, strict=True)
        ]

    def read(self, source: CaptionSource) -> Any:
        """`source` decoded: a Pillow picture, a `Video`, or a tuple of pictures that are several.

        What is prepared is not changed. Raises `ImageError` for what cannot be read, or what the
        model does not read.
        """
        if isinstance(source, Prepared | Group):
            return source
        if isinstance(source, Video):
            self._check_frames(source, f"video of {len(source.frames)} frames")
            return source
        if isinstance(source, list | tuple):
            if not self.reads_several and len(source) > 1:
                raise ImageError(
                    f"{len(source)} pictures together: this model reads single pictures; use one "
                    "that reads several, such as Qwen3-VL, SmolVLM or Gemma 3"
                )
            if not source:
                raise ImageError("an empty list of pictures was given; give one or more")
            pictures = tuple(self.processor.decode(each) for each in source)
            return pictures if len(pictures) > 1 else pictures[0]
        try:
            return self.processor.decode(source)
        except IsVideo as error:
            name = error.name
        if not self.frames:
            raise ImageError(
                f"{name}: is a video or a sound, and this model reads pictures alone; use one that "
                "reads videos, such as Qwen3-VL or git-base-vatex, or give a picture of it"
            )
        found: Any = source
        return read_video(found, self.frames, at_least=self.processor.frame_size)

    def _check_frames(self, video: Video, name: str) -> None:
        if len(video.frames) > self.most_frames:
            reads = f"up to {self.most_frames} frames" if self.most_frames else "pictures alone"
            raise ImageError(f"{name}: this model reads {reads}; give what it reads")

    def prepare(self, image: CaptionSource) -> Picture:
        """A picture as `stream_pixels` takes it: bytes, which are normalised on the device.

        They are a quarter of the floats. Floats that the processor normalised do as well.
        """
        read, prepare = self.read(image), self.processor.prepare
        if isinstance(read, Video):
            return np.stack([prepare(frame).pixels for frame in read.frames])
        return prepare(read).pixels

    def _prepare_one(self, images: list[Any]) -> list[Picture]:
        return [self.prepare(image) for image in images]

    def shape(self, picture: Any) -> Any:
        """What prepared pictures have in common that the model's program can take at once."""
        return picture.shape, picture.dtype

    def inputs(self, pictures: Sequence[Any], rows: int) -> Any:
        """Prepared pictures as the model's program takes them, filled up to so many rows."""
        return filled(pictures, rows)

    def _asked(self, prompts: Sequence[str], system: str, raw: bool) -> list[Any]:
        """Users' prompts as `_whole_prompt` takes them: here, the tokens that captions continue."""
        if system or raw:
            raise GenerationError(
                f"`{'system' if system else 'raw'}` is for models that are asked for captions, and "
                "this one continues its prompt; leave it out"
            )
        return self._prompts(prompts)

    @property
    def most_new_tokens(self) -> int:
        """The most tokens that a caption without a prompt may have."""
        return self._max_positions

    def prompt_length(
        self, picture: Any, *, prompt: str = "", system: str = "", raw: bool = False
    ) -> int:
        """How many tokens the model reads of a prepared picture and a prompt before it writes."""
        [asked] = self._asked([prompt], system, raw)
        tokens = self._whole_prompt(asked, picture, self.generation)
        return len(tokens.question if isinstance(tokens, Begun) else tokens)

    def _whole_prompt(self, asked: Any, picture: Any, config: GenerationConfig) -> list[int]:
        """All tokens that the decoder reads before it writes."""
        return [self._start(config), *asked]

    def _spoken(self, asked: Any) -> list[int]:
        """The tokens of a user's prompt that captions begin with."""
        return asked

    def _check_room(self, longest: int) -> None:
        """Raise `GenerationError` if complete captions have more tokens than the decoder reads."""
        if longest - 1 > self._max_positions:
            raise GenerationError(
                f"a caption has {longest - 1} tokens and the decoder reads {self._max_positions}; "
                "shorten the caption"
            )

    def _score(
        self,
        inputs: Any,
        prompts: Sequence[Sequence[int]],
        captions: Sequence[Sequence[int]],
        rows: int,
        config: GenerationConfig,
    ) -> Float[jax.Array, " batch"]:
        lengths = np.array([len(caption) for caption in captions], np.int32)
        begun = np.array([len(prompt) for prompt in prompts])
        self._check_room(int((begun + lengths).max()))
        most = self._max_positions
        tokens = np.zeros((rows, padded_length(int(lengths.max()), CAPTION_LENGTH, most)), np.int32)
        for row, caption in enumerate(captions):
            tokens[row, : len(caption)] = caption
        lengths = np.pad(lengths, (0, rows - len(captions)), "edge")
        limits = config.limits(begun, most, self._borders(config)) - begun
        limits = np.pad(limits, (0, rows - len(captions)), "edge").astype(np.int32)
        prompt = fill_prompts(prompts, rows, max_positions=most)

        def make() -> Callable[..., jax.Array]:
            def program(
                parameters: Any,
                inputs: Any,
                prompt: Any,
                tokens: Any,
                lengths: Any,
                limits: Any,
                strategy: Any,
                rules: Any,
            ) -> jax.Array:
                model = self._rebuild(parameters)
                return score(
                    model,
                    self.encode(model, inputs),
                    prompt,
                    tokens,
                    lengths,
                    strategy,
                    eos_id=config.eos_ids,
                    limits=limits,
                    constraints=rules,
                )

            return program

        given = (self._weights(), inputs, prompt, tokens, lengths, limits)
        # Scores depend on the strategy only in this: beam search counts what constraints do.
        rules = None if isinstance(config.strategy, Greedy) else self._rules(config)
        kind = Greedy if rules is None else Beam
        strategy = kind(length_penalty=config.length_penalty)
        return self._programs.run(("score", config.eos_ids), make, *given, strategy, rules)

    def encode(self, model: Any, inputs: Any) -> Features:
        """Features of what `inputs` made, inside a program; `model` has the weights to use."""
        return map_pictures(lambda pixels: model.encode(self.normalized(pixels)), inputs)

    def normalized(self, inputs: Any) -> Any:
        if inputs.dtype != jnp.uint8:
            return inputs
        scale, offset = self.processor.factors
        return inputs.astype(jnp.float32) * scale + offset

    def with_model(self, model: Any) -> "Captioner":
        """This captioner with another model of the same shape, which no calibration holds for."""
        return Captioner(model, self.processor, self.tokenizer, self.generation)

    def save(self, directory: str | Path, *, dtype: str | None = None, card: str = "") -> None:
        """Write a checkpoint directory that `captax.load` reads; an older one is replaced."""

        def write(folder: Path) -> None:
            self._save_processor(folder)
            if self.calibration is not None:
                (folder / CONFIDENCE).write_text(calibration_text(self.calibration))

        self._save(directory, write, dtype=dtype, card=card)

    def _save_processor(self, folder: Path) -> None:
        self.processor.save(folder)
