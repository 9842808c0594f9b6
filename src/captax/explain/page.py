"""An explanation as one web page that needs no other file: pick a word, see where it came from."""

from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float

from captax.explain.faithfulness import RANDOM, best_first
from captax.explain.maps import ATTENTION, Maps
from captax.explain.views import COLOURS, draw
from captax.files import write_text
from captax.images.web_page import as_data, data_url, filled

# What each map is, in the words of the page.
MEANINGS = {
    "attention": "This shows where the decoder's cross-attention lay when it predicted the word.",
    "rollout": "This follows attention back through the encoder to the patches of the picture.",
    "gradient": "Gradient x input estimates how far the word's log-probability would fall if the "
    "place were hidden, as though the model were linear.",
    "integrated": "Integrated gradients divide the word's log-probability among all places.",
    "occlusion": "This measures how far the word's log-probability falls when the place is hidden.",
}


def write_page(path: Path, explanation: Maps) -> None:
    """Write the page to `path` as one file. Raises `OutputError` if it cannot be written."""
    write_text(path, page(explanation))


def page(explanation: Maps) -> str:
    """The page as HTML."""
    template = (resources.files("captax.explain") / "page.html").read_text(encoding="utf-8")
    parts = {
        "CAPTION": escape(explanation.caption.text),
        "PICTURE": data_url(explanation.image, "JPEG", quality=85),
        "WIDTH": str(explanation.image.width),
        "HEIGHT": str(explanation.image.height),
        "WORDS": _words(explanation),
        "METHODS": _methods(explanation),
        "TABLE": _table(explanation),
        "DATA": as_data(_data(explanation)),
    }
    return filled(template, parts)


def notebook(explanation: Maps) -> str:
    """What a notebook shows: the words' maps as one picture."""
    text = escape(explanation.caption.text)
    if not explanation.words:
        return f"<p>{text}</p>"
    method = explanation.methods[0]
    source = data_url(draw(explanation, "strip", method=method), "PNG")
    described = escape(f"Maps by {method} for each word of the caption: {explanation.caption.text}")
    return (
        f"<figure><figcaption>{text}</figcaption>"
        f'<img src="{source}" alt="{described}" style="max-width: 100%"></figure>'
    )


def _words(explanation: Maps) -> str:
    """The caption as a list of buttons, each word above its probability."""
    prompt = ""
    if explanation.prompt.strip():
        prompt = f'<li class="prompt">{escape(explanation.prompt.strip())}</li>'
    return prompt + "".join(
        f'<li><button type="button" aria-pressed="false">'
        f'<span dir="auto">{escape(word.text)}</span>'
        f'<small><span class="unseen">, probability </span>{np.exp(word.logprob):.2f}</small>'
        "</button></li>"
        for word in explanation.words
    )


def _methods(explanation: Maps) -> str:
    """The options of the list of maps: each method, and attention layer by layer."""
    options = [f'<option value="{m}">{m.capitalize()}</option>' for m in explanation.methods]
    layers = len(explanation.cross_attentions)
    if ATTENTION in explanation.methods and layers > 1:
        each = "".join(f'<option value="layer {i}">Layer {i}</option>' for i in range(layers))
        options.append(f'<optgroup label="Attention of one layer">{each}</optgroup>')
    return "".join(options)


def _table(explanation: Maps) -> str:
    """A table of how far to believe each map, if that was measured."""
    if not explanation.faithfulness:
        return ""
    found = explanation.faithfulness
    rows = "".join(
        f'<tr><th scope="row">{escape(method.capitalize())}</th><td>{each.deletion_area:.3f}</td>'
        f"<td>{each.insertion_area:.3f}</td><td>{each.score:+.3f}</td></tr>"
        for method, each in best_first(found)
    )
    return (
        "<section><h2>How far to believe each map</h2><table><thead><tr><th>Map</th>"
        '<th scope="col">Deletion</th><th scope="col">Insertion</th><th scope="col">Score</th></tr>'
        f"</thead><tbody>{rows}</tbody></table>"
        "<p>Deletion is the mean probability of the words while the places that a map ranks "
        "highest are hidden first; low is good. Insertion is the same while these places are shown "
        "first; high is good. The score is insertion minus deletion; one random order scores "
        f"0 ± {found[RANDOM].spread:.3f}.</p></section>"
    )


def _data(explanation: Maps) -> dict[str, Any]:
    """What the page's script reads."""
    shown = {
        method: _map(explanation.maps(method), MEANINGS[method]) for method in explanation.methods
    }
    if ATTENTION in explanation.methods:
        for layer in range(len(explanation.cross_attentions)):
            says = f"{MEANINGS[ATTENTION]} Only layer {layer} is used."
            shown[f"layer {layer}"] = _map(explanation.maps(layer=layer), says)
    colours = (matplotlib.colormaps[COLOURS](np.arange(256))[:, :3] * 255).round().astype(int)
    return {
        "grid": explanation.grid,
        "words": [word.text for word in explanation.words],
        "maps": shown,
        "colours": "".join(f"{r:02x}{g:02x}{b:02x}" for r, g, b in colours),
        "steps": [
            {
                "words": [
                    {
                        "text": explanation.tokens[token],
                        "probability": round(float(np.exp(explanation.logprobs[token])), 4),
                        "others": [[t, round(p, 4)] for t, p in explanation.steps[token]],
                    }
                    for token in word.tokens
                ],
                "share": _share(explanation, word.tokens),
            }
            for word in explanation.words
        ],
        "end": [
            [text, round(p, 4)] for text, p in (explanation.steps[-1] if _ends(explanation) else ())
        ],
    }


def _share(explanation: Maps, tokens: tuple[int, ...]) -> float:
    return round(float(explanation.picture_share[..., list(tokens)].mean()), 4)


def _ends(explanation: Maps) -> bool:
    spelt = {token for word in explanation.words for token in word.tokens}
    return len(explanation.tokens) - 1 not in spelt


def _map(maps: Float[np.ndarray, "words rows columns"], meaning: str) -> dict[str, Any]:
    """Cells as multiples of the even share, row by row."""
    levels = maps * maps[0].size if len(maps) else maps
    return {"meaning": meaning, "words": [each.ravel().round(2).tolist() for each in levels]}
