"""Fit the confidence of a captioner to pictures whose captions people wrote."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from captax.data import Example
from captax.errors import CaptaxError, plural
from captax.files import Kind, replacing
from captax.generation import Calibration
from captax.generation.confidence import SIGNALS
from captax.images import ImageError
from captax.images.synthetic import synthetic_pictures
from captax.metrics import Metric, score
from captax.metrics.logistic import auroc, chances, fit_logistic, folds_of
from captax.pipelines.captioner import Captioner
from captax.progress import Progress

ACCEPTABLE = 0.5
"""The CIDEr-D above which a caption counts as acceptable (50 as `captax evaluate` prints it).

Eighty captions of COCO, Flickr8k and other pictures were read beside their references. About a
sixth was right from 0.1 to 0.2, under half from 0.3 to 0.5, half from 0.5 to 0.6, and four in five
above 0.6.
"""

SURE = 0.75
"""The share of acceptable captions among those that are called sure."""

FOLDS = 10
SYNTHETIC_SHARE = 0.15  # of the real pictures; but at least `FEWEST_SYNTHETIC`
FEWEST_SYNTHETIC = 60
# The threshold rests on at least so many captions, or 2% of them.
FEWEST_SURE = 10
_MARGIN = 0.05
_SOFTWARE = "captax: calibration"  # in the text of the diagram
DIAGRAM = Kind(
    "diagram", re.compile(rb"\x89PNG.{,400}tEXtSoftware\0%b" % _SOFTWARE.encode(), re.DOTALL)
)
_BINS = 10


@dataclasses.dataclass(frozen=True)
class Fit:
    """A calibration and how well it fits.

    Attributes:
        calibration: the calibration, fitted to all captions.
        confidences: the confidence in each caption from the fits to the other folds.
        acceptable: whether the caption of each picture is acceptable.
        source: the name of the data that each picture is from.
        captions: the caption of each picture.
        synthetic: the highest confidence in a caption of a synthetic picture.
        reached: whether some threshold makes sure captions as often acceptable as was wanted.
    """

    calibration: Calibration
    confidences: Float[np.ndarray, " pictures"]
    acceptable: Bool[np.ndarray, " pictures"]
    source: Sequence[str]
    captions: Sequence[str]
    synthetic: float
    reached: bool

    @property
    def sure(self) -> Bool[np.ndarray, " pictures"]:
        """Which captions are sure."""
        return self.confidences >= self.calibration.threshold

    def of(self, name: str) -> Bool[np.ndarray, " pictures"]:
        """Which pictures are from the data of that name."""
        return np.array([each == name for each in self.source])

    def auroc(self, name: str | None = None) -> float:
        """How well confidence tells acceptable captions from others, in all data or in one."""
        which = np.ones(len(self.source), bool) if name is None else self.of(name)
        return auroc(self.confidences[which], self.acceptable[which])


def calibrate(
    captioner: Captioner,
    data: Mapping[str, Sequence[Example]],
    *,
    acceptable: float = ACCEPTABLE,
    sure: float = SURE,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = False,
    **options: Any,
) -> Fit:
    """Caption the pictures of `data`, by its names, and fit a calibration to the captions.

    A caption is acceptable if its CIDEr-D is above `acceptable`; document frequencies are those of
    its own data, as in `evaluate`. Synthetic pictures, whose captions never are, are added. A
    threshold is chosen on the confidences of pictures that were not fitted to: the lowest from
    which a share `sure` of the captions is acceptable and which no synthetic picture reaches.

    Args:
        captioner: writes the captions; a calibration that it has is not used.
        data: pictures with reference captions, which the captioner was not trained on.
        acceptable: the CIDEr-D above which a caption is acceptable, on the scale of `score`.
        sure: the share of acceptable captions among those that are called sure.
        batch_size: the number of pictures in a batch.
        seed: the seed of the synthetic pictures and of the folds.
        progress: whether to show progress on stderr, as `captax.progress` does.
        options: the options of `Captioner.caption`.

    Raises:
        CaptaxError: there are fewer pictures than folds, all captions are acceptable, or none, or
            the model's numbers are not finite.
        ImageError: a picture cannot be read.
    """
    examples = [example for each in data.values() for example in each]
    source = [name for name, each in data.items() for _ in each]
    if len(examples) < FOLDS:
        few = plural(len(examples), "picture is", "pictures are")
        raise CaptaxError(f"{few} too few for a calibration; give {FOLDS} or more")
    extra = max(FEWEST_SYNTHETIC, round(SYNTHETIC_SHARE * len(examples)))
    pictures = [*(example.image for example in examples), *synthetic_pictures(extra, seed=seed)]
    stream = captioner.stream(pictures, batch_size=batch_size, signals=True, **options)
    bar = Progress(len(pictures), unit="picture", shown=progress, leave=True).over(stream)
    captions: list[str] = []
    measured: list[Mapping[str, float]] = []
    for caption in bar:
        if isinstance(caption, ImageError):
            raise caption
        captions.append(caption.text)
        measured.append(caption.signals)

    names = [name for name in SIGNALS if name in measured[0]]
    signals = np.array([[each[name] for name in names] for each in measured])
    if not np.isfinite(signals).all():
        raise CaptaxError(
            "the model gives numbers that are not finite; look at its captions, and train it anew"
        )
    right = np.zeros(len(pictures), bool)
    right[: len(examples)] = _ciders(data, captions) > acceptable
    if right.sum() in (0, len(examples)):
        every = "all captions are" if right.any() else "no caption is"
        raise CaptaxError(
            f"{every} acceptable, so there is nothing to tell apart; give more pictures, or "
            "another --acceptable"
        )
    fold, outside = folds_of(len(pictures), FOLDS, seed=seed), np.zeros(len(pictures))
    for each in range(FOLDS):
        weights, bias = fit_logistic(signals[fold != each], right[fold != each])
        outside[fold == each] = chances(signals[fold == each] @ weights + bias)
    weights, bias = fit_logistic(signals, right)
    known = outside[: len(examples)]
    right = right[: len(examples)]
    fitted = chances(signals[len(examples) :] @ weights + bias)
    synthetic = float(max(outside[len(examples) :].max(), fitted.max()))
    least = _threshold(known, right, sure)
    # Other pictures of their kinds may come a little higher.
    threshold = 1.0 if least is None else min(1.0, max(least, synthetic + _MARGIN))
    told: dict[str, str | float] = {
        "data": ", ".join(f"{name} ({len(each)})" for name, each in data.items()),
        "acceptable": acceptable,
        "acceptable_share": round(float(right.mean()), 4),
        "sure": sure,
        "sure_share": round(float((known >= threshold).mean()), 4),
        "auroc": round(auroc(known, right), 4),
    }
    calibration = Calibration(
        dict(zip(names, map(float, weights), strict=True)), bias, threshold, told
    )
    texts = captions[: len(examples)]
    return Fit(calibration, known, right, source, texts, synthetic, least is not None)


def _ciders(
    data: Mapping[str, Sequence[Example]], captions: Sequence[str]
) -> Float[np.ndarray, " pictures"]:
    """The CIDEr-D of each caption."""
    values: list[float] = []
    for examples in data.values():
        said = captions[len(values) : len(values) + len(examples)]
        hypotheses = {example.id: text for example, text in zip(examples, said, strict=True)}
        references = {example.id: example.captions for example in examples}
        found = score(hypotheses, references, metrics=[Metric.cider_d]).per_image
        values += [found[example.id]["CIDEr-D"] for example in examples]
    return np.array(values)


def _threshold(
    confidences: Float[np.ndarray, " rows"], right: Bool[np.ndarray, " rows"], sure: float
) -> float | None:
    """The lowest confidence from which a share `sure` is right; None if there is none."""
    order = np.argsort(-confidences, kind="stable")
    shares = right[order].cumsum() / np.arange(1, len(order) + 1)
    fewest = max(FEWEST_SURE, round(0.02 * len(order)))
    enough = np.flatnonzero(shares[fewest - 1 :] >= sure)
    if not len(enough):
        return None
    return float(confidences[order[enough[-1] + fewest - 1]])


def plot_reliability(path: Path, fit: Fit, *, inside: Path | None = None) -> None:
    """Draw how often captions are acceptable at each confidence, and how many there are."""
    # Start-up time: matplotlib takes 0.5 s, and fitting does not need it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    edges = np.linspace(0, 1, _BINS + 1)
    place = np.minimum((fit.confidences * _BINS).astype(int), _BINS - 1)
    count = np.bincount(place, minlength=_BINS)
    some = count > 0
    said = np.bincount(place, fit.confidences, _BINS)[some] / count[some]
    true = np.bincount(place, fit.acceptable, _BINS)[some] / count[some]
    # Two standard errors of a share.
    error = 2 * np.sqrt(np.maximum(true * (1 - true), 0.01) / count[some])
    figure = Figure(figsize=(5, 6), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    upper.plot([0, 1], [0, 1], color="0.7", label="perfect")
    upper.errorbar(said, true, error, fmt="o-", color="tab:blue", capsize=3, label="measured")
    upper.axvline(fit.calibration.threshold, color="tab:orange", linestyle="--", label="sure from")
    upper.set(ylabel="share of acceptable captions", xlim=(0, 1), ylim=(0, 1))
    upper.set_title(f"{len(place):,} pictures, AUROC {fit.auroc():.3f}")
    upper.legend(loc="upper left")
    upper.grid(alpha=0.3)
    lower.bar(edges[:-1], count, width=1 / _BINS, align="edge", color="tab:blue", alpha=0.6)
    lower.set(xlabel="confidence", ylabel="pictures")
    with replacing(path, inside=inside) as file:
        figure.savefig(file, format="png", dpi=120, metadata={"Software": _SOFTWARE})
