"""Changes of what a file says, where changes of its bytes would mostly make it no JSON, no YAML."""

import copy
import json
import random
import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import yaml

ODD = (
    *(None, True, False, 0, -1, 1, 2, 10**6, 2**31, 2**63, 10**30, -(2**40), 0.5, 1e-320, 1e308),
    *(float("nan"), float("inf"), -float("inf")),
    *(
        "",
        " ",
        "0",
        "\0",
        "a\nb",
        "\x1b[31m",
        "\ud800",
        "\u2028",
        "../x",
        "x" * 999,
    ),
    *([], {}, [[]], [{}], [None], {"": None}, [0] * 99, ["a", 1], {"a": {"a": {}}}),
)


def of_tree(kind: str, content: bytes, rng: random.Random, words: Sequence[bytes]) -> bytes:
    """`content` with a few of its values changed. Raises nearly anything when it is no tree."""
    if kind.endswith(".safetensors"):
        (length,) = struct.unpack_from("<Q", content)
        header = _change(json.loads(content[8 : 8 + length]), rng, words)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]
    if kind.endswith(".jsonl"):
        lines = _change([json.loads(line) for line in content.splitlines()], rng, words)
        return b"\n".join(json.dumps(line).encode() for line in lines)
    if kind.endswith((".yaml", ".yml")):
        tree = _change(yaml.safe_load(content), rng, words)
        return yaml.dump(tree, Dumper=yaml.CSafeDumper, sort_keys=False).encode()
    return json.dumps(_change(json.loads(content), rng, words)).encode()


def _change(tree: Any, rng: random.Random, words: Sequence[bytes]) -> Any:
    top = [tree]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = list(islice(_places(top), 10_000))  # YAML may stand for no end of them
        holder, key = rng.choice(places)
        other, there = rng.choice(places)
        match rng.randrange(7):
            case 0 | 1:
                holder[key] = copy.deepcopy(rng.choice(ODD))
            case 2:
                holder[key] = copy.deepcopy(other[there])
            case 3 if holder is not top:
                del holder[key]
            case 4 if isinstance(holder, dict):
                name = rng.choice([*holder, rng.choice(words).decode(errors="replace")])
                holder[name] = copy.deepcopy(other[there])
            case 5 if isinstance(holder, list) and holder is not top:
                holder.insert(key, copy.deepcopy(other[there]))
            case _ if isinstance(holder[key], int | float):
                holder[key] = rng.choice((holder[key] * 2, holder[key] + 1, -holder[key], 1e9))
            case _:
                holder[key] = rng.choice(words).decode(errors="replace")
    return top[0]


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every value below `tree`, as what holds it and its key there."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)
