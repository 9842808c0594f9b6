"""Captions as alt texts."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captax.alt.wording import alt_text


@pytest.mark.parametrize(
    ("caption", "alt"),
    [
        ("a dog runs .", "A dog runs"),
        ("a photo of a dog", "A dog"),
        ("an image of the photo of a dog", "A dog"),
        ("Picture of a dog", "A dog"),
        ("two photographs showing a dog", "Two snapshots showing a dog"),
        ("this is a black and white picture of two dogs", "Two dogs"),
        ("there is an image that shows a dog", "A dog"),
        ("a man taking a picture of a dog", "A man taking a snapshot of a dog"),
        ("a photographer takes photos", "A photographer takes snapshots"),
        ("Photos, photo-booth", "Snapshots, snapshot-booth"),
        ("a  dog\n\ton \x00 grass;", "A dog on grass"),
        ("a photo of", ""),
        (" . ", ""),
        ("iPhone on a table", "IPhone on a table"),
        ("это собака", "Это собака"),
    ],
)
def test_captions_become_plain(caption: str, alt: str) -> None:
    assert alt_text(caption) == alt


def test_long_captions_end_at_a_word() -> None:
    said = "a dog runs over the grass with a ball " * 9
    alt = alt_text(said)
    assert 100 < len(alt) <= 125 and said.startswith(alt.lower() + " ")
    assert alt_text("a dog runs over the long grass", 22) == "A dog runs"  # no "over the"
    assert alt_text("x" * 300) == "X" + "x" * 124


WORDS = ["a", "photo", "of", "Image", "PICTURES", "picture", "é", "dog", ".", "-", "image-map", '"']


@settings(max_examples=60)
@given(st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join) | st.text())
def test_no_linter_objects(caption: str) -> None:
    alt = alt_text(caption)
    # eslint-plugin-jsx-a11y img-redundant-alt, now and before it split at spaces.
    assert not {"image", "photo", "picture"} & set(alt.lower().split())
    assert not re.search(r"\b(image|photo|picture)s?\b", alt, re.IGNORECASE | re.ASCII)
    assert len(alt) <= 125 and alt == " ".join(alt.split()) and alt.isprintable()
    assert alt_text(alt) == alt
