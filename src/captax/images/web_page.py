"""What captax's web pages share: one look, templates that are filled safely, pictures inside."""

import base64
import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any

from PIL import Image

# A page that needs no other file, or only pictures beside it, has these colours and this type.
THEME = """:root {
  --page: #f4f4f1; --card: #ffffff; --ink: #1c1d1f; --quiet: #5c6066; --line: #dcdcd6;
  --mat: #e9e9e4; --error: #a4161a; --mark: #9c2a00; --bar: #e0a35c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #141517; --card: #1e2023; --ink: #ececea; --quiet: #a3a8ae; --line: #33363b;
    --mat: #101113; --error: #ff9a94; --mark: #ffb066; --bar: #8a5a1e;
  }
}
* { box-sizing: border-box; margin: 0; }
body {
  background: var(--page); color: var(--ink); padding: clamp(1rem, 4vw, 3rem);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}"""


def filled(template: str, parts: Mapping[str, str]) -> str:
    """A page: a template whose `%%NAME%%` are replaced by the HTML in `parts`.

    `%%THEME%%` becomes `THEME`, and `%%HASH%%` the digest of the page's one script, by which its
    content security policy allows it.
    """
    parts = {"THEME": THEME, **parts}
    if "<script>" in template:
        script = template.split("<script>", 1)[1].split("</script>", 1)[0]
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        parts["HASH"] = f"sha256-{digest}"
    # All at once, so that a caption that spells a placeholder stays as it is.
    pieces = template.split("%%")
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def as_data(value: Any) -> str:
    """JSON for a script element of the page."""
    data = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    # What stands between < and > is nobody's markup.
    return data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def data_url(image: Image.Image, kind: str, **options: Any) -> str:
    """A picture as an address; `options` are those of saving it as that kind, such as JPEG."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{data}"
