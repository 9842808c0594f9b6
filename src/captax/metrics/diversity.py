"""How varied captions are: in a whole corpus, or among several captions of one picture.

These metrics do not look at the pictures: random captions would be the most diverse.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped

from captax.errors import CaptaxError, plural, quoted
from captax.metrics.bleu import bleu_scores, bleu_statistics
from captax.metrics.ngrams import CaptionNgrams, in_common


def distinct_n(captions: Iterable[Sequence[str]], order: int) -> float:
    """The number of different n-grams of `order` tokens divided by that of tokens, in [0, 1].

    For all captions of a corpus this is distinct-n (Li et al., "A Diversity-Promoting Objective
    Function for Neural Conversation Models", NAACL 2016), which falls as the corpus grows. For
    several captions of one picture it is Div-n, whose mean over pictures is reported (Shetty et
    al., "Speaking the Same Language", ICCV 2017). It is 0 if there is no token.

    Raises:
        CaptaxError: `order` is below 1.
    """
    if order < 1:
        raise CaptaxError(
            f"distinct-{order}: n-grams have at least 1 token; give an order of 1 or more"
        )
    ngrams: set[tuple[str, ...]] = set()
    tokens = 0
    for caption in captions:
        ngrams.update(zip(*(caption[start:] for start in range(order)), strict=False))
        tokens += len(caption)
    return len(ngrams) / (tokens or 1)


def vocabulary_size(captions: Iterable[Sequence[str]]) -> int:
    """The number of different tokens in the captions."""
    return len(set().union(*captions))


def novel_share(
    captions: Iterable[Sequence[str]], training_captions: Iterable[Sequence[str]]
) -> float:
    """The share of captions whose tokens are not equal to those of any training caption.

    Raises:
        CaptaxError: there is no caption.
    """
    known = set(map(tuple, training_captions))
    novel = [tuple(caption) not in known for caption in captions]
    if not novel:
        raise CaptaxError("the share of novel captions needs captions: give at least one")
    return sum(novel) / len(novel)


def mbleu(captions: Mapping[str, Sequence[Sequence[str]]]) -> list[float]:
    """mBLEU-1 to mBLEU-4 of several captions of each image.

    The images' first captions are scored by BLEU against their other captions, then the second
    captions, and so on; mBLEU is the mean of these scores (Shetty et al., ICCV 2017). It is 1 if
    all captions of an image are the same, and lower if they differ. More captions of an image raise
    it, so that all images must have the same number.

    Args:
        captions: image id -> the tokens of each caption.

    Raises:
        CaptaxError: there is no image, an image has a single caption, or images differ in their
            number of captions.
    """
    return mbleu_scores(mbleu_statistics(captions).sum(axis=0)).tolist()


def mbleu_statistics(
    captions: Mapping[str, Sequence[Sequence[str]]],
) -> Int[np.ndarray, "images columns"]:
    """Compute the counts behind mBLEU: BLEU's statistics of the first captions, of the second, ...

    The statistics of a corpus are the sum over its images.

    Raises:
        CaptaxError: as for `mbleu`.
    """
    if not captions:
        raise CaptaxError("mBLEU needs captions: give at least one image")
    first = len(next(iter(captions.values())))
    for image, several in captions.items():
        if len(several) < 2:
            raise CaptaxError(
                f"image {quoted(image)} has {plural(len(several), 'caption')}, but mBLEU compares "
                "several: give at least 2"
            )
        if len(several) != first:
            raise CaptaxError(
                f"image {quoted(image)} has {plural(len(several), 'caption')}, but others have "
                f"{first}: give the same number for every image"
            )
    columns = []
    for place in range(first):
        ours = CaptionNgrams([[several[place]] for several in captions.values()])
        others = CaptionNgrams(
            [[*several[:place], *several[place + 1 :]] for several in captions.values()]
        )
        common = in_common(ours, others, np.arange(len(captions)))
        columns.append(bleu_statistics(ours, others, common))
    return np.concatenate(columns, axis=1)


def mbleu_scores(statistics: Shaped[np.ndarray, "*sets columns"]) -> Float[np.ndarray, "*sets 4"]:
    """mBLEU-1 to mBLEU-4 from statistics of single images, or from their sum over several."""
    places = statistics.reshape(*statistics.shape[:-1], -1, 10)
    return bleu_scores(places).mean(axis=-2)
