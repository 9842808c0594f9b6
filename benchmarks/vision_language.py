"""How long SmolVLM-256M takes to read pictures and to write a token, beside transformers.

    python benchmarks/vision_language.py [--batch 8] [--views 1] [--runs 3]

Both have the same checkpoint with random weights, float32, on two threads, in one process and by
turns. Times are medians over `--runs` calls after one that is not counted, from pixels in memory to
tokens in memory: of a call that writes one token (the prefill), and for each further token of a
call that writes `TOKENS`. The tokens must be equal.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from captax.checkpoints.directory import load_model
from captax.checkpoints.state import parameters, rebuilder
from captax.generation import Greedy, generate

THREADS, TOKENS = 2, 17
VISION = {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12}
VISION |= {"intermediate_size": 3072, "image_size": 512, "patch_size": 16}
TEXT = {"model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30}
TEXT |= {"num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536}
TEXT |= {"vocab_size": 49280, "max_position_embeddings": 8192, "rope_theta": 100_000.0}
TEXT |= {"rms_norm_eps": 1e-5, "eos_token_id": None}
PICTURE, PLACES, PAD = 49190, 64, 0


def checkpoint(folder: str) -> Any:
    """The reference, which is also saved."""
    torch.manual_seed(0)
    config = transformers.SmolVLMConfig(
        vision_config=VISION, text_config=TEXT, image_token_id=PICTURE, scale_factor=4
    )
    model = transformers.SmolVLMForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    return model


def seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    rng = np.random.default_rng(0)
    shape = (options.batch, options.views, 512, 512, 3)
    pixels = rng.standard_normal(shape).astype(np.float32)
    words = rng.integers(5, PICTURE, (options.batch, 20))
    pictures = np.full((options.batch, options.views * PLACES), PICTURE)
    prompt = np.concatenate([words[:, :4], pictures, words[:, 4:]], 1).astype(np.int32)
    with tempfile.TemporaryDirectory() as folder:
        theirs = checkpoint(folder)
        ours = load_model(Path(folder))
    rebuild, weights = rebuilder(ours), parameters(ours)

    def program(count: int) -> Callable[..., Any]:
        def run(weights: Any, pixels: Any, prompt: Any) -> Any:
            model = rebuild(weights)
            return generate(
                model,
                model.encode(pixels),
                prompt,
                Greedy(),
                eos_id=-1,
                pad_id=PAD,
                max_new_tokens=count,
            ).tokens

        return jax.jit(run)

    programs = {count: program(count) for count in (1, TOKENS)}

    def captax(count: int) -> Any:
        return np.asarray(programs[count](weights, jnp.asarray(pixels), jnp.asarray(prompt)))[:, 0]

    tokens = torch.from_numpy(prompt).long()
    shown = torch.from_numpy(pixels).permute(0, 1, 4, 2, 3).contiguous()

    def reference(count: int) -> Any:
        with torch.no_grad():
            found = theirs.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                pixel_values=shown,
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                pad_token_id=PAD,
            )
        return found.numpy()[:, prompt.shape[1] :]

    calls = {"captax": captax, "transformers": reference}
    times: dict[tuple[str, int], list[float]] = {}

    def timed(name: str, count: int) -> float:
        """The seconds of a call. They are shown with the processor's, which vary less if busy."""
        busy = time.process_time()
        spent = seconds(lambda: calls[name](count))
        busy = time.process_time() - busy
        print(f"  {name} {count}: {spent:.2f} s, {busy:.2f} s of CPU", file=sys.stderr, flush=True)
        return spent

    same = (captax(TOKENS) == reference(TOKENS)).mean()
    for name in calls:
        timed(name, 1)
    for _ in range(options.runs):
        for name in calls:
            for count in (1, TOKENS):
                times.setdefault((name, count), []).append(timed(name, count))
    print(f"batch {options.batch}, {prompt.shape[1]} tokens of prompt, {same:.0%} of tokens equal")
    found = {}
    for name in ("captax", "transformers"):
        first, whole = (statistics.median(times[name, count]) for count in (1, TOKENS))
        found[name] = first, (whole - first) / (TOKENS - 1)
        print(f"{name:12} prefill {first:6.2f} s   a token {1000 * found[name][1]:6.1f} ms")
    ratios = [b / a for a, b in zip(found["captax"], found["transformers"], strict=True)]
    print(f"transformers / captax: prefill {ratios[0]:.2f}, a token {ratios[1]:.2f}")


if __name__ == "__main__":
    main()
