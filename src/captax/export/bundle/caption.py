"""Caption pictures with the exported programs beside this file; captax is not needed.

    python caption.py photo.jpg holiday/*.jpg
    python caption.py --num-beams 1 --json photo.jpg

A program of your own finds everything that it needs here and in `export.json`: how pictures are
prepared, how the three programs follow one another, and how the next tokens are chosen.

Legend: `rows` are the captions that are being written, one for each picture or each beam.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import tokenizers
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
NEVER = -1e9  # stands for minus infinity, but finite, so that sums stay numbers


# --- the programs -------------------------------------------------------------------------------


def load_programs(manifest):
    """The programs by name, each a function from named arrays to named arrays."""
    load = {"onnx": load_onnx, "stablehlo": load_stablehlo}[manifest["format"]]
    functions = load(manifest["programs"])
    return {
        name: sized(function, manifest["programs"][name], manifest["batch_size"])
        for name, function in functions.items()
    }


def load_onnx(programs):
    """Load them with ONNX Runtime, which finds the weights beside the programs."""
    import onnxruntime

    def load(program):
        session = onnxruntime.InferenceSession(HERE / program["files"][0])
        names = [output["name"] for output in program["outputs"]]
        return lambda arrays: dict(zip(names, session.run(names, arrays), strict=True))

    return {name: load(program) for name, program in programs.items()}


def load_stablehlo(programs):
    """Load them with JAX, which compiles them for the device that it finds."""
    import jax
    import safetensors.numpy

    stored = safetensors.numpy.load_file(HERE / "weights.safetensors")
    weights = {name: jax.numpy.asarray(array, "float32") for name, array in stored.items()}

    def load(program):
        exported = jax.export.deserialize(bytearray((HERE / program["files"][0]).read_bytes()))
        call, own = jax.jit(exported.call), {name: weights[name] for name in program["weights"]}
        inputs = [each["name"] for each in program["inputs"]]
        outputs = [each["name"] for each in program["outputs"]]

        def run(arrays):
            found = call(own, *(arrays[name] for name in inputs))
            return dict(zip(outputs, found, strict=True))

        return run

    return {name: load(program) for name, program in programs.items()}


def sized(function, program, batch_size):
    """The program for any number of rows up to its batch size, if it has one."""
    if batch_size is None:
        return function
    batched = [each["name"] for each in program["inputs"] if each["shape"]]

    def run(arrays):
        rows = len(arrays[batched[0]])
        fill = np.minimum(np.arange(batch_size), rows - 1)
        found = function({k: v[fill] if k in batched else v for k, v in arrays.items()})
        return {name: array[:rows] for name, array in found.items()}

    return run


# --- pictures -----------------------------------------------------------------------------------


def read_picture(path, at_least):
    """An upright RGB picture on white; `at_least` is the size that it will be resized to."""
    with Image.open(path) as image:
        if image.format == "JPEG":
            height, width = at_least
            if image.getexif().get(0x0112, 1) >= 5:  # the picture lies on its side
                height, width = width, height
            image.draft(None, (2 * width, 2 * height))  # quicker: decoded at 1/2, 1/4 or 1/8
        return on_white(ImageOps.exif_transpose(image))


def on_white(image):
    """Any picture as RGB with 8 bits per channel."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.rint(np.asarray(image) * (255 / 65535)).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image.convert("RGB"), mask=image.getchannel("A"))
    return white


def prepare(path, how):
    """Resize, cut out the centre, normalise: float32 [height width 3]."""
    to = how["resize_to"]
    edge = how["resize"] == "shortest_edge"
    image = read_picture(path, (to, to) if edge else to)
    if edge:
        short = min(image.size)
        to = to * image.height // short, to * image.width // short
    image = image.resize(to[::-1], Image.Resampling[how["resample"].upper()])
    height, width = how["size"]
    left, top = (to[1] - width) // 2, (to[0] - height) // 2
    pixels = np.asarray(image.crop((left, top, left + width, top + height)))
    mean, std = np.array(how["mean"]), np.array(how["std"])
    scale, offset = (how["rescale"] / std).astype(np.float32), (-mean / std).astype(np.float32)
    return pixels * scale + offset


# --- the next token -----------------------------------------------------------------------------


def constrain(scores, tokens, prompt, limit, eos, options):
    """Scores [rows vocab] of the tokens after `tokens` [rows position], with some forbidden."""
    scores, position = scores.copy(), tokens.shape[1]
    every = np.arange(len(scores))[:, None]
    if (penalty := options["repetition_penalty"]) != 1:
        seen = scores[every, tokens]
        scores[every, tokens] = np.where(seen < 0, seen * penalty, seen / penalty)
    size = options["no_repeat_ngram_size"]
    for start in range(position - size + 1 if size else 0):
        last = tokens[:, position - size + 1 :]
        repeats = (tokens[:, start : start + size - 1] == last).all(1)
        scores[repeats, tokens[repeats, start + size - 1]] = -np.inf
    if position < options["min_length"] or position - prompt < options["min_new_tokens"]:
        scores[:, eos] = -np.inf
    for forced, when in (
        (options["forced_bos_token_id"], position == 1),
        (options["forced_eos_token_id"], position == limit - 1),
    ):
        if forced and when:
            scores[:] = -np.inf
            scores[:, forced] = 0
    scores[:, options["suppress_tokens"]] = -np.inf
    later = prompt == 1 and bool(options["forced_bos_token_id"])
    if position == prompt + later:
        scores[:, options["begin_suppress_tokens"]] = -np.inf
    return log_softmax(scores) if options["renormalize_logits"] else scores


def log_softmax(logits):
    """Logits as log-probabilities."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def best(scores, count):
    """Indices of the `count` highest of each row, best first."""
    count = min(count, scores.shape[1])
    some = np.sort(np.argpartition(-scores, count - 1, axis=1)[:, :count], axis=1)
    order = np.argsort(-np.take_along_axis(scores, some, 1), axis=1, kind="stable")
    return np.take_along_axis(some, order, 1)


# --- writing ------------------------------------------------------------------------------------


class Writer:
    """A batch of captions and the cache that the next token needs."""

    def __init__(self, programs, pixels, prompt, limit, first):
        self.programs, self.limit = programs, limit
        seen = programs["encoder"]({"pixels": pixels})
        tokens = np.tile(np.array(prompt, np.int32), (len(pixels), 1))
        # A program of fixed sizes reads one token first; the rest of a prompt follows.
        first = first or len(prompt)
        found = programs["prefill"]({"tokens": tokens[:, :first], **seen})
        self.logits, self.cache = np.asarray(found.pop("logits")), self._as_past(found)
        self.tokens = tokens[:, :first]
        for i in range(first, len(prompt)):
            self.go_on(tokens[:, i])

    def go_on(self, tokens):
        """Write one more token in every row."""
        position = np.array(self.tokens.shape[1], np.int32)
        self.tokens = np.concatenate([self.tokens, tokens[:, None].astype(np.int32)], axis=1)
        if self.tokens.shape[1] < self.limit:  # nothing follows the last token
            given = {"tokens": self.tokens[:, -1], "position": position, **self.cache}
            found = self.programs["step"](given)
            self.logits = np.asarray(found.pop("logits"))
            self.cache.update(self._as_past(found))

    def choose(self, rows):
        """Let row i continue row rows[i]; a picture may get more rows."""
        moved = len(rows) != len(self.tokens)
        self.tokens, self.logits = self.tokens[rows], self.logits[rows]
        # All rows of a picture see the same features.
        self.cache = {
            name: array[rows] if moved or name.startswith("past") else array
            for name, array in self.cache.items()
        }

    def _as_past(self, arrays):
        return {name.replace("present", "past"): array for name, array in arrays.items()}


def greedy(writer, eos, options):
    """The most probable token at every step: tokens after the prompt, and scores."""
    prompt = writer.tokens.shape[1]
    ended = np.zeros(len(writer.tokens), bool)
    totals, lengths = np.zeros(len(ended), np.float32), np.zeros(len(ended), int)
    while not ended.all() and writer.tokens.shape[1] < writer.limit:
        scores = constrain(writer.logits, writer.tokens, prompt, writer.limit, eos, options)
        chosen = scores.argmax(-1)
        taken = np.take_along_axis(log_softmax(writer.logits), chosen[:, None], 1)[:, 0]
        totals, lengths = totals + np.where(ended, 0, taken), lengths + ~ended
        ended |= np.isin(chosen, eos)
        writer.go_on(chosen)
    said = [row[prompt:][:length] for row, length in zip(writer.tokens, lengths, strict=True)]
    return said, totals / lengths ** options["length_penalty"]


def beam_search(writer, eos, options):
    """The best of `num_beams` prefixes that grow together: tokens after the prompt, and scores."""
    beams, penalty, stop = (
        options["num_beams"],
        options["length_penalty"],
        options["early_stopping"],
    )
    batch, prompt = writer.tokens.shape
    limit = writer.limit
    writer.choose(np.repeat(np.arange(batch), beams))
    totals = np.full((batch, beams), NEVER, np.float32)
    totals[:, 0] = 0  # all begin alike: only the first may speak, or each would say the same
    done = [[] for _ in range(batch)]  # for each picture (score, tokens), best first
    live = np.ones(batch, bool)
    while live.any() and writer.tokens.shape[1] < limit:
        logprobs = log_softmax(writer.logits)
        logprobs = constrain(logprobs, writer.tokens, prompt, limit, eos, options)
        vocab = logprobs.shape[-1]
        sums = (totals.reshape(-1, 1) + logprobs).reshape(batch, -1)
        found = best(sums, (1 + max(1, len(eos))) * beams)
        sums = np.take_along_axis(sums, found, 1)
        parents, chosen = found // vocab, found % vocab
        length = writer.tokens.shape[1] + 1 - prompt
        ends = np.isin(chosen, eos)
        finished = ends | (writer.tokens.shape[1] + 1 >= limit)
        for i in np.flatnonzero(live):
            for j in np.flatnonzero(finished[i, :beams] & (sums[i, :beams] > NEVER / 2)):
                row = writer.tokens[i * beams + parents[i, j], prompt:]
                done[i].append((sums[i, j] / length**penalty, [*row, chosen[i, j]]))
            done[i] = sorted(done[i], key=lambda each: -each[0])[:beams]
        sums = np.where(ends, sums + NEVER, sums)
        kept = best(sums, beams)
        totals, parents, chosen = (np.take_along_axis(x, kept, 1) for x in (sums, parents, chosen))
        writer.choose((parents + np.arange(batch)[:, None] * beams).reshape(-1))
        writer.go_on(chosen.reshape(-1))
        reach = limit - prompt if stop == "never" and penalty > 0 else length
        for i in np.flatnonzero(live):
            full = len(done[i]) == beams
            hope = totals[i, 0] / reach**penalty
            live[i] = not full or (stop is not True and hope > done[i][-1][0])
    chosen = [each[0] for each in done]
    return [tokens for _, tokens in chosen], [score for score, _ in chosen]


# --- a whole caption ----------------------------------------------------------------------------


def caption(programs, manifest, tokenizer, pictures, prompt="", **changed):
    """Captions of prepared pictures, as dictionaries of text, score and tokens."""
    options = {**manifest["generation"], **changed}
    special = manifest["tokens"]
    said = tokenizer.encode(prompt, add_special_tokens=False).ids
    begin = [special["start"], *said]
    room = options["max_new_tokens"]
    limit = options["max_length"] if room is None else len(begin) + room
    limit = min(limit, manifest["capacity"] + 1)
    if len(begin) >= limit:
        raise SystemExit(
            f"caption.py: the prompt takes {len(begin)} tokens, and a caption has at most {limit} "
            "with its prompt; give a shorter --prompt"
        )
    first = 1 if manifest["batch_size"] else None
    writer = Writer(programs, np.stack(pictures), begin, limit, first)
    search = greedy if options["num_beams"] == 1 else beam_search
    rows, scores = search(writer, special["eos"], options)
    found = []
    for row, score in zip(rows, scores, strict=True):
        bare = row[:-1] if row[-1] in special["eos"] else row
        text = spell(tokenizer, [*said, *bare], manifest["text"])
        found.append({"caption": text, "score": float(score), "tokens": [int(t) for t in row]})
    return found


def spell(tokenizer, tokens, how):
    """The text of tokens: up to the first that ends one, special ones skipped."""
    tokens = [int(token) for token in tokens]
    tokens = tokens[1:] if tokens[:1] == [how["start"]] else tokens
    tokens = tokens[: tokens.index(how["eos"])] if how["eos"] in tokens else tokens
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    for written, meant in how["replace"]:
        text = text.replace(written, meant)
    return text.strip()


def main():
    """Caption the pictures that the command line names."""
    manifest = json.loads((HERE / "export.json").read_text(encoding="utf-8"))
    generation = manifest["generation"]
    parser = argparse.ArgumentParser(description="Caption pictures with exported programs.")
    beams, tokens = generation["num_beams"], generation["max_new_tokens"]
    most = tokens or f"{generation['max_length']} with the prompt"
    parser.add_argument("pictures", nargs="+", help="files of pictures to caption")
    parser.add_argument("--prompt", default="", help="text that captions begin with; default: none")
    parser.add_argument(
        "--num-beams",
        type=int,
        default=beams,
        help="number of beams; 1 is greedy search; default: %(default)s",
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=tokens,
        help=f"most tokens after the prompt; default: {most}",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=8,
        help="pictures that are captioned at once; default: %(default)s",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON line for each picture")
    given = parser.parse_args()
    if given.num_beams < 1 or given.batch_size < 1:
        parser.error("--num-beams and --batch-size must be 1 or more")
    rows = manifest["batch_size"] or given.batch_size * given.num_beams
    if rows < given.num_beams:
        parser.error(
            f"the programs were exported for {rows} rows; give at most as many --num-beams"
        )
    size = rows // given.num_beams
    tokenizer = tokenizers.Tokenizer.from_file(str(HERE / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    programs = load_programs(manifest)
    changed = {"num_beams": given.num_beams, "max_new_tokens": given.max_new_tokens}
    failed = False
    for start in range(0, len(given.pictures), size):
        names, pictures = [], []
        for path in given.pictures[start : start + size]:
            try:
                pictures.append(prepare(path, manifest["pictures"]))
                names.append(path)
            except (OSError, ValueError) as error:
                print(f"caption.py: {path}: {error}", file=sys.stderr)
                failed = True
        if not pictures:
            continue
        found = caption(programs, manifest, tokenizer, pictures, given.prompt, **changed)
        for name, each in zip(names, found, strict=True):
            line = json.dumps({"path": name, **each}, ensure_ascii=False)
            print(line if given.json else f"{name}\t{each['caption']}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
