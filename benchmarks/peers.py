"""The programs that caption with the same checkpoint, captax included: one class each.

A peer is made from a checkpoint directory. `encode(pixels)` returns the output of the vision
encoder and `generate(pixels, beams)` the tokens, both as NumPy arrays; pixels are
[batch 3 height width] float32. Each peer runs in its own process, which imports no other peer.
PyTorch computes on the device that the environment variable `BENCHMARK_DEVICE` names, `cpu` or
`gpu`; JAX finds its own.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

STEPS, THREADS, SIDE, VOCAB = 20, 2, 224, 50257
TORCH_DEVICE = "cuda" if os.environ.get("BENCHMARK_DEVICE") == "gpu" else "cpu"
# Both start and end, as GPT-2 has it. Its embedding, which is the output layer too, is zero, so
# that it never wins and all captions have `STEPS` tokens without anyone suppressing anything.
EOS = VOCAB - 1


def run_on(device: str) -> None:
    """Make the processes that this one starts compute on a device."""
    os.environ["BENCHMARK_DEVICE"] = device
    if device == "cpu":
        # What comes of it inherits these, whatever each calls its threads.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
        os.environ |= {"OMP_NUM_THREADS": str(THREADS), "JAX_PLATFORMS": "cpu"}


def make_checkpoint(directory: Path, *, tiny: bool = False) -> None:
    """A vit-gpt2 with random weights, as transformers writes it."""
    import tokenizers
    import torch
    from transformers import GPT2Config, VisionEncoderDecoderModel, ViTConfig
    from transformers import VisionEncoderDecoderConfig as Config

    torch.manual_seed(0)
    small = {"num_hidden_layers": 2} if tiny else {}
    encoder = ViTConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **small)
    small = {"n_layer": 2} if tiny else {}
    decoder = GPT2Config(add_cross_attention=True, is_decoder=True, **small)
    model = VisionEncoderDecoderModel(Config.from_encoder_decoder_configs(encoder, decoder))
    roles = {"decoder_start_token_id": EOS, "eos_token_id": EOS, "pad_token_id": EOS}
    model.config.update(roles)
    model.generation_config.update(**roles)
    with torch.no_grad():
        # As GPT-2 begins, all pictures would get one word again and again; a mistake in the
        # features or the cache would not show.
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "wte" not in name:
                weight *= 5 if "wpe" in name else 3
        model.decoder.transformer.wte.weight[EOS] = 0
    model.save_pretrained(directory)
    words = {f"w{index}": index for index in range(EOS)} | {"<|endoftext|>": EOS}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.save(str(directory / "tokenizer.json"))
    named = dict.fromkeys(["bos_token", "eos_token", "unk_token"], "<|endoftext|>")
    (directory / "tokenizer_config.json").write_text(json.dumps(named))
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": SIDE, "width": SIDE},
    }
    processor |= {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))


class Captax:
    """`Captioner.caption` of pictures as arrays of bytes, to captions as texts and tokens."""

    dtype = "float32"

    def __init__(self, directory: Path):
        import jax
        from flax import nnx

        import captax
        from captax.models.arithmetic import map_pictures

        self.captioner = captax.load(directory, dtype=self.dtype)
        self.fetch = jax.device_get
        graph, self.state = nnx.split(self.captioner.model)
        self.encoder = jax.jit(
            lambda state, pixels: map_pictures(nnx.merge(graph, state).encode, pixels).tokens
        )

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        pixels = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
        return self.fetch(self.encoder(self.state, pixels))

    def generate(self, pixels: np.ndarray, beams: int) -> np.ndarray:
        pictures = np.rint((pixels.transpose(0, 2, 3, 1) + 1) * 127.5).astype(np.uint8)
        captions = self.captioner.caption(
            [*pictures], num_beams=beams, max_new_tokens=STEPS, batch_size=max(32, len(pictures))
        )
        return np.array([caption.tokens for caption in captions])


class NarrowCaptax(Captax):
    """With weights and products of bfloat16."""

    dtype = "bfloat16"


class Transformers:
    """PyTorch, op by op."""

    dtype = "float32"

    def __init__(self, directory: Path):
        import torch
        from transformers import VisionEncoderDecoderModel
        from transformers.utils import logging

        logging.set_verbosity_error()
        if TORCH_DEVICE == "cpu":
            torch.set_num_threads(THREADS)
        torch.set_grad_enabled(False)
        dtype = getattr(torch, self.dtype)
        self.tensor = lambda pixels: torch.from_numpy(pixels).to(TORCH_DEVICE, dtype)
        self.options: dict[str, Any] = {}
        model = VisionEncoderDecoderModel.from_pretrained(directory, dtype=dtype)
        self.model = model.to(TORCH_DEVICE).eval()

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        return self.model.encoder(self.tensor(pixels)).last_hidden_state.float().cpu().numpy()

    def generate(self, pixels: np.ndarray, beams: int) -> np.ndarray:
        tokens = self.model.generate(
            pixel_values=self.tensor(pixels),
            num_beams=beams,
            max_new_tokens=STEPS,
            do_sample=False,
            **self.options,
        )
        return tokens[:, 1:].cpu().numpy()


class NarrowTransformers(Transformers):
    """With weights and products of bfloat16."""

    dtype = "bfloat16"


class Compiled(Transformers):
    """PyTorch with a cache of fixed size and its steps compiled, and the encoder too."""

    def __init__(self, directory: Path):
        import torch
        from transformers import CompileConfig

        super().__init__(directory)
        compilation = CompileConfig(mode="default", fullgraph=False, dynamic=False)
        compilation._compile_all_devices = True  # on a CPU too
        self.options = {"cache_implementation": "static", "compile_config": compilation}
        self.model.encoder.forward = torch.compile(self.model.encoder.forward)


class NarrowCompiled(Compiled):
    """With weights and products of bfloat16."""

    dtype = "bfloat16"


def export(directory: Path, target: Path) -> None:
    """Write `encoder`, `context` and `step` as ONNX files, of transformers' own modules.

    `context` gives cross-attention's keys and values of each layer from the encoder's output;
    `step` takes tokens [rows 1], these and the keys and values of the tokens before, and gives
    logits [rows vocab] and the keys and values with the new token's.
    """
    import torch
    from transformers import DynamicCache, EncoderDecoderCache, VisionEncoderDecoderModel

    model = VisionEncoderDecoderModel.from_pretrained(directory).eval()
    decoder = model.decoder
    blocks = decoder.transformer.h

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (decoder.config.n_head, -1)).transpose(1, 2)

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = model.encoder

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.encoder(pixels).last_hidden_state

    class Context(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maps = torch.nn.ModuleList([block.crossattention.c_attn for block in blocks])

        def forward(self, hidden: torch.Tensor) -> list[torch.Tensor]:
            return [heads(half) for each in self.maps for half in each(hidden).chunk(2, -1)]

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = decoder

        def forward(
            self, tokens: torch.Tensor, past: list[torch.Tensor], context: list[torch.Tensor]
        ) -> tuple[torch.Tensor, ...]:
            halves = (zip(x[::2], x[1::2], strict=True) for x in (past, context))
            cache = EncoderDecoderCache(*(DynamicCache(list(half)) for half in halves))
            # What it would look at is in the cache; it must only be something.
            seen = context[0].transpose(1, 2).flatten(2)
            logits = self.decoder(
                input_ids=tokens,
                past_key_values=cache,
                encoder_hidden_states=seen,
            ).logits
            grown = cache.self_attention_cache.layers
            return logits[:, -1], *(x for each in grown for x in (each.keys, each.values))

    rows, time = torch.export.Dim("rows"), torch.export.Dim("time", max=1000)
    pixels = torch.zeros(2, 3, SIDE, SIDE)
    with torch.no_grad():
        hidden = Encoder()(pixels)
        context = Context()(hidden)
    layers = len(blocks)
    # Each a tensor of its own: one given twice would be exported as one input.
    past = [torch.zeros_like(x[:, :, :3]) for x in context]
    names = [f"past{i}" for i in range(2 * layers)], [f"context{i}" for i in range(2 * layers)]
    grows = [{0: rows, 2: time}] * len(past)
    target.mkdir(parents=True)
    for name, module, inputs, shapes, given, gives in (
        ("encoder", Encoder(), (pixels,), ({0: rows},), ["pixels"], ["hidden"]),
        ("context", Context(), (hidden,), ({0: rows},), ["hidden"], names[1]),
        (
            "step",
            Step(),
            (torch.zeros(2, 1, dtype=torch.long), past, context),
            ({0: rows}, grows, [{0: rows}] * len(past)),
            ["tokens", *names[0], *names[1]],
            ["logits", *(f"new{i}" for i in range(2 * layers))],
        ),
    ):
        torch.onnx.export(
            module.eval(),
            inputs,
            str(target / f"{name}.onnx"),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=given,
            output_names=gives,
            verbose=False,
        )


Graph = Callable[[dict[str, Any]], list[Any]]


class Exported:
    """A loop in NumPy around the three graphs of `export`."""

    encoder: Graph
    context: Graph
    step: Graph
    layers: int
    head: tuple[int, int]  # how many, and their width

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        return self.encoder({"pixels": pixels})[0]

    def generate(self, pixels: np.ndarray, beams: int) -> np.ndarray:
        batch = len(pixels)
        hidden = self.encode(pixels)
        context = [np.repeat(x, beams, 0) for x in self.context({"hidden": hidden})]
        fixed = {f"context{i}": self.hold(x) for i, x in enumerate(context)}
        tokens = np.full((batch * beams, 1), EOS)
        past = (
            [np.zeros((batch * beams, self.head[0], 0, self.head[1]), np.float32)] * self.layers * 2
        )
        said = np.zeros((batch, beams, STEPS), np.int64)
        totals = np.full((batch, beams), -1e9, np.float32)
        totals[:, 0] = 0
        for step in range(STEPS):
            given = {f"past{i}": x for i, x in enumerate(past)}
            logits, *past = self.step({"tokens": tokens, **given, **fixed})
            if beams == 1:
                said[:, 0, step] = logits.argmax(-1)
            else:
                parents, totals, chosen = _widen(logits, totals)
                said = np.take_along_axis(said, parents[..., None], 1)
                said[:, :, step] = chosen
                rows = (parents + np.arange(batch)[:, None] * beams).reshape(-1)
                past = [x[rows] for x in past]
            tokens = said[:, :, step].reshape(-1, 1)
        # None ended before the last step, where the best total is the best score.
        return said[:, 0]

    def hold(self, array: np.ndarray) -> Any:
        """An input that is used again and again."""
        return array


def _widen(logits: np.ndarray, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best continuations of each picture's beams, best first: whose, how good, which token."""
    batch, beams = totals.shape
    top = logits.max(-1, keepdims=True)
    # Only the best `beams` of a row can be among the best of all rows.
    best = np.argpartition(logits, -beams, axis=-1)[:, -beams:]
    norm = top + np.log(np.exp(logits - top).sum(-1, keepdims=True))
    sums = np.take_along_axis(logits, best, 1) - norm + totals.reshape(-1, 1)
    sums, best = sums.reshape(batch, -1), best.reshape(batch, -1)
    order = np.argsort(-sums, axis=-1)[:, :beams]
    return order // beams, np.take_along_axis(sums, order, 1), np.take_along_axis(best, order, 1)


class OnnxRuntime(Exported):
    def __init__(self, directory: Path):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = THREADS

        def graph(name: str) -> Graph:
            path = str(_exported(directory) / f"{name}.onnx")
            session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            return lambda inputs: session.run(None, inputs)

        self.encoder, self.context, self.step = map(graph, ("encoder", "context", "step"))
        self.layers, self.head = _sizes(directory)


class OpenVino(Exported):
    def __init__(self, directory: Path):
        import openvino

        core = openvino.Core()
        hints = {
            "INFERENCE_NUM_THREADS": THREADS,
            "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16, where the processor has it
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
        }

        def graph(name: str) -> Graph:
            model = core.compile_model(str(_exported(directory) / f"{name}.onnx"), "CPU", hints)
            request = model.create_infer_request()

            def run(inputs: dict[str, Any]) -> list[Any]:
                found = request.infer(inputs, share_inputs=True, share_outputs=name == "step")
                return [found[output] for output in model.outputs]

            return run

        self.encoder, self.context, self.step = map(graph, ("encoder", "context", "step"))
        self.layers, self.head = _sizes(directory)


def _exported(directory: Path) -> Path:
    return directory / "onnx"


def _sizes(directory: Path) -> tuple[int, tuple[int, int]]:
    decoder = json.loads((directory / "config.json").read_text())["decoder"]
    return decoder["n_layer"], (decoder["n_head"], decoder["n_embd"] // decoder["n_head"])


# The first is what the others' tokens are held against; the modules are what each needs.
PEERS: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "transformers": (Transformers, ("torch", "transformers")),
    "compiled": (Compiled, ("torch", "transformers")),
    "onnxruntime": (OnnxRuntime, ("onnxruntime", "onnx", "onnxscript")),
    "openvino": (OpenVino, ("openvino", "onnx", "onnxscript")),
    "captax": (Captax, ("captax",)),
    "transformers16": (NarrowTransformers, ("torch", "transformers")),
    "compiled16": (NarrowCompiled, ("torch", "transformers")),
    "captax16": (NarrowCaptax, ("captax",)),
}
