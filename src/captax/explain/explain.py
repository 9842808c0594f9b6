"""From a picture and a caption of it to their explanation."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image

from captax.explain import faithfulness as faith
from captax.explain.evidence import EVIDENCE, HIDE, evidence, hidden_picture
from captax.explain.explanation import ATTENTION, METHODS, ROLLOUT, ExplainError, Explanation
from captax.explain.reading import Given, Reader
from captax.explain.words import merge_tokens, token_texts
from captax.generator import Generated
from captax.images import ImageProcessor, Prepared
from captax.text import Tokenizer

ALL = "all"
# Pixels of the picture that is kept to draw on.
LONGEST_SIDE = 768


def known_methods(methods: str | Sequence[str]) -> tuple[str, ...]:
    """Methods by their names; `all` of them if that is said. Raises `ExplainError` for others."""
    named = (methods,) if isinstance(methods, str) else tuple(methods)
    for name in named:
        if name not in (*METHODS, ALL):
            raise ExplainError(f"method {name!r}: give {', '.join(METHODS)} or {ALL}")
    return METHODS if ALL in named else tuple(dict.fromkeys(named))


def explain(
    reader: Reader,
    processor: ImageProcessor,
    tokenizer: Tokenizer,
    image: Image.Image | Prepared,
    caption: Generated,
    begin: Sequence[int],
    *,
    prompt: str = "",
    eos: tuple[int, ...],
    room: int,
    methods: str | Sequence[str] = (ATTENTION,),
    faithfulness: bool = False,
    hide: str = "mean",
    alternatives: int = 5,
) -> Explanation:
    """Read `caption`, behind the tokens it began with, beside the picture, once or many times.

    `begin` holds the start token and the prompt's; captions are filled up to `room` tokens, so that
    few programs serve all. What is hidden, for evidence and faithfulness, is the picture's mean
    colour or a blur. Of `all` methods, those are left out that the model does not have. Raises
    `ExplainError` for a method that it does not have, or that there is not.
    """
    wanted = known_methods(methods)
    if hide not in HIDE:
        raise ExplainError(f"hide {hide!r}: give mean or blur")
    said = list(caption.tokens)
    if not said:
        raise ExplainError("the caption has no tokens: there is nothing to explain")
    given = _given(processor, image, [*begin, *said], len(said), room, hide)
    seen = reader.observe(given, alternatives)
    if seen.rollout is None and ROLLOUT in wanted:
        if ALL not in methods:
            raise ExplainError(
                "rollout follows attention through the encoder, and this model's has none "
                f"(a convolutional one): use {ATTENTION}, {', '.join(EVIDENCE)}"
            )
        wanted = tuple(method for method in wanted if method != ROLLOUT)
    bare = said[:-1] if said[-1] in eos else said
    logprobs = [float(each) for each in seen.logprobs]
    explanation = Explanation(
        caption=caption,
        prompt=prompt,
        image=_reduced(processor.view(image)),
        words=merge_tokens(tokenizer, begin, bare, logprobs),
        tokens=token_texts(tokenizer, said),
        logprobs=seen.logprobs,
        steps=tuple(
            tuple(zip(token_texts(tokenizer, ids.tolist()), np.exp(values).tolist(), strict=True))
            for ids, values in zip(seen.top, seen.top_logprobs, strict=True)
        ),
        grid=seen.grid,
        lead=seen.lead,
        cross_attentions=seen.cross_attentions,
        self_attentions=seen.self_attentions,
        encoder_attentions=seen.encoder_attentions,
        rollout=seen.rollout,
        evidence={
            method: evidence(method, reader, given, seen.grid)
            for method in wanted
            if method in EVIDENCE
        },
        methods=wanted,
        faithfulness={},
    )
    if faithfulness:
        spelt = [word.tokens for word in explanation.words]
        rankings = {method: explanation.weights(method) for method in wanted}
        explanation.faithfulness.update(faith.measure(reader, given, spelt, rankings))
    return explanation


def _reduced(image: Image.Image) -> Image.Image:
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return image


def _given(
    processor: ImageProcessor,
    image: Image.Image | Prepared,
    tokens: Sequence[int],
    said: int,
    room: int,
    hide: str,
) -> Given:
    shown = processor.prepare(image)
    hidden = np.asarray(hidden_picture(shown.image, hide))
    pixels: Float[np.ndarray, "two height width 3"] = processor([shown, Prepared(hidden)])
    padded = np.zeros(room, np.int32)
    padded[: len(tokens)] = tokens
    return Given(pixels[0], pixels[1], padded, len(tokens), said)
