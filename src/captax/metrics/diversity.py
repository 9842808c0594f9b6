"""How varied captions are: of a whole corpus, and of several captions of one picture.

None of these looks at the pictures: captions at random are the most diverse.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped

from captax.errors import CaptaxError
from captax.metrics.bleu import bleu_scores, bleu_statistics
from captax.metrics.ngrams import CaptionNgrams, in_common


def distinct_n(captions: Iterable[Sequence[str]], order: int) -> float:
    """The number of different n-grams of `order` tokens for each token of the captions, in [0, 1].

    Of all captions of a corpus it is distinct-n (Li et al., "A Diversity-Promoting Objective
    Function for Neural Conversation Models", NAACL 2016), which falls as the corpus grows; of
    several captions of one picture, Div-n, of which the mean over pictures is reported (Shetty et
    al., "Speaking the Same Language", ICCV 2017). 0 where there is no token.

    Raises:
        CaptaxError: `order` is below 1.
    """
    if order < 1:
        raise CaptaxError(f"distinct-{order}: n-grams have at least 1 token")
    ngrams: set[tuple[str, ...]] = set()
    tokens = 0
    for caption in captions:
        ngrams.update(zip(*(caption[start:] for start in range(order)), strict=False))
        tokens += len(caption)
    return len(ngrams) / (tokens or 1)


def vocabulary_size(captions: Iterable[Sequence[str]]) -> int:
    """How many different tokens the captions use."""
    return len(set().union(*captions))


def novel_share(
    captions: Iterable[Sequence[str]], training_captions: Iterable[Sequence[str]]
) -> float:
    """The share of captions that are, token for token, no caption of the training set.

    Raises:
        CaptaxError: there is no caption.
    """
    known = set(map(tuple, training_captions))
    novel = [tuple(caption) not in known for caption in captions]
    if not novel:
        raise CaptaxError("the share of novel captions needs captions: give at least one")
    return sum(novel) / len(novel)


def mbleu(captions: Mapping[str, Sequence[Sequence[str]]]) -> list[float]:
    """mBLEU-1 to mBLEU-4 of several captions an image: id -> the tokens of each.

    The BLEU of the images' first captions against their other ones, of their second captions, and
    so on, and of these the mean (Shetty et al., ICCV 2017): 1 where all captions of an image are
    the same, lower where they differ. More captions an image make it higher, so that all must
    have the same number.

    Raises:
        CaptaxError: there is no image, one has a single caption, or another number than the first.
    """
    return mbleu_scores(mbleu_statistics(captions).sum(axis=0)).tolist()


def mbleu_statistics(
    captions: Mapping[str, Sequence[Sequence[str]]],
) -> Int[np.ndarray, "images columns"]:
    """What mBLEU is computed from: BLEU's statistics of the first captions, of the second, ...

    Those of a corpus are the sum of its images'.

    Raises:
        CaptaxError: as for `mbleu`.
    """
    if not captions:
        raise CaptaxError("mBLEU needs captions: give at least one image")
    first = len(next(iter(captions.values())))
    for image, several in captions.items():
        if len(several) < 2:
            raise CaptaxError(
                f"image {image!r} has {len(several)} caption(s), and mBLEU compares several: "
                "give at least 2"
            )
        if len(several) != first:
            raise CaptaxError(
                f"image {image!r} has {len(several)} captions and others have {first}: "
                "mBLEU needs the same number for every image"
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
    """mBLEU-1, ..., mBLEU-4 of statistics, each of an image or the sum of several."""
    places = statistics.reshape(*statistics.shape[:-1], -1, 10)
    return bleu_scores(places).mean(axis=-2)
