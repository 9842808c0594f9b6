"""`captax info`: print what is installed and which devices there are."""

import platform
from importlib import metadata


def info() -> None:
    """Print versions, devices, the built-in captioner and the folder of compiled programs."""
    # Start-up time.
    import jax

    from captax.checkpoints.state import parameters
    from captax.files import cache_directory
    from captax.metrics import meteor_available
    from captax.pipelines.loading import load
    from captax.training.recipe import recipe_names

    for package in ("captax", "jax", "jaxlib", "flax"):
        print(f"{package:12} {metadata.version(package)}")
    print(f"{'python':12} {platform.python_version()} on {platform.platform()}")
    print(f"{'devices':12} {', '.join(str(device) for device in jax.devices())}")
    captioner = load()
    count = sum(value.size for value in parameters(captioner.model).values())
    size, words = captioner.processor.size, captioner.tokenizer.vocab_size
    print(f"{'captioner':12} {count / 1e6:.1f} M parameters, {size[0]}x{size[1]} px, {words} words")
    print(f"{'recipes':12} {', '.join(recipe_names())}")
    print(f"{'METEOR':12} {'available' if meteor_available() else 'needs Java and pycocoevalcap'}")
    print(f"{'cache':12} {cache_directory()}")
