"""`captax explain`: where in a picture each word of its caption came from."""

import importlib
import threading
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captax.cli.options import Dtype, Loaded, Model, Offline, Revision, decoding, load_captioner

if TYPE_CHECKING:
    import numpy as np

    from captax.explain import Explanation


class View(StrEnum):
    """What a PNG shows."""

    STRIP = "strip"
    OVERLAY = "overlay"
    HEAT = "heat"
    WEIGHTED = "weighted"
    GRID = "grid"
    SEQUENCE = "sequence"


class Method(StrEnum):
    """What maps are made of."""

    attention = "attention"
    rollout = "rollout"
    gradient = "gradient"
    integrated = "integrated"
    occlusion = "occlusion"
    all = "all"


class Per(StrEnum):
    """What maps are of."""

    word = "word"
    token = "token"


class Hide(StrEnum):
    """What takes the place of hidden cells."""

    mean = "mean"
    blur = "blur"


@decoding
def explain(
    image: Annotated[Path, typer.Argument(help="A picture.")],
    model: Model = None,
    caption: Annotated[
        str | None, typer.Option(help="Explain this one instead of what the model says.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="The caption begins with it.")] = "",
    method: Annotated[
        list[Method] | None, typer.Option(help="May be repeated; default: attention.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Attention of one layer, from 0; -1: the last.")
    ] = None,
    head: Annotated[int | None, typer.Option(help="Attention of one head, from 0.")] = None,
    word: Annotated[
        str | None, typer.Option(help="Of views of one word: its number from 1, or its text.")
    ] = None,
    per: Annotated[Per, typer.Option(help="A map of every word or of every token.")] = Per.word,
    view: Annotated[
        View | None, typer.Option(help="Of a .png; default: strip, or overlay with --word.")
    ] = None,
    faithfulness: Annotated[
        bool, typer.Option("--faithfulness", help="Measure how far to believe each map.")
    ] = False,
    hide: Annotated[
        Hide, typer.Option(help="What hidden places show: the mean colour or a blur.")
    ] = Hide.mean,
    feed_back: Annotated[
        bool,
        typer.Option("--feed-back", help="Caption again the picture that the map leaves bright."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write a .png, a page .html or arrays .npz.")
    ] = None,
    dtype: Loaded = Dtype.float32,
    revision: Revision = None,
    offline: Offline = False,
    *,
    options: dict[str, Any],
) -> None:
    """Show where in a picture each word of its caption came from, and how far to believe it.

    Without --out, words are listed with their log-probabilities and where their maps are highest.
    """
    from captax.errors import CaptaxError
    from captax.explain.explanation import file_kind
    from captax.explain.maps import check_layers

    kind = None if out is None else file_kind(out)
    methods = [each.value for each in method or [Method.attention]]
    check_layers(methods[0], layer, head)
    if caption is not None and not caption.strip():
        raise CaptaxError("--caption has no words: there is nothing to explain")
    if view is not None and kind != ".png":
        raise CaptaxError("--view is what a .png shows: give --out NAME.png")
    if view is View.STRIP and word is not None:
        raise CaptaxError("--view strip shows every word: leave --word out, or give another view")
    if kind == ".png" and ("all" in methods or len(methods) > 1):
        raise CaptaxError("a .png shows one map: give one --method, or --out NAME.html for several")
    if feed_back and per is Per.token:
        raise CaptaxError("--feed-back takes the map of a word: leave --per token out")
    if kind in (".png", ".html"):
        # What draws is read while the model is.
        threading.Thread(target=importlib.import_module, args=["matplotlib.figure"]).start()
    captioner = load_captioner(model, revision=revision, offline=offline, dtype=dtype.value)
    found = captioner.explain(
        image,
        caption,
        prompt=prompt,
        methods=methods,
        faithfulness=faithfulness,
        hide=hide.value,
        **options,
    )
    first = found.methods[0]
    chosen: dict[str, Any] = {"method": first, "layer": layer, "head": head, "per": per.value}
    place = None if word is None else found.find(word, per.value)
    print(found.caption.text)
    if out is not None:
        shown = view or (View.STRIP if word is None else View.OVERLAY)
        found.save(out, shown.value, word=place, **chosen)
    else:
        _list(found, found.maps(**chosen), per)
    if found.faithfulness:
        _judge(found)
    if feed_back:
        options.pop("seed", None)
        again = captioner.caption_again(found, method=first, word=place, **options)
        print(f"fed back: {again.text}")


def _list(found: "Explanation", maps: "np.ndarray", per: Per) -> None:
    """A line for each word: number, text, log-probability, and where its map is highest."""
    named = found.named(per.value)
    wide = max([len(text) for text, _ in named], default=0)
    rows, columns = found.grid
    for number, ((text, logprob), share) in enumerate(zip(named, maps, strict=True), 1):
        row, column = divmod(int(share.argmax()), columns)
        print(
            f"{number:>3}  {text.strip():{wide}}  {logprob:7.2f}  {100 * share.max():3.0f}% "
            f"at row {row + 1} of {rows}, column {column + 1} of {columns}, "
            f"{_side(row, column, found.grid)}"
        )


def _side(row: int, column: int, grid: tuple[int, int]) -> str:
    """In words, which ninth of the picture a cell is in."""
    down, across = (
        min(2, 3 * (2 * place + 1) // (2 * count))
        for place, count in zip((row, column), grid, strict=True)
    )
    if (down, across) == (1, 1):
        return "the middle"
    return " ".join(filter(None, (("top", "", "bottom")[down], ("left", "", "right")[across])))


def _judge(found: "Explanation") -> None:
    """The table of faithfulness, best first."""
    from captax.explain.faithfulness import best_first

    print(f"\n{'map':<12}{'deletion':>10}{'insertion':>11}{'score':>9}")
    for method, each in best_first(found.faithfulness):
        print(
            f"{method:<12}{each.deletion_area:>10.3f}{each.insertion_area:>11.3f}"
            f"{each.score:>+9.3f}"
        )
    spread = found.faithfulness["random"].spread
    print(f"one random order comes to 0 ± {spread:.3f}")
