"""From a picture and a caption of it to their explanation."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image

from captax.explain import faithfulness as faith
from captax.explain.evidence import EVIDENCE, evidence
from captax.explain.explanation import Explanation
from captax.explain.hiding import HIDE, hidden
from captax.explain.maps import ATTENTION, METHODS, ROLLOUT, ExplainError
from captax.explain.reading import Given, Reader
from captax.explain.words import merge_tokens, token_texts
from captax.generation.programs import CAPTION_LENGTH, fill_prompts, padded_length
from captax.generation.result import Generated
from captax.images import AnyProcessor, Prepared
from captax.text import Tokenizer

ALL = "all"
# The longest side, in pixels, of the picture that is kept to draw on.
LONGEST_SIDE = 768
# The sides of this picture differ at most this many times. One that is wider or taller is
# stretched, because nothing could be seen on it.
MOST_SIDES = 8


def known_methods(methods: str | Sequence[str]) -> tuple[str, ...]:
    """Check names of methods; `all` stands for every one. Raises `ExplainError` for other names."""
    named = (methods,) if isinstance(methods, str) else tuple(methods)
    for name in named:
        if name not in (*METHODS, ALL):
            raise ExplainError(f"there is no method {name!r}; choose {', '.join(METHODS)} or {ALL}")
    return METHODS if ALL in named else tuple(dict.fromkeys(named))


def explain(
    reader: Reader,
    processor: AnyProcessor,
    tokenizer: Tokenizer,
    image: Image.Image | Prepared,
    shown: Prepared,
    caption: Generated,
    begin: Sequence[int],
    *,
    prompt: str = "",
    spoken: Sequence[int] = (),
    eos: tuple[int, ...],
    room: int,
    methods: str | Sequence[str] = (ATTENTION,),
    faithfulness: bool = False,
    hide: str = "mean",
    alternatives: int = 5,
    unsaid: Sequence[int] = (),
    watch: Callable[[str], None] = lambda step: None,
) -> Explanation:
    """Explain `caption` by reading it with the picture, once or many times.

    `shown` is the `image` as the processor prepares it. `begin` holds all tokens that the decoder
    reads before it writes, and `spoken` are those of them that the caption begins with; the decoder
    has `room` for so many tokens. Evidence and faithfulness hide places of the picture behind its
    mean colour or a blur. With `all`, methods that the model does not have are left out. The
    `alternatives` of each token are none of the `unsaid`, which decoding never chooses. `watch` is
    called with the name of each method as it begins, and with `faithfulness`. Raises `ExplainError`
    for a method that does not exist or that the model does not have.
    """
    wanted = known_methods(methods)
    if hide not in HIDE:
        raise ExplainError(f"hide cannot be {hide!r}; choose {' or '.join(HIDE)}")
    said = list(caption.tokens)
    if not said:
        raise ExplainError("the caption has no tokens to explain; give one that has some")
    given = _given(processor, shown, begin, said, room, hide)
    # One reading gives both. Whether there is a rollout depends on the encoder.
    for method in (ATTENTION, ROLLOUT):
        if method in wanted and (method == ATTENTION or ALL not in methods):
            watch(method)
    seen = reader.observe(given, alternatives, unsaid)
    if seen.rollout is None and ROLLOUT in wanted:
        if ALL not in methods:
            raise ExplainError(
                "rollout needs an encoder with attention, and this model's encoder has none (it is "
                "convolutional) or reads a picture in several views; choose "
                f"{', '.join(m for m in METHODS if m != ROLLOUT)}"
            )
        wanted = tuple(method for method in wanted if method != ROLLOUT)
    elif ROLLOUT in wanted and ALL in methods:
        watch(ROLLOUT)
    bare = said[:-1] if said[-1] in eos else said
    logprobs = [float(each) for each in seen.logprobs]

    def found(method: str) -> Float[np.ndarray, "said rows columns"]:
        watch(method)
        return evidence(method, reader, given, seen.grid)

    explanation = Explanation(
        caption=caption,
        prompt=prompt,
        image=_reduced(processor.view(image)),
        words=merge_tokens(tokenizer, spoken, bare, logprobs),
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
        evidence={method: found(method) for method in wanted if method in EVIDENCE},
        methods=wanted,
        faithfulness={},
    )
    if faithfulness:
        spelt = [word.tokens for word in explanation.words]
        watch("faithfulness")
        rankings = {method: explanation.weights(method) for method in wanted}
        explanation.faithfulness.update(faith.measure(reader, given, spelt, rankings))
    return explanation


def _reduced(image: Image.Image) -> Image.Image:
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    least = -(-max(image.size) // MOST_SIDES)
    if min(image.size) < least:
        image = image.resize((max(image.width, least), max(image.height, least)))
    return image


def _given(
    processor: AnyProcessor,
    shown: Prepared,
    begin: Sequence[int],
    said: Sequence[int],
    room: int,
    hide: str,
) -> Given:
    pixels, nothing = (processor.normalize(each.views) for each in (shown, hidden(shown, hide)))
    if shown.tiles is None:
        pixels, nothing = pixels[0], nothing[0]
    tokens = np.zeros(padded_length(len(said), CAPTION_LENGTH, room), np.int32)
    tokens[: len(said)] = said
    prompt = fill_prompts([begin], 1, max_positions=room)
    return Given(pixels, nothing, prompt, tokens, len(said), shown.grid)
