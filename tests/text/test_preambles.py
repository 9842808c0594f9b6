"""Preambles are removed, and captions about pictures stay what they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captax.text.preambles import BEGINNINGS, without_preamble

REMOVED = {
    "This image shows a dog.": "A dog.",
    "This image shows: a dog on a beach": "A dog on a beach",
    "The image depicts two cats on a sofa": "Two cats on a sofa",
    "the picture shows a red bus": "a red bus",
    "The photo captures the moment when a man jumps.": "The moment when a man jumps.",
    "This photograph appears to show a beach.": "A beach.",
    "A photo of a dog running on grass": "A dog running on grass",
    "a photo of a dog running on grass": "a dog running on grass",
    "An image of the Eiffel Tower at night.": "The Eiffel Tower at night.",
    "Photo of a boat.": "A boat.",
    "A picture showing children who are playing": "Children who are playing",
    "A photo of a cat sitting on a wall": "A cat sitting on a wall",
    "This is a picture of a bridge.": "A bridge.",
    "It's an image of a horse.": "A horse.",
    "In this picture, a woman reads a book.": "A woman reads a book.",
    "In this image we can see a dog.": "A dog.",
    "In the image there is a tall tree.": "There is a tall tree.",
    "Here is a caption: a dog runs": "A dog runs",
    'Here\'s a short description of the image: "A dog runs."': "A dog runs.",
    "Here are keywords for this image:\ndog, grass": "Dog, grass",
    "Sure! Here is a caption for your picture:\n\nThe image shows a dog.": "A dog.",
    "Sure! A dog runs.": "A dog runs.",
    "Certainly, this image shows a man.": "A man.",
    "Caption: a red car": "A red car",
    "**Caption:** A red car": "A red car",
    "**Caption: A red car**": "A red car",
    "Here's the caption: **A red car.**": "A red car.",
    "**Caption:** A **red** car": "A **red** car",
    "**Caption:** A red **car**": "A red **car**",
    "This image shows ÉCOLE on a sign": "ÉCOLE on a sign",
}
KEPT = (
    "A photo of a cat on a wall",
    "A photo of a cat hangs on a wall",
    "A picture of a dog in a frame",
    "A photo of a family is pinned to a board.",
    "A framed photo of a child on a desk",
    "A black and white photo of a street",
    "A close-up photo of a bee",
    "The picture on the left shows a dog.",
    "In the picture on the wall, a man smiles.",
    "In the photo album there are holidays.",
    "A photographer takes a picture of a bird.",
    "The photographer shows a picture.",
    "The image shows how a knot is tied.",
    "The photo shows up on a phone.",
    "The image shows nothing.",
    "The image is blurry.",
    "Surely a dog",
    "Here is where the road ends.",
    "A dog: this image shows one.",
    "A man shows a photo of his dog",
    "This image shows",
    "This image shows .",
    "A photo of",
    "Caption:",
    "Sure!",
    "",
    "   ",
    "Une photo de chien",
    "Das Bild zeigt einen Hund.",
    "La imagen muestra un perro.",
    "图片显示一只狗",
)


@pytest.mark.parametrize("text", REMOVED)
def test_a_preamble_is_removed(text: str) -> None:
    rest, removed = without_preamble(text)
    assert rest == REMOVED[text]
    assert removed and text.startswith(removed)
    assert without_preamble(rest) == (rest, "")


@pytest.mark.parametrize("text", KEPT)
def test_what_is_no_preamble_stays(text: str) -> None:
    assert without_preamble(text) == (text, "")


@given(st.sampled_from([*REMOVED, *KEPT]), st.text(max_size=20))
def test_something_is_left_of_every_text(text: str, more: str) -> None:
    rest, removed = without_preamble(text + more)
    assert bool(rest.strip()) == bool((text + more).strip())
    if removed:
        assert rest[1:] in text + more and any(letter.isalnum() for letter in rest)


def test_beginnings_are_plain() -> None:
    """As the automaton takes them."""
    assert all(each.isascii() and each == each.lower().strip() for each in BEGINNINGS)
