"""The models of three recipes and one training step of each, in captax and in PyTorch: one class.

`make_checkpoints` writes encoders with random weights, tokenizers and pictures, which the recipes
then name. `prepare` makes captax write its initial weights and a batch, which PyTorch then reads.
A peer is made from that folder, the name of a recipe and the precision of products. `loss()` is the
loss of the batch before any training, without dropout; `step()` trains on the batch and returns its
loss. Each peer runs in its own process, which imports nothing of the other.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from peers import THREADS, TORCH_DEVICE

WORDS = 48  # so many words, start and eos make 50 tokens

# What the recipes leave to the user, and what makes a step the same in every run: pictures as
# pixels, and one caption of 50 tokens a picture.
CAPTIONS = ["data.train=[{path: captioned}]", "data.dev=[{path: captioned}]"]
CAPTIONS += ["data.captions=longest", "data.row_tokens=null", "stages.0.views=null"]
OVERRIDES = {
    "flickr8k-vit": [*CAPTIONS, "model.encoder.checkpoint={0}/vit", "model.tokenizer={0}/vit"],
    "food101-vit": [
        "data.train=[{path: labelled}]",
        "data.dev=[{path: labelled}]",
        "model.encoder.checkpoint={0}/vit",
    ],
    "flickr8k-resnet50": [
        *CAPTIONS,
        "model.encoder.checkpoint={0}/resnet",
        "model.tokenizer={0}/resnet",
    ],
}
VOCABULARIES = {"vit": 50257, "resnet": 3000}


def make_checkpoints(folder: Path) -> None:
    """`vit` and `resnet`, each with a tokenizer; `captioned` and `labelled` pictures."""
    import tokenizers
    import torch
    from PIL import Image
    from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTModel

    torch.manual_seed(0)
    unchanged = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    models = {"vit": ViTModel(ViTConfig(**unchanged)), "resnet": ResNetModel(ResNetConfig())}
    for name, model in models.items():
        model.save_pretrained(folder / name)
        size = VOCABULARIES[name]
        words = {f"w{index}": index for index in range(size - 1)} | {"<|endoftext|>": size - 1}
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        tokenizer.save(str(folder / name / "tokenizer.json"))
        roles = dict.fromkeys(["bos_token", "eos_token", "unk_token"], "<|endoftext|>")
        (folder / name / "tokenizer_config.json").write_text(json.dumps(roles))
        processor: dict[str, Any] = {"image_processor_type": "ViTImageProcessor"}
        processor |= {"size": {"height": 224, "width": 224}, "do_normalize": True}
        processor |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        (folder / name / "preprocessor_config.json").write_text(json.dumps(processor))
    rng = np.random.default_rng(0)
    rows = []
    for index in range(40):
        squares = rng.integers(0, 256, (14, 14, 3), np.uint8).repeat(16, 0).repeat(16, 1)
        label = f"class {index % 20:02}"
        for path in (Path("captioned"), *(Path("labelled") / s / label for s in ("train", "test"))):
            (folder / path).mkdir(parents=True, exist_ok=True)
            Image.fromarray(squares).save(folder / path / f"{index}.png")
        text = " ".join(f"w{word}" for word in rng.integers(1, VOCABULARIES["resnet"] - 1, WORDS))
        rows.append(json.dumps({"file_name": f"{index}.png", "text": text}))
    (folder / "captioned" / "metadata.jsonl").write_text("\n".join(rows) + "\n")


class Captax:
    """The recipe's own task, optimiser and step."""

    def __init__(self, folder: Path, name: str, precision: str):
        import jax

        from captax.checkpoints.state import parameters, rebuilder
        from captax.training.optimizers import make_optimizer
        from captax.training.recipe import load_recipe, matches
        from captax.training.step import begin_stage, make_step, narrowed
        from captax.training.tasks import make_task

        given = [each.replace("{0}", str(folder)) for each in OVERRIDES[name]]
        given += [f"data.root={folder}", f"optimizer.precision={precision}"]
        self.recipe = recipe = load_recipe(name, given)
        self.task = task = make_task(recipe)
        options, stage = recipe.optimizer, recipe.stages[0]
        weights = parameters(task.model)
        trained = {n: v for n, v in weights.items() if matches(stage.trainable or (".*",), n)}
        rest = {n: v for n, v in weights.items() if n not in trained}
        self.frozen = narrowed(rest, options)
        optimizer, _ = make_optimizer(stage, options, 1000)
        self.state = begin_stage(trained, optimizer, options)
        rebuild = rebuilder(task.model)
        self.compiled = make_step(rebuild, task.loss, optimizer, options)
        chosen = np.arange(options.batch_size)
        self.given = task.batch(chosen, np.zeros_like(chosen))
        self.batch = jax.device_put(self.given)
        self.key = jax.random.key(0)

        def loss(frozen: Any, trained: Any, batch: Any) -> Any:
            found = task.loss(rebuild(narrowed({**frozen, **trained}, options)), batch)
            return found.total / found.weight

        self.before = jax.jit(loss)

    def loss(self) -> float:
        return float(self.before(self.frozen, self.state.parameters, self.batch))

    def step(self) -> float:
        self.state, measures = self.compiled(self.state, self.frozen, self.batch, self.key)
        return float(measures["loss"])


def prepare(folder: Path, name: str) -> None:
    """Write what captax begins with and a batch, for `Torch`: `<name>/`."""
    import dataclasses

    import jax
    import safetensors.numpy

    from captax.checkpoints.directory import save_model

    peer = Captax(folder, name, "float32")
    (folder / name).mkdir()
    arrays = dataclasses.asdict(peer.given)
    arrays["given"] = np.ascontiguousarray(arrays["given"].transpose(0, 3, 1, 2))
    np.savez(folder / name / "batch.npz", **arrays)
    (folder / name / "recipe.json").write_text(peer.recipe.model_dump_json())
    if peer.recipe.task == "classify":
        save_model(folder / name, peer.task.model)
        return
    decoder = {n: v for n, v in peer.state.parameters.items() if n.startswith("decoder.")}
    held = {n.removeprefix("decoder."): np.array(v) for n, v in jax.device_get(decoder).items()}
    safetensors.numpy.save_file(held, folder / name / "decoder.safetensors")


class Torch:
    """PyTorch, op by op: transformers' encoder, and captax's decoder of PyTorch's layers."""

    def __init__(self, folder: Path, name: str, precision: str):
        import torch
        from transformers import ResNetModel, ViTForImageClassification, ViTModel

        if TORCH_DEVICE == "cpu":
            torch.set_num_threads(THREADS)
        torch.manual_seed(0)
        self.torch, self.narrow = torch, precision == "bfloat16"
        recipe = json.loads((folder / name / "recipe.json").read_text())
        stage, self.options = recipe["stages"][0], recipe["optimizer"]
        with np.load(folder / name / "batch.npz") as arrays:
            self.batch = {
                key: torch.from_numpy(value).clone().to(TORCH_DEVICE)
                for key, value in arrays.items()
            }
        if name == "food101-vit":
            self.model: Any = ViTForImageClassification.from_pretrained(folder / name)
        else:
            kind, where = (ViTModel, "vit") if name == "flickr8k-vit" else (ResNetModel, "resnet")
            encoder = kind.from_pretrained(folder / where).eval().requires_grad_(False)
            if where == "resnet":
                encoder.encoder.stages[1:].requires_grad_(True)
            places = {"vit": (14, 1), "resnet": (14, 0)}[where]
            self.model = _captioner(encoder, recipe["model"]["decoder"], *places)
            _fill(self.model.decoder, folder / name / "decoder.safetensors")
        self.model.to(TORCH_DEVICE)
        self.trained = [x for x in self.model.parameters() if x.requires_grad]
        kernels = [x for x in self.trained if x.ndim > 1]
        others = [x for x in self.trained if x.ndim == 1]
        groups = [{"params": kernels, "weight_decay": self.options["weight_decay"]}]
        groups += [{"params": others, "weight_decay": 0.0}]
        rate, betas = stage["lr"], (self.options["beta1"], self.options["beta2"])
        if self.options["name"] == "sgd":
            self.optimizer: Any = torch.optim.SGD(
                groups, lr=rate, momentum=self.options["momentum"], nesterov=True, fused=True
            )
        else:
            self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True)
        self.average = [x.detach().clone() for x in self.trained] if self.averages else []

    @property
    def averages(self) -> bool:
        return self.options["ema_decay"] is not None

    def forward(self, batch: dict[str, Any]) -> Any:
        torch = self.torch
        with torch.autocast(TORCH_DEVICE, torch.bfloat16, enabled=self.narrow):
            if "labels" in batch:
                logits, targets = self.model(batch["given"]).logits, batch["labels"]
            else:
                logits = self.model(batch["given"], batch["inputs"])
                targets = batch["targets"]
        logits = logits.flatten(0, -2).float()
        return torch.nn.functional.cross_entropy(logits, targets.flatten().long())

    def train(self, whether: bool) -> None:
        """Turn dropout on; norms of batches keep the means that they have."""
        getattr(self.model, "decoder", self.model).train(whether)

    def loss(self) -> float:
        self.train(False)
        with self.torch.no_grad():
            return self.forward(self.batch).item()

    def step(self) -> float:
        torch = self.torch
        self.train(True)
        self.optimizer.zero_grad()
        loss = self.forward(self.batch)
        loss.backward()
        if self.options["clip_norm"] is not None:
            torch.nn.utils.clip_grad_norm_(self.trained, self.options["clip_norm"], foreach=True)
        self.optimizer.step()
        if self.averages:
            with torch.no_grad():
                weight = 1 - self.options["ema_decay"]
                torch._foreach_lerp_(self.average, self.trained, weight)
        return loss.item()

    def operations(self) -> float:
        """The operations in products and convolutions of one step, forward and backward."""
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.utils.flop_counter import FlopCounterMode

        self.model.to("meta")  # where they are counted, and not done
        batch = {name: array.to("meta") for name, array in self.batch.items()}
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            self.forward(batch).backward()
        return counter.get_total_flops()


def _captioner(encoder: Any, config: dict[str, Any], side: int, lead: int) -> Any:
    """An encoder and captax's decoder, whose parts are named as captax names them."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    width, heads, rate = config["width"], config["heads"], config["dropout"]

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in "qkvo")

        def forward(self, x: Any, context: Any, causal: bool) -> Any:
            query, keys, values = (
                part.unflatten(-1, (heads, -1)).transpose(1, 2)
                for part in (self.query(x), self.key(context), self.value(context))
            )
            mixed = F.scaled_dot_product_attention(query, keys, values, is_causal=causal)
            return self.out(mixed.transpose(1, 2).flatten(2))

    class Mlp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(width, config["mlp_width"])
            self.down = nn.Linear(config["mlp_width"], width)

        def forward(self, x: Any) -> Any:
            return self.down(F.gelu(self.up(x), approximate="tanh"))

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attention, self.cross_attention, self.mlp = Attention(), Attention(), Mlp()
            norms = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
            self.self_norm, self.cross_norm, self.mlp_norm = norms
            self.dropout = nn.Dropout(rate)

        def forward(self, x: Any, memory: Any) -> Any:
            y = self.self_norm(x)
            x = x + self.dropout(self.self_attention(y, y, True))
            x = x + self.dropout(self.cross_attention(self.cross_norm(x), memory, False))
            return x + self.dropout(self.mlp(self.mlp_norm(x)))

    class Bridge(nn.Module):
        def __init__(self, features: int) -> None:
            super().__init__()
            self.norm, self.project = nn.LayerNorm(features, eps=1e-6), nn.Linear(features, width)
            self.rows = nn.Parameter(torch.zeros(side, width))
            self.columns = nn.Parameter(torch.zeros(side, width))
            self.dropout = nn.Dropout(rate)

        def forward(self, features: Any) -> Any:
            places = (self.rows[:, None] + self.columns[None]).flatten(0, 1)
            return self.dropout(self.project(self.norm(features)) + F.pad(places, (0, 0, lead, 0)))

    class Decoder(nn.Module):
        def __init__(self, features: int, vocabulary: int) -> None:
            super().__init__()
            self.bridge, self.norm = Bridge(features), nn.LayerNorm(width, eps=1e-6)
            self.embedding = nn.Parameter(torch.zeros(vocabulary, width))
            self.positions = nn.Parameter(torch.zeros(config["max_positions"], width))
            self.layers = nn.ModuleList(Layer() for _ in range(config["layers"]))
            self.dropout = nn.Dropout(rate)

        def forward(self, features: Any, tokens: Any) -> Any:
            memory = self.bridge(features)
            x = F.embedding(tokens, self.embedding) + self.positions[: tokens.shape[1]]
            x = self.dropout(x)
            for layer in self.layers:
                x = layer(x, memory)
            return F.linear(self.norm(x), self.embedding)

    class Captioner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder
            grid = encoder.config.model_type == "resnet"
            features = encoder.config.hidden_sizes[-1] if grid else encoder.config.hidden_size
            self.decoder = Decoder(features, VOCABULARIES["resnet" if grid else "vit"])

        def forward(self, pixels: Any, tokens: Any) -> Any:
            features = self.encoder(pixels).last_hidden_state
            if features.ndim == 4:
                features = features.flatten(2).transpose(1, 2)
            return self.decoder(features, tokens)

    return Captioner()


def _fill(decoder: Any, path: Path) -> None:
    import safetensors.torch

    def theirs(name: str) -> str:
        whole, _, last = name.rpartition(".")
        return f"{whole}.weight" if last in ("kernel", "scale") else name

    held = safetensors.torch.load_file(path)
    decoder.load_state_dict({theirs(name): value for name, value in held.items()})


class Compiled(Torch):
    """The same, compiled."""

    def __init__(self, folder: Path, name: str, precision: str):
        super().__init__(folder, name, precision)
        self.model = self.torch.compile(self.model)


PEERS: dict[str, Any] = {"torch": Torch, "compiled": Compiled, "captax": Captax}
