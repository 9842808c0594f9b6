"""How close a whole command comes to the speed of its model, and to transformers.

    python benchmarks/collection.py PICTURES

Prints three rates over the first pictures of the folder PICTURES, as medians of several runs in
turn: the built-in captioner on pictures that are already decoded; `captax caption FOLDER --out`,
from start to exit; and transformers (PyTorch) with the smallest captioner in common use, ViT-GPT2,
greedy, in batches of 8. The last rate includes decoding but not loading, and uses fewer pictures.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peers import THREADS, make_checkpoint

ALONE = """
import sys, time
import captax
from captax.compilation import persist_compiled_programs
from captax.images import find_images
persist_compiled_programs()
captioner = captax.load()
pictures = [captioner.processor([path])[0] for path in find_images(sys.argv[1:])]
list(captioner.stream_pixels(iter(pictures[:64])))
start = time.perf_counter()
captions = list(captioner.stream_pixels(iter(pictures)))
print(len(captions) / (time.perf_counter() - start))
"""

PEER = """
import sys, time
import torch
from PIL import Image
from transformers import AutoImageProcessor, VisionEncoderDecoderModel
torch.set_num_threads(int(sys.argv[1]))
model = VisionEncoderDecoderModel.from_pretrained(sys.argv[2]).eval()
processor = AutoImageProcessor.from_pretrained(sys.argv[2])
def caption(paths):
    pictures = [Image.open(path).convert("RGB") for path in paths]
    pixels = processor(pictures, return_tensors="pt").pixel_values
    with torch.inference_mode():
        return model.generate(pixels, max_new_tokens=20, do_sample=False)
paths = sys.argv[3:]
caption(paths[:8])
start = time.perf_counter()
for i in range(0, len(paths), 8):
    caption(paths[i : i + 8])
print(len(paths) / (time.perf_counter() - start))
"""


def rate(script: str, *arguments: object) -> float:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(printed.stdout.split()[-1])


def whole(folder: Path, out: Path, count: int) -> float:
    command = [sys.executable, "-m", "captax", "caption", str(folder), "--out", str(out)]
    start = time.perf_counter()
    subprocess.run([*command, "--resume", "never"], check=True, stderr=subprocess.DEVNULL)
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--peer-count", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-peer", action="store_true", help="captax only: needs no PyTorch")
    options = parser.parse_args()
    chosen = sorted(options.pictures.iterdir())[: options.count]
    rates: dict[str, list[float]] = {"alone": [], "whole": [], "peer": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder, checkpoint = Path(scratch) / "pictures", Path(scratch) / "vit-gpt2"
        folder.mkdir()
        for path in chosen:
            (folder / path.name).symlink_to(path.absolute())
        if not options.no_peer:
            make_checkpoint(checkpoint)
        whole(folder, Path(scratch) / "warm.jsonl", len(chosen))
        for _ in range(options.runs):
            rates["alone"].append(rate(ALONE, folder))
            rates["whole"].append(whole(folder, Path(scratch) / "out.jsonl", len(chosen)))
            if not options.no_peer:
                rates["peer"].append(rate(PEER, THREADS, checkpoint, *chosen[: options.peer_count]))
    alone, command = (statistics.median(rates[name]) for name in ("alone", "whole"))
    print(f"model alone, ready arrays   {alone:6.1f} pictures a second")
    print(f"captax caption, whole       {command:6.1f}   {command / alone:.0%} of it")
    if rates["peer"]:
        peer = statistics.median(rates["peer"])
        print(f"transformers, ViT-GPT2      {peer:6.1f}   captax is {command / peer:.1f}x as fast")


if __name__ == "__main__":
    main()
