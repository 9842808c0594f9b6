"""What the arguments of a comparison mean."""

from collections.abc import Callable
from pathlib import Path

import pytest

from captax.compare.contenders import Source, check_checkpoint, check_clip, contenders_of
from captax.errors import CaptaxError


def test_arguments_say_where_captions_come_from(here: Path) -> None:
    (here / "runs" / "a=b").mkdir(parents=True)
    found = contenders_of(
        [
            "default",
            "cats.jsonl",
            "old=runs/a=b",
            "runs/a=b",
            "llava@http://127.0.0.1:1/v1",
            "big=org/llava:7b@http://127.0.0.1:1/v1",
            "org/model",
        ]
    )
    checkpoint, endpoint = Source.checkpoint, Source.endpoint
    assert [(each.name, each.source, each.model, each.url) for each in found] == [
        ("default", checkpoint, "default", ""),
        ("cats", Source.file, "cats.jsonl", ""),
        ("old", checkpoint, "runs/a=b", ""),
        ("a=b", checkpoint, "runs/a=b", ""),
        ("llava", endpoint, "llava", "http://127.0.0.1:1/v1"),
        ("big", endpoint, "org/llava:7b", "http://127.0.0.1:1/v1"),
        ("org/model", checkpoint, "org/model", ""),
    ]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["default"], "two captioners or more"),
        (["default", "default"], "two captioners are called 'default'"),
        (["x=default", "x=cats.jsonl"], "name them"),
        (["A=default", "a=cats.jsonl"], "differ too little"),
        (["=default", "cats.jsonl"], "no model or no name"),
        (["x=", "cats.jsonl"], "no model or no name"),
        (["http://127.0.0.1:1/v1", "default"], "name one of the server's models before it"),
        (["absent.jsonl", "default"], "absent.jsonl: no such file"),
    ],
)
def test_what_means_nothing_is_told(given: list[str], told: str, here: Path) -> None:
    with pytest.raises(CaptaxError, match=told):
        contenders_of(given)


def test_names_are_safe_as_names_of_files(here: Path) -> None:
    names = ["../../x", "a b", "a/b", "a-b", "é" * 300, "."]
    found = contenders_of([f"{name.replace('/', '|')}=default" for name in names])
    labels = [each.label for each in found]
    assert len(set(labels)) == len(labels)
    for label in labels:
        assert "/" not in label and label.strip(".") == label and 0 < len(label) < 100


def test_a_checkpoint_that_cannot_caption_is_told_without_loading_it(
    model: Path, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    before = check_checkpoint(str(model))
    assert before == check_checkpoint(str(model))
    for kind in ("vit-classifier", "gpt2"):
        with pytest.raises(CaptaxError, match="cannot caption"):
            check_checkpoint(str(checkpoint(kind)))
    assert check_checkpoint(str(checkpoint("smolvlm"))) != before
    check_clip(str(checkpoint("clip")))
    with pytest.raises(CaptaxError, match="needs a CLIP"):
        check_clip(str(model))
    (tmp_path / "config.json").write_text('{"model_type": "git"}')
    with pytest.raises(CaptaxError, match=str(tmp_path)):
        check_checkpoint(str(tmp_path))
