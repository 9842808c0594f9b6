"""Explanations as users hold them: maps that can be drawn, written and read back."""

import dataclasses
import json
import re
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from captax.explain.faithfulness import Faithfulness
from captax.explain.maps import ATTENTION, ExplainError, Maps
from captax.explain.words import Word
from captax.files import Kind, open_regular, replacing
from captax.generation.result import Alternative, Generated

_CURVES = ("fractions", "deletion", "insertion")
_SOFTWARE = "captax: explanation"  # in the text of a picture and in the head of a page
# What `Explanation.save` writes, by suffix.
KINDS = {
    ".png": Kind(
        "picture",
        re.compile(rb"\x89PNG.{,400}tEXtSoftware\0%b" % _SOFTWARE.encode(), re.DOTALL),
    ),
    ".html": Kind(
        "page",
        re.compile(rb'.{,200}<meta name="generator" content="%b">' % _SOFTWARE.encode(), re.DOTALL),
    ),
    ".npz": Kind("explanation", re.compile(rb"PK\x03\x04.{26}explanation\.npy", re.DOTALL)),
}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Explanation(Maps):
    """A caption and the maps of its words, which can be drawn, written and read back."""

    def draw(self, view: str = "strip", **choice: Any) -> Image.Image:
        """Draw the explanation as a picture; `captax.explain.views.draw` lists the options."""
        # Start-up time.
        from captax.explain.views import draw

        return draw(self, view, **choice)

    def attended(self, method: str = ATTENTION, *, word: int | None = None) -> Image.Image:
        """The picture, darkened where the map of one word, or the mean of all, is low."""
        # Start-up time.
        from captax.explain.views import weigh

        return weigh(self, method, word)

    def save(self, path: str | PathLike[str], view: str = "strip", **choice: Any) -> None:
        """Write a view as `.png`, the page as `.html` or the arrays as `.npz`.

        The suffix of `path` decides which. `choice` takes the options of `draw`. Raises
        `ExplainError` for another suffix.
        """
        path = Path(path)
        suffix = file_kind(path)
        if suffix == ".png":
            drawn = self.draw(view, **choice)
            told = PngInfo()
            told.add_text("Software", _SOFTWARE)
            with replacing(path) as file:
                drawn.save(file, "PNG", pnginfo=told)
        elif suffix == ".html":
            # Start-up time.
            from captax.explain.page import write_page

            write_page(path, self)
        else:
            with replacing(path) as file:
                np.savez_compressed(file, **self._arrays())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Explanation":
        """Read back a `.npz` that `save` wrote. Raises `ExplainError` for any other file."""
        try:
            with open_regular(path) as opened, np.load(opened) as file:
                arrays = dict(file)
            said = json.loads(str(arrays.pop("explanation")))
            caption = said.pop("caption")
            others = tuple(Alternative(*each) for each in caption.pop("alternatives"))
            words = tuple(Word(w["text"], tuple(w["tokens"]), w["logprob"]) for w in said["words"])
            return cls(
                caption=Generated(
                    caption["text"],
                    caption["score"],
                    tuple(caption["tokens"]),
                    others,
                    tuple(caption["logprobs"]),
                ),
                prompt=said["prompt"],
                image=Image.fromarray(arrays["image"]),
                words=words,
                tokens=tuple(said["tokens"]),
                logprobs=arrays["logprobs"],
                steps=tuple(tuple((a, b) for a, b in step) for step in said["steps"]),
                grid=(said["grid"][0], said["grid"][1]),
                lead=said["lead"],
                cross_attentions=arrays["cross_attentions"],
                self_attentions=arrays["self_attentions"],
                encoder_attentions=arrays.get("encoder_attentions"),
                rollout=arrays.get("rollout"),
                evidence={m: arrays[f"evidence/{m}"] for m in said["evidence"]},
                methods=tuple(said["methods"]),
                faithfulness={
                    method: Faithfulness(
                        **{name: arrays[f"faithfulness/{method}/{name}"] for name in _CURVES},
                        spread=spread,
                    )
                    for method, spread in said["faithfulness"].items()
                },
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ExplainError(
                f"{path}: this is not a saved explanation ({error}); "
                "give a .npz that Explanation.save or captax explain wrote"
            ) from None

    def _arrays(self) -> dict[str, Any]:
        said = {
            "caption": dataclasses.asdict(self.caption)
            | {"alternatives": [(a.text, a.score) for a in self.caption.alternatives]},
            "prompt": self.prompt,
            "words": [dataclasses.asdict(word) for word in self.words],
            "tokens": self.tokens,
            "steps": self.steps,
            "grid": self.grid,
            "lead": self.lead,
            "evidence": list(self.evidence),
            "methods": self.methods,
            "faithfulness": {method: each.spread for method, each in self.faithfulness.items()},
        }
        arrays = {
            "explanation": np.array(json.dumps(said)),
            "image": np.asarray(self.image),
            "logprobs": self.logprobs,
            "cross_attentions": self.cross_attentions,
            "self_attentions": self.self_attentions,
            "encoder_attentions": self.encoder_attentions,
            "rollout": self.rollout,
        }
        maps = {f"maps/{method}": self.maps(method) for method in self.methods}
        evidence = {f"evidence/{method}": each for method, each in self.evidence.items()}
        curves = {
            f"faithfulness/{method}/{name}": getattr(each, name)
            for method, each in self.faithfulness.items()
            for name in _CURVES
        }
        arrays = {name: each for name, each in arrays.items() if each is not None}
        return arrays | maps | evidence | curves

    def _repr_html_(self) -> str:
        # Start-up time.
        from captax.explain.page import notebook

        return notebook(self)


def file_kind(path: str | PathLike[str]) -> str:
    """The suffix of a file to write, in lower case. Raises `ExplainError` for an unknown one."""
    suffix = Path(path).suffix.lower()
    if suffix not in KINDS:
        raise ExplainError(
            f"{path}: the suffix does not say what to write; use .png, .html or .npz"
        )
    return suffix
