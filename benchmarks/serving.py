"""How many pictures a second a server captions, one request at a time and under load.

    python benchmarks/serving.py PICTURES

Starts a server process with the built-in captioner. This process sends it the first pictures of the
folder PICTURES over loopback, one in each request: first one request after another, then from
several clients at once. Every answer is compared with the result of `captioner.caption` for its
picture. At the end it asks by OpenAI's interface, greedily, and measures when the first part of a
stream comes.
"""

import argparse
import asyncio
import base64
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx2 as httpx
from PIL import Image

import captax
from captax.compilation import persist_compiled_programs

PORT = 8765
HERE = f"http://127.0.0.1:{PORT}"


def rate(captioner: captax.Captioner, pictures: list[Path], size: int) -> float:
    """Pictures a second that the model does in batches of a size, without any server."""
    decoded = [Image.open(path).convert("RGB") for path in pictures[:size]]
    captioner.caption(decoded)
    times = []
    for _ in range(max(3, 48 // size)):
        began = time.perf_counter()
        captioner.caption(decoded)
        times.append(time.perf_counter() - began)
    return size / statistics.median(times)


def start() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "captax", "serve", "--port", str(PORT)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    for _ in range(600):
        try:
            if httpx.get(f"{HERE}/health/ready").status_code == 200:
                return server
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit("the server did not become ready")


def memory(server: subprocess.Popen[bytes]) -> float:
    """Resident megabytes."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def batches() -> tuple[list[tuple[str, float]], float, float]:
    """Cumulative counts of batches by their greatest size; pictures and batches in all."""
    counts, pictures, count = [], 0.0, 0.0
    for line in httpx.get(f"{HERE}/metrics").text.splitlines():
        if line.startswith("captax_batch_pictures_bucket"):
            counts.append((line.split('le="')[1].split('"')[0], float(line.split()[-1])))
        elif line.startswith("captax_batch_pictures_sum"):
            pictures = float(line.split()[-1])
        elif line.startswith("captax_batch_pictures_count"):
            count = float(line.split()[-1])
    return counts, pictures, count


async def load(
    pictures: list[Path], expected: list[str], clients: int, requests: int
) -> tuple[float, list[float], int, int]:
    """Seconds, latencies, answers that were lost, answers that were another's."""
    turn = iter(range(requests))
    latencies: list[float] = []
    lost = wrong = 0
    contents = [path.read_bytes() for path in pictures]

    async def work(client: httpx.AsyncClient) -> None:
        nonlocal lost, wrong
        for i in turn:
            place = i % len(pictures)
            began = time.perf_counter()
            form = {"images": (pictures[place].name, contents[place])}
            answer = await client.post(f"{HERE}/v1/caption", files=form)
            latencies.append(time.perf_counter() - began)
            if answer.status_code != 200:
                lost += 1
            elif answer.json()["captions"][0]["caption"] != expected[place]:
                wrong += 1

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(limits=limits, timeout=120) as client:
        began = time.perf_counter()
        await asyncio.gather(*(work(client) for _ in range(clients)))
        return time.perf_counter() - began, latencies, lost, wrong


async def stream(pictures: list[Path]) -> tuple[list[float], list[float], list[float]]:
    """Seconds to the first part of each stream, to its end, and to an answer without a stream."""
    first, last, whole = [], [], []
    async with httpx.AsyncClient(timeout=120) as client:
        for turn, picture in enumerate([pictures[0], *pictures]):  # once to warm up
            data = base64.b64encode(picture.read_bytes()).decode()
            shown = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}
            body = {"messages": [{"role": "user", "content": [shown]}], "temperature": 0}
            began = time.perf_counter()
            await client.post(f"{HERE}/v1/chat/completions", json=body)
            between = time.perf_counter()
            address, said = f"{HERE}/v1/chat/completions", []
            async with client.stream("POST", address, json=body | {"stream": True}) as answer:
                async for line in answer.aiter_lines():
                    if '"content":"' in line and '"content":""' not in line:
                        said.append(time.perf_counter() - between)
            if turn:
                whole.append(between - began)
                first.append(said[0])
                last.append(time.perf_counter() - between)
    return first, last, whole


def report(
    name: str, seconds: float, latencies: list[float], lost: int, wrong: int, note: str = ""
) -> float:
    rate = len(latencies) / seconds
    ordered = sorted(latencies)
    p95 = ordered[int(0.95 * (len(ordered) - 1))]
    print(
        f"{name:12} {len(latencies):5} requests   {rate:5.1f} a second   "
        f"p50 {1000 * statistics.median(ordered):4.0f} ms   p95 {1000 * p95:4.0f} ms   "
        f"{lost} lost, {wrong} wrong{note}",
        flush=True,
    )
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--count", type=int, default=100, help="different pictures")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=2000)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    pictures = sorted(options.pictures.iterdir())[: options.count]
    persist_compiled_programs()
    captioner = captax.load()
    captions = captioner.caption(pictures)
    expected = [each.text for each in captions]
    rates = {size: rate(captioner, pictures, size) for size in (1, 8, 32)}
    told = ", ".join(f"{size}: {each:.1f}" for size, each in rates.items())
    print(f"model alone  pictures a second in batches of {told}; ratio {rates[32] / rates[1]:.2f}")
    del captioner
    server = start()
    try:
        began = time.perf_counter()
        asyncio.run(load(pictures, expected, 4, 50))
        print(f"{'warm':12}    50 requests in {time.perf_counter() - began:.1f} s", flush=True)
        alone = report("one client", *asyncio.run(load(pictures, expected, 1, 200)))
        counts, pictures_before, batches_before = batches()
        resident = [memory(server)]
        parts = []
        for _ in range(4):  # of the requests, so that memory is seen on the way
            share = options.requests // 4
            parts.append(asyncio.run(load(pictures, expected, options.clients, share)))
            resident.append(memory(server))
        seconds, latencies, lost, wrong = zip(*parts, strict=True)
        found = (sum(seconds), [each for part in latencies for each in part], sum(lost), sum(wrong))
        together = report(f"{options.clients} clients", *found)
        after_counts, pictures_after, batches_after = batches()
        print(f"ratio        {together / alone:.2f}")
        below, shares = 0.0, []
        for (size, old), (_, new) in zip(counts, after_counts, strict=True):
            shares.append(f"<={size}: {new - old - below:.0f}")
            below = new - old
        print(f"batches      {', '.join(shares)}")
        mean = (pictures_after - pictures_before) / (batches_after - batches_before)
        print(f"             {mean:.1f} pictures on the average")
        shown = ", ".join(f"{each:.0f}" for each in resident)
        times = asyncio.run(stream(pictures[:50]))
        first, last, whole = (1000 * statistics.median(each) for each in times)
        print(
            f"stream       first part p50 {first:.0f} ms, all {last:.0f} ms; without a stream "
            f"{whole:.0f} ms; ratio {first / whole:.2f}"
        )
        print(f"memory       {shown} MB resident, before and after each quarter of the requests")
    finally:
        server.terminate()
        print(f"exit code    {server.wait(60)}")


if __name__ == "__main__":
    main()
