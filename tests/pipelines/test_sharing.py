"""From one machine to the hub, and from the hub to another."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import captax
from captax.pipelines.sharing import model_card


# The library's own way of putting a file, without its store.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_captioner_goes_to_the_hub_and_is_loaded_from_there(
    hub: Any, checkpoint: Callable[[str], Path], examples: Path, tmp_path: Path
) -> None:
    captioner = captax.load(checkpoint("vit-gpt2"))
    captioner.save(tmp_path / "mine")
    url = captax.push(tmp_path / "mine", "org/mine", token=hub.writer)
    assert url == f"{hub.url}/org/mine"
    card = hub.repositories["org/mine"].revisions["main"]["README.md"].decode()
    assert "pipeline_tag: image-to-text" in card and "(vit + gpt2)" in card
    assert 'captax.load("org/mine").caption(' in card
    again = captax.load("org/mine")
    want = captioner.caption(examples / "cat.jpg", max_new_tokens=4)
    assert again.caption(examples / "cat.jpg", max_new_tokens=4) == want
    assert captax.load("org/mine", offline=True).generation == captioner.generation


# The library's own way of putting a file, without its store.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_card_that_somebody_wrote_is_kept(
    hub: Any, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    captax.load(checkpoint("gpt2")).save(tmp_path / "mine", card="# Mine")
    captax.push(tmp_path / "mine", "org/mine", token=hub.writer)
    assert hub.repositories["org/mine"].revisions["main"]["README.md"] == b"# Mine"


@pytest.mark.parametrize(
    ("config", "tag", "use"),
    [
        ({"model_type": "vit", "id2label": {"0": "x"}}, "image-classification", "classify("),
        ({"model_type": "gpt2"}, "text-generation", "generate("),
        ({"model_type": "blip"}, "image-to-text", "caption("),
    ],
)
def test_a_card_says_what_the_model_is_for(config: dict[str, Any], tag: str, use: str) -> None:
    card = model_card(config, "org/name")
    assert f"pipeline_tag: {tag}" in card and use in card
    assert card.startswith("---\nlibrary_name: transformers\n")


def test_a_bare_model_has_no_pipeline() -> None:
    card = model_card({"model_type": "vit"}, "org/name")
    assert "pipeline_tag" not in card and 'load_model("org/name")' in card
