"""How long the caption metrics take, compared with the reference program in the same run.

    python benchmarks/metrics.py TOKENS        # Flickr8k.token.txt, or any file of its layout

The program makes as many images as asked for from the captions of TOKENS. Repeated captions are
changed by a word each, so that no two are alike. Tokenising and each metric are timed separately;
the whole is the time of `captax.metrics.score`, which does all of it. The reference is the package
pycocoevalcap, whose tokeniser needs Java.
"""

import argparse
import collections
import contextlib
import io
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from captax.metrics import CiderD, ptb_tokenize, score
from captax.metrics.bleu import bleu_scores, bleu_statistics
from captax.metrics.ngrams import CaptionNgrams, in_common
from captax.metrics.rouge import rouge_l

Captions = dict[str, list[str]]
Hypotheses = dict[str, str]


def made_up(path: Path, images: int) -> tuple[Hypotheses, Captions]:
    """A hypothesis, another image's caption with a word of the own, and five references."""
    found = collections.defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        name, caption = line.split("\t")
        found[name.partition("#")[0]].append(caption)
    rng = random.Random(0)
    real = list(found.values())
    words = sorted({word for texts in real for text in texts for word in text.split()})

    def changed(caption: str) -> str:
        own = caption.split()
        own[rng.randrange(len(own))] = rng.choice(words)
        return " ".join(own)

    references, hypotheses = {}, {}
    for number in range(images):
        texts = real[number % len(real)]
        if number >= len(real):
            texts = [changed(text) for text in texts]
        references[str(number)] = texts
        hypotheses[str(number)] = changed(rng.choice([*texts, *rng.choice(real)]))
    return hypotheses, references


def captax(hypotheses: Hypotheses, references: Captions) -> dict[str, float]:
    seconds = {}
    with timed(seconds, "tokenising"):
        ours = {image: ptb_tokenize(text) for image, text in hypotheses.items()}
        theirs = {image: [ptb_tokenize(t) for t in texts] for image, texts in references.items()}
    with timed(seconds, "BLEU"):
        counts = CaptionNgrams([[tokens] for tokens in ours.values()])
        others = CaptionNgrams(list(theirs.values()))
        common = in_common(counts, others, np.arange(len(ours)))
        bleu_scores(bleu_statistics(counts, others, common).sum(0))
    with timed(seconds, "ROUGE-L"):
        np.mean([rouge_l(tokens, theirs[image]) for image, tokens in ours.items()])
    with timed(seconds, "CIDEr-D"):
        CiderD(theirs).score([*ours], [*ours.values()]).mean()
    with timed(seconds, "the whole"):
        score(hypotheses, references)
    return seconds


def reference(hypotheses: Hypotheses, references: Captions) -> dict[str, float]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    seconds = {}
    with contextlib.redirect_stdout(io.StringIO()):
        with timed(seconds, "tokenising"):
            tokenizer = PTBTokenizer()
            ours = tokenizer.tokenize({i: [{"caption": t}] for i, t in hypotheses.items()})
            theirs = tokenizer.tokenize(
                {i: [{"caption": text} for text in texts] for i, texts in references.items()}
            )
        for name, metric in (("BLEU", Bleu(4)), ("ROUGE-L", Rouge()), ("CIDEr-D", Cider())):
            with timed(seconds, name):
                metric.compute_score(theirs, ours)
    seconds["the whole"] = sum(seconds.values())
    return seconds


def reward(hypotheses: Hypotheses, references: Captions, batch: int) -> float:
    """Captions a second that CIDEr-D scores, `batch` at a time, references counted before."""
    theirs = {image: [ptb_tokenize(t) for t in texts] for image, texts in references.items()}
    scorer = CiderD(theirs)
    images = [*hypotheses]
    ours = [ptb_tokenize(text) for text in hypotheses.values()]
    started = time.process_time()
    for place in range(0, len(images), batch):
        scorer.score(images[place : place + batch], ours[place : place + batch])
    return len(images) / (time.process_time() - started)


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Any:
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    captions = made_up(options.tokens, options.images)
    sides: dict[str, Callable[..., dict[str, float]]] = {"captax": captax, "reference": reference}
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    # Alternately, so that what else the machine does falls on both.
    for _ in range(options.runs):
        for side, run in sides.items():
            runs[side].append(run(*captions))
    ours, theirs = (medians(runs[side]) for side in sides)
    print(f"{options.images:,} images x 5 references, seconds, medians of {options.runs} runs")
    print(f"{'':12}{'captax':>9}{'reference':>11}{'ratio':>8}")
    for name, seconds in ours.items():
        print(f"{name:12}{seconds:9.3f}{theirs[name]:11.3f}{theirs[name] / seconds:8.1f}")
    for batch in (50, 250, 1000):
        rate = statistics.median(reward(*captions, batch) for _ in range(options.runs))
        print(f"CIDEr-D as a reward, {batch:4} at a time: {rate:9,.0f} captions a second a core")


if __name__ == "__main__":
    main()
