"""`captax explain`: where in a picture each word of its caption came from."""

import importlib
import sys
import threading
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captax.cli.options import (
    Loaded,
    Model,
    Offline,
    Raw,
    Replace,
    Revision,
    System,
    checkpoint_files,
    decoding,
    load_captioner,
    named_pictures,
    wrote,
)
from captax.errors import CaptaxError
from captax.files import NewFile, check_new_files

if TYPE_CHECKING:
    import numpy as np

    from captax.explain import Explanation


class View(StrEnum):
    """What a .png shows."""

    STRIP = "strip"
    OVERLAY = "overlay"
    HEAT = "heat"
    WEIGHTED = "weighted"
    GRID = "grid"
    SEQUENCE = "sequence"


class Method(StrEnum):
    """How maps are made."""

    attention = "attention"
    rollout = "rollout"
    gradient = "gradient"
    integrated = "integrated"
    occlusion = "occlusion"
    all = "all"


_COMPILING = "compiling"
# What is told of each step, beside the methods.
_STEPS = {
    "caption": "writing the caption",
    "faithfulness": "measuring how far to believe each map",
    _COMPILING: "compiling a program for this step, which is kept for the next time",
}


class Per(StrEnum):
    """What each map is made for."""

    word = "word"
    token = "token"


class Hide(StrEnum):
    """What takes the place of hidden cells."""

    mean = "mean"
    blur = "blur"


@decoding
def explain(
    image: Annotated[str, typer.Argument(help="The picture to explain: a file or a URL.")],
    model: Model = None,
    caption: Annotated[
        str | None, typer.Option(help="Explain this caption. By default the model writes one.")
    ] = None,
    prompt: Annotated[
        str,
        typer.Option(
            help="The text that the caption begins with; a vision-language model answers it "
            "instead. Default: none, or the model's own.",
            show_default=False,
        ),
    ] = "",
    system: System = "",
    raw: Raw = False,
    method: Annotated[
        list[Method] | None,
        typer.Option(
            help="How maps are made; may be repeated, and all stands for all that the model has. "
            "The default is attention."
        ),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(
            help="Use the attention of one layer, counted from 0; -1 is the last. The default is "
            "the mean of all."
        ),
    ] = None,
    head: Annotated[
        int | None,
        typer.Option(
            help="Use the attention of one head, counted from 0; -1 is the last. The default is "
            "the mean of all."
        ),
    ] = None,
    word: Annotated[
        str | None,
        typer.Option(
            help="Draw or feed back the map of one word, given by its text or its number from 1 "
            "(with --per token, by its number). The default is every word."
        ),
    ] = None,
    per: Annotated[
        Per, typer.Option(help="Make a map for each word or for each token.")
    ] = Per.word,
    view: Annotated[
        View | None,
        typer.Option(help="What a .png shows. The default is strip, or overlay with --word."),
    ] = None,
    faithfulness: Annotated[
        bool, typer.Option("--faithfulness", help="Also measure how far to believe each map.")
    ] = False,
    hide: Annotated[
        Hide, typer.Option(help="Hide places behind the picture's mean colour or a blur of it.")
    ] = Hide.mean,
    feed_back: Annotated[
        bool,
        typer.Option(
            "--feed-back", help="Also caption the picture again, darkened where the map is low."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Also write a picture .png, a page .html or arrays .npz. By default words are "
            "only listed."
        ),
    ] = None,
    overwrite: Replace = False,
    dtype: Loaded = None,
    revision: Revision = None,
    offline: Offline = False,
    *,
    options: dict[str, Any],
) -> None:
    """Show where in a picture each word of its caption came from, and how far to believe it.

    Each word is listed with its log-probability and where its map is highest.
    """
    # Start-up time.
    from captax.explain.explanation import KINDS, file_kind
    from captax.explain.maps import check_layers
    from captax.generation.programs import PATIENCE, telling

    kind = None if out is None else file_kind(out)
    methods = [each.value for each in method or [Method.attention]]
    check_layers(methods[0], layer, head)
    if caption is not None and not caption.strip():
        raise CaptaxError("--caption has no words to explain; give it some, or leave it out")
    if view is not None and kind != ".png":
        raise CaptaxError("--view only applies to a .png; add --out NAME.png")
    if view is View.STRIP and word is not None:
        raise CaptaxError("--view strip shows every word; leave --word out, or choose another view")
    if kind == ".png" and ("all" in methods or len(methods) > 1):
        raise CaptaxError(
            "a .png shows one method; give one --method, or --out NAME.html for several"
        )
    if feed_back and per is Per.token:
        raise CaptaxError("--feed-back takes the maps of words; leave --per token out")
    if kind is not None:
        new = NewFile("--out", out, KINDS[kind], overwrite)
        check_new_files([new], [image, *checkpoint_files(model)])
    if kind in (".png", ".html"):
        # What draws is read while the model is. It imports NumPy, and two threads that import the
        # same package at once may each see the other's half of it: so NumPy and JAX come first.
        importlib.import_module("jax.numpy")
        threading.Thread(target=importlib.import_module, args=["matplotlib.figure"]).start()
    captioner = load_captioner(model, revision=revision, offline=offline, dtype=dtype)
    # Attention and its rollout take no longer than a caption.
    long = faithfulness or not {Method.attention, Method.rollout}.issuperset(methods)

    def tell(step: str) -> None:
        if long or step == _COMPILING:
            print(f"captax: {_STEPS.get(step, f'method {step}')}", file=sys.stderr, flush=True)

    with telling(lambda: tell(_COMPILING), after=0.0 if long else PATIENCE):
        found = captioner.explain(
            _picture(image),
            caption,
            prompt=prompt,
            system=system,
            raw=raw,
            methods=methods,
            faithfulness=faithfulness,
            hide=hide.value,
            watch=tell,
            **options,
        )
    first = found.methods[0]
    chosen: dict[str, Any] = {"method": first, "layer": layer, "head": head, "per": per.value}
    place = None if word is None else found.find(word, per.value)
    print(found.caption.text)
    if out is not None:
        shown = view or (View.STRIP if word is None else View.OVERLAY)
        found.save(out, shown.value, word=place, **chosen)
        wrote(out)
    _list(found, found.maps(**chosen), per)
    if found.faithfulness:
        _judge(found)
    if feed_back:
        options.pop("seed", None)
        again = captioner.caption_again(
            found, method=first, word=place, system=system, raw=raw, **options
        )
        print(f"fed back: {again.text}")


def _picture(image: str) -> Any:
    """The picture to explain. Raises `CaptaxError` if a URL means none, or several."""
    if "://" not in image and image[:5].lower() != "data:":
        return Path(image)
    (name, picture), *others = named_pictures([image]).items()
    if others:
        raise CaptaxError(f"{image}: means {1 + len(others):,} pictures; give one")
    try:
        return picture if isinstance(picture, bytes) else picture.read()
    except CaptaxError as error:
        raise CaptaxError(f"{name}: {error}") from None


def _list(found: "Explanation", maps: "np.ndarray", per: Per) -> None:
    """Print for each word its number, text, log-probability and where its map is highest."""
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
    """The ninth of the picture that a cell is in, in words."""
    down, across = (
        min(2, 3 * (2 * place + 1) // (2 * count))
        for place, count in zip((row, column), grid, strict=True)
    )
    if (down, across) == (1, 1):
        return "the middle"
    return " ".join(filter(None, (("top", "", "bottom")[down], ("left", "", "right")[across])))


def _judge(found: "Explanation") -> None:
    """Print the table of faithfulness, best first."""
    # Start-up time.
    from captax.explain.faithfulness import best_first

    print(f"\n{'map':<12}{'deletion':>10}{'insertion':>11}{'score':>9}")
    for method, each in best_first(found.faithfulness):
        print(
            f"{method:<12}{each.deletion_area:>10.3f}{each.insertion_area:>11.3f}"
            f"{each.score:>+9.3f}"
        )
    spread = found.faithfulness["random"].spread
    print(f"one random order scores 0 ± {spread:.3f}")
