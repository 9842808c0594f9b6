"""The captioner: a model with all it needs to turn pictures into captions."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from captax.checkpoints.state import parameters
from captax.data import load_images
from captax.explain import Explanation, Reader, explain, known_methods
from captax.generation import GenerationConfig, GenerationError, Sequences, score
from captax.generator import Alternative, Generated, Generator, seeds_of
from captax.images import ImageError, ImageProcessor, ImageSource, decode
from captax.models.arithmetic import map_pictures
from captax.models.encoder_decoder import EncoderDecoder
from captax.models.encoders import Features
from captax.streaming import DECODERS, several, stream_pictures, stream_pixels
from captax.text import Tokenizer

# Captions to score are filled up to a multiple of this, so that a handful of programs serves all.
SCORED_STEP = 16


@dataclasses.dataclass(frozen=True)
class Caption(Generated):
    """What was said of a picture."""


class Captioner(Generator):
    """Pictures in, captions out."""

    def __init__(
        self,
        model: EncoderDecoder,
        processor: ImageProcessor,
        tokenizer: Tokenizer,
        generation: GenerationConfig | None = None,
    ):
        super().__init__(model, tokenizer, generation)
        self.processor = processor

    def caption(
        self,
        images: ImageSource | Sequence[ImageSource],
        *,
        prompt: str | Sequence[str] = "",
        seed: int | Sequence[int] = 0,
        batch_size: int = 32,
        **options: Any,
    ) -> list[Caption]:
        """Caption one picture or several, given as paths, bytes, PIL images or arrays, in order.

        Captions go on from `prompt`, one for all or one a picture, which they begin with. Sampling
        (`do_sample=True`) draws for a picture by `seed` and its place among `images`, or by its
        own of several seeds, whatever else is in the batch. `options` are fields of
        `GenerationConfig`, such as `num_beams=3, max_new_tokens=20`, and `bad_words` and
        `force_words`, words and phrases that captions must not, or must, contain, as tokens: a
        banned word also bans longer ones that the tokenizer begins with it. Raises `ImageError`
        for the first picture that cannot be read; `stream` goes on past it.
        """
        captions = []
        options = {"prompt": prompt, "seed": seed, "batch_size": batch_size, **options}
        for caption in self.stream(several(images), **options):
            if isinstance(caption, ImageError):
                raise caption
            captions.append(caption)
        return captions

    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        prompt: str | Sequence[str] = "",
        seed: int | Sequence[int] = 0,
        batch_size: int = 32,
        **options: Any,
    ) -> Iterator[Caption | ImageError]:
        """Caption pictures as they come, in order; the error in place of one that cannot be read.

        Pictures are decoded in threads while the model works on those before them.
        """
        pictures = load_images(images, self.processor, threads=DECODERS, ahead=3 * batch_size)
        return self.stream_pixels(
            pictures, prompt=prompt, seed=seed, batch_size=batch_size, **options
        )

    def stream_pixels(
        self,
        pictures: Iterable[Float[np.ndarray, "height width 3"] | ImageError],
        *,
        prompt: str | Sequence[str] = "",
        seed: int | Sequence[int] = 0,
        places: Sequence[int] | None = None,
        batch_size: int = 32,
        **options: Any,
    ) -> Iterator[Caption | ImageError]:
        """As `stream`, of pictures that `processor` made ready; errors among them are passed on.

        `places` are what draws depend on where pictures are some of many: their places among all,
        in a list that may grow as `pictures` is read.
        """
        config = self._config(options)
        one = isinstance(prompt, str)
        said = self._prompts([prompt] if isinstance(prompt, str) else list(prompt))

        def prompted(place: int) -> list[int]:
            if not one and place >= len(said):
                raise GenerationError(f"{len(said)} prompts are given for more pictures")
            return said[0 if one else place]

        def write(
            pixels: Float[np.ndarray, "batch height width 3"], batch: Sequence[int]
        ) -> Sequences:
            prompts = [[self._start(config), *prompted(place)] for place in batch]
            seeds = seeds_of(seed, [places[place] for place in batch] if places else batch)
            return self._dispatch(pixels, prompts, len(pixels), config, seeds)

        found = stream_pixels(pictures, write, batch_size=batch_size, numbered=True)
        for place, row in enumerate(found):
            if isinstance(row, ImageError):
                yield row
            else:
                yield Caption(*self._texts(prompted(place), row, config.eos_ids))

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Captions of token sequences, without the space that some tokenizers begin with."""
        return [text.strip() for text in super().decode(tokens)]

    def score(
        self,
        images: ImageSource | Sequence[ImageSource],
        captions: str | Generated | Sequence[str | Generated],
        *,
        prompt: str = "",
        batch_size: int = 32,
        **options: Any,
    ) -> list[float]:
        """How well each caption fits its picture, on the scale of `Caption.score`, in order.

        The score is that which decoding with the same options would report of the same tokens.
        Those of a text are the tokenizer's, and eos; of a `Caption`, its own. Captions begin with
        `prompt`, which does not count. Raises `ImageError` for the first picture that cannot be
        read, and `GenerationError` if there are not as many captions as pictures.
        """
        config = self._config(options)
        pictures = several(images)
        given = [captions] if isinstance(captions, str | Generated) else list(captions)
        if len(given) != len(pictures):
            raise GenerationError(
                f"{len(given)} captions for {len(pictures)} pictures: give one for each"
            )
        begin = [self._start(config), *self._prompts([prompt])[0]]
        tokens = [[*begin, *said] for said in self._said(given, prompt, config)]
        # Captions of like length together, so that little of a batch is padding.
        order = sorted(range(len(given)), key=lambda i: len(tokens[i]))

        def read(
            pixels: Float[np.ndarray, "batch height width 3"], places: Sequence[int]
        ) -> Float[jax.Array, " batch"]:
            rows = [tokens[order[place]] for place in places]
            return self._score(pixels, rows, len(begin), config)

        found = stream_pictures(
            [pictures[i] for i in order], self.processor, read, batch_size=batch_size, numbered=True
        )
        scores = [0.0] * len(given)
        for i, value in zip(order, found, strict=True):
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
        seed: int = 0,
        methods: str | Sequence[str] = ("attention",),
        faithfulness: bool = False,
        hide: str = "mean",
        alternatives: int = 5,
        **options: Any,
    ) -> Explanation:
        """Where in the picture each word of its caption came from, and what else was likely.

        A text, or a `Caption`, that is given is explained in the place of what decoding with
        `options` would say. `methods` are of `captax.explain.METHODS`, or "all" that the model has:
        attention costs one pass, evidence many. `faithfulness` also measures how far to believe
        each, by hiding cells (as their `hide` says, with the mean colour or a blur) and showing
        them. `alternatives` is the number kept at each step. Raises `ImageError` for a picture that
        cannot be read, and `ExplainError` for what the model does not have.
        """
        config = self._config(options)
        known_methods(methods)
        picture = decode(image, at_least=self.processor.decode_size)
        if caption is None:
            [caption] = self.caption(picture, prompt=prompt, seed=seed, **options)
        [said] = self._said([caption], prompt, config)
        begin = [self._start(config), *self._prompts([prompt])[0]]
        length = len(begin) + len(said)
        text = str(caption)
        given = caption if isinstance(caption, Caption) else Caption(text, 0.0, tuple(said), ())
        explanation = explain(
            self._reader,
            self.processor,
            self.tokenizer,
            picture,
            given,
            begin,
            prompt=prompt,
            eos=config.eos_ids,
            room=self._room(length),
            methods=methods,
            faithfulness=faithfulness,
            hide=hide,
            alternatives=alternatives,
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
        """Caption an explained picture anew, dark but for what a map shows.

        The map is the mean of all words', or that of one (its place among them, from 0). If the
        caption stays, what was looked at is enough to say it.
        """
        # What was seen has been cut out already.
        processor = dataclasses.replace(
            self.processor, resize="stretch", resize_to=self.processor.size
        )
        same = Captioner(self.model, processor, self.tokenizer, self.generation)
        options = {"prompt": explanation.prompt, **options}
        return same.caption(explanation.attended(method, word=word), **options)[0]

    @functools.cached_property
    def _reader(self) -> Reader:
        return Reader(self.model, self._rebuild)

    def _said(
        self, captions: Sequence[str | Generated], prompt: str, config: GenerationConfig
    ) -> list[list[int]]:
        """The tokens of captions behind their prompt: of texts the tokenizer's, and eos."""
        texts = [
            "" if isinstance(each, Generated) else each.removeprefix(prompt) for each in captions
        ]
        encoded = self.tokenizer.encode_plain(texts)
        return [
            list(each.tokens) if isinstance(each, Generated) else [*ids, config.eos_ids[0]]
            for each, ids in zip(captions, encoded, strict=True)
        ]

    def _room(self, longest: int) -> int:
        """The number of tokens that captions given whole are filled up to."""
        if longest - 1 > self._max_positions:
            raise GenerationError(
                f"a caption has {longest - 1} tokens and the decoder reads {self._max_positions}"
            )
        return min(-(-longest // SCORED_STEP) * SCORED_STEP, self._max_positions + 1)

    def _score(
        self,
        pixels: Float[np.ndarray, "batch height width 3"],
        captions: Sequence[Sequence[int]],
        prompt: int,
        config: GenerationConfig,
    ) -> Float[jax.Array, " batch"]:
        lengths = np.array([len(caption) for caption in captions])
        time = self._room(int(lengths.max()))
        tokens = np.zeros((len(pixels), time), np.int32)
        for row, caption in enumerate(captions):
            tokens[row, : len(caption)] = caption
        fill = (0, len(pixels) - len(captions))
        lengths = np.pad(lengths, fill, "edge").astype(np.int32)
        limits = config.limits(np.full_like(lengths, prompt), self._max_positions)

        def make(config: GenerationConfig) -> Callable[..., jax.Array]:
            def program(
                parameters: Any, pixels: Any, tokens: Any, prompts: Any, lengths: Any, limits: Any
            ) -> jax.Array:
                model = self._rebuild(parameters)
                return score(
                    model,
                    self._encode(model, pixels),
                    tokens,
                    prompts,
                    lengths,
                    config.strategy,
                    eos_id=config.eos_ids,
                    limits=limits,
                    constraints=config.constraints,
                )

            return jax.jit(program)

        program = self._compiled("score", config, make)
        prompts = np.full_like(lengths, prompt)
        return program(
            parameters(self.model), pixels, tokens, prompts, lengths, limits.astype(np.int32)
        )

    def _encode(
        self, model: EncoderDecoder, inputs: Float[jax.Array, "batch height width 3"]
    ) -> Features:
        return map_pictures(model.encode, inputs)

    def save(self, directory: str | Path, *, dtype: str = "float32", card: str = "") -> None:
        """Write a checkpoint directory that `captax.load` reads, replacing what is there."""

        def write(folder: Path) -> None:
            self.processor.save(folder)

        self._save(directory, write, dtype=dtype, card=card)
