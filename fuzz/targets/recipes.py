"""Recipes, read from YAML."""

from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from captax.training.recipe import load_recipe

KINDS = ("recipe.yaml",)
SECONDS = 40.0  # PyYAML is Python, and ten times slower while its coverage is taken
WORDS = (
    *(b"&a ", b"*a", b"<<: ", b"!!python/object/apply:os.system ", b"!!python/name:os.system"),
    *(b"!!int ", b"!!float ", b"!!timestamp ", b"!!binary ", b"!!set ", b"!!omap ", b"!!pairs "),
    *(b"2020-99-99", b"1:99", b"0b2", b".nan", b".inf", b"~", b"? ", b"- ", b": ", b"|\n", b">-\n"),
    *(b"---\n", b"...\n", b"%YAML 1.1\n", b"%TAG ! !\n", b"\xef\xbb\xbf", b"\\", b"'", b'"'),
    *(b"name", b"task", b"data", b"root", b"train", b"dev", b"path", b"rows", b"model", b"encoder"),
    *(b"decoder", b"checkpoint", b"lora", b"targets", b"stages", b"trainable", b"lr_scale", b"lr"),
    *(b"epochs", b"self_critical", b"optimizer", b"evaluation", b"augment", b"mesh", b"classes"),
    *(b"(a+)+$", b"[", b"(?P<a", b"a{99999999}", b"classify", b"rewrite"),
)


def seeds() -> Iterator[tuple[str, bytes]]:
    """The recipes that come with captax, and YAML that is known to be hard."""
    for recipe in sorted((resources.files("captax") / "recipes").iterdir(), key=lambda r: r.name):
        if recipe.name.endswith(".yaml"):
            yield "recipe.yaml", recipe.read_bytes()
    yield "recipe.yaml", b"[" * 2000
    yield "recipe.yaml", b"{a: " * 2000
    bomb = "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 30))
    yield "recipe.yaml", b"x0: &x0 [a]\n" + bomb.encode()
    yield "recipe.yaml", b"name: &a [*a]\ndata: *a\n"
    yield "recipe.yaml", b"name: 2020-99-99\n"


def read(path: Path) -> None:
    """Read the recipe, and again what it is written as."""
    recipe = load_recipe(str(path))
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(str(path)) == recipe
