"""Files for `captax score`: captions, references, document frequencies, objects."""

import json
from collections.abc import Iterator
from pathlib import Path

from captax.evaluation.score_files import _frequencies
from captax.metrics import score
from captax.metrics.align import align, merge
from captax.metrics.caption_files import read_captions, read_objects

KINDS = (
    *("captions.json", "captions.jsonl", "captions.csv", "captions.txt", "captions"),
    *("objects.json", "frequencies.json"),
)
WORDS = (
    *(b"image_id", b"id", b"image", b"file_name", b"filename", b"file", b"path", b"caption"),
    *(b"captions", b"references", b"text", b"images", b"annotations", b"categories", b"name"),
    *(b"category_id", b"sentences", b"raw", b"cocoid", b"split", b"val", b"alternatives", b"dog"),
    *(b"a.jpg#0\t", b"1", b"[", b"{", b"null", b"NaN", b'"', b",", b"\t", b"\r\n", b"\0", b"\xff"),
    *(b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"documents", b"counts", b"n't", b"''", b"``", b"\\ud800"),
)


def _contents() -> dict[str, list[object]]:
    notes = [{"image_id": n, "id": n, "caption": "a dog runs"} for n in (1, 2)]
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
    listed = [
        {"filename": f"{n}.jpg", "split": "val", "cocoid": n, "sentences": [{"raw": "a cat"}]}
        for n in (1, 2)
    ]
    record = '{"image": "1", "caption": "a cat", "alternatives": [{"caption": "a dog"}]}'
    categories = [{"id": 18, "name": "dog"}]
    instances = [{"image_id": 1, "category_id": 18}]
    return {
        "captions.json": [
            *(notes, {"images": images, "annotations": notes}, {"images": listed}),
            *({"1": "a dog", "2": ["a cat"]}, {"captions": {"1": "a dog"}}),
        ],
        "captions.jsonl": [f'{record}\n{{"path": "2", "text": "two dogs"}}\n'],
        "captions.csv": ['image,caption\n1,"a ""dog"", a\ncat"\n2,two\n'],
        "captions.txt": ["1\t#0 a dog\ntwo\n", "1#0\ta dog\n2#0\ttwo\n"],
        "captions": [f"{record}\n", "a dog\ntwo"],
        "objects.json": [
            {"1": ["dog", "cat"], "2": []},
            {"categories": categories, "images": images, "annotations": instances},
        ],
        "frequencies.json": [{"documents": 2, "counts": {"a": 2, "a dog": 1}}],
    }


def seeds() -> Iterator[tuple[str, bytes]]:
    """One of each layout."""
    for kind, contents in _contents().items():
        for content in contents:
            text = content if isinstance(content, str) else json.dumps(content)
            yield kind, text.encode()
        yield kind, b"[" * 20_000


def read(path: Path) -> None:
    """Read captions, and score them against themselves."""
    if path.name == "objects.json":
        read_objects(path)
    elif path.name == "frequencies.json":
        _frequencies(path)
    else:
        references = merge([read_captions(path)])
        captions = read_captions(path, alternatives=True)
        found = align(captions, references, several=True)
        values = score(found.hypotheses, found.references)
        assert all(0 <= value <= 10.001 for value in values.corpus.values())
