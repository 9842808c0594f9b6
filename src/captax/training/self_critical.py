"""Self-critical training: captions are sampled and scored, and better ones are made likelier.

Rennie et al. (https://arxiv.org/abs/1612.00563); the leave-one-out baseline is Kool et al.'s
(https://openreview.net/forum?id=r1lgTGL5DE).
"""

import collections
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from captax.generation import GenerationConfig
from captax.metrics import CiderD, ptb_tokenize
from captax.metrics.bleu import bleu_scores, bleu_statistics
from captax.metrics.ngrams import CaptionNgrams, in_common
from captax.training.recipe import RecipeError, SelfCritical
from captax.training.step import Losses, Parameters
from captax.training.writing import Batch, CaptionTask

# It stands for eos among the words that CIDEr-D counts. Without it, captions that break off in the
# middle ("a dog on a") would be rewarded for what they leave out.
END = "</s>"
# A word may end a caption if at least this share of its places in training captions is an end.
MAY_END = 0.002


@struct.dataclass
class Sampled:
    """Captions sampled for a batch, each picture's side by side in one row."""

    batch: Batch
    advantages: Float[Any, "batch time"]
    counted: Bool[Any, "batch time"]
    rewards: Float[Any, " batch"]


class Critic:
    """Samples captions of training pictures and says which did better than expected."""

    def __init__(
        self, task: CaptionTask, options: SelfCritical, model: Callable[[Parameters], Any]
    ):
        """`model` makes a model from parameters.

        CIDEr-D takes document frequencies from the training captions. Raises `RecipeError` when
        there are fewer than two training pictures.
        """
        if len(task.train) < 2:
            raise RecipeError(
                "self_critical needs 2 training pictures or more, because CIDEr-D of a single one "
                "is always 0; add pictures to data.train"
            )
        self.task, self.options = task, options
        references = {e.id: [_words(caption) for caption in e.captions] for e in task.train}
        self.cider = CiderD(references)
        self.references = references
        counts = collections.Counter(w for each in references.values() for r in each for w in r)
        ends = collections.Counter(r[-2] for each in references.values() for r in each if r[1:])
        self.endings = {word for word, count in ends.items() if count >= MAY_END * counts[word]}
        self._sample = self._sampler(
            model,
            do_sample=True,
            temperature=options.temperature,
            top_k=0,
            num_return_sequences=options.samples,
        )
        self._greedy = self._sampler(model, do_sample=False, num_beams=1)

    def _sampler(
        self, model: Callable[[Parameters], Any], **how: Any
    ) -> Callable[[Parameters, Any, Any], Array]:
        task = self.task
        config: GenerationConfig = task.generation.replace(no_repeat_ngram_size=0, **how)

        def program(parameters: Parameters, given: Any, seeds: Any) -> Array:
            built = model(parameters)
            return task.write(
                built,
                task.features(built, given),
                given,
                len(seeds),
                strategy=config.strategy,
                max_new_tokens=config.max_new_tokens,
                eos_id=config.eos_ids,
                pad_id=task.eos,
                constraints=config.constraints,
                seeds=seeds,
            ).tokens

        return jax.jit(program)

    def sample(
        self, parameters: Parameters, batch: Batch, chosen: Int[np.ndarray, " batch"], step: int
    ) -> Sampled:
        """Captions of the pictures of `batch`, and how much better each did than expected.

        A caption that was cut off at the most tokens has no end, so it teaches nothing.
        """
        count, seed = self.options.samples, self.task.recipe.seed
        seeds = np.array([(seed + step, place) for place in chosen], np.int32)
        tokens = np.asarray(self._sample(parameters, batch.given, seeds))
        rewards = self.rewards(tokens, chosen)
        if self.options.baseline == "greedy":
            greedy = np.asarray(self._greedy(parameters, batch.given, seeds))
            baseline = self.rewards(greedy, chosen)
        else:
            baseline = (rewards.sum(1, keepdims=True) - rewards) / (count - 1)
        time = tokens.shape[-1]
        ended = tokens == self.task.eos
        lengths = np.where(ended.any(-1), ended.argmax(-1) + 1, 0)
        counted = np.arange(time) < lengths[..., None]
        advantages = np.broadcast_to((rewards - baseline)[..., None], tokens.shape)
        inputs = np.concatenate(
            [np.full_like(tokens[..., :1], self.task.start), tokens[..., :-1]], axis=-1
        )
        positions = np.broadcast_to(np.arange(time), tokens.shape)
        segments = np.broadcast_to(np.arange(1, count + 1)[:, None], tokens.shape)

        def row(values: np.ndarray, dtype: Any) -> np.ndarray:
            return values.reshape(len(chosen), -1).astype(dtype)

        return Sampled(
            batch=Batch(
                given=batch.given,
                inputs=row(inputs, np.int32),
                targets=row(tokens, np.int32),
                positions=row(positions, np.int32),
                segments=row(segments, np.int32),
            ),
            advantages=row(advantages, np.float32),
            counted=row(counted, bool),
            rewards=rewards.mean(1).astype(np.float32),
        )

    def rewards(
        self, tokens: Int[np.ndarray, "batch samples time"], chosen: Sequence[int] | np.ndarray
    ) -> Float[np.ndarray, "batch samples"]:
        """CIDEr-D (up to 10) plus the recipe's share of BLEU-4, of each caption.

        A caption that was cut off, or whose last word hardly ever ends one ("a man in a"), gets 0,
        because with n-grams alone a captioner would learn to break off.
        """
        batch, count, _ = tokens.shape
        eos = self.task.eos
        images = [self.task.train[place].id for place in chosen for _ in range(count)]
        rows = tokens.reshape(batch * count, -1).tolist()
        said = self.task.subject.decode([[t for t in row if t != eos] for row in rows])
        words = [
            _words(text) if eos in row else ptb_tokenize(text)
            for text, row in zip(said, rows, strict=True)
        ]
        found = self.cider.score(images, words)
        if self.options.bleu:
            found = found + self.options.bleu * self._bleu(images, words)
        whole = [len(text) > 1 and text[-1] == END and text[-2] in self.endings for text in words]
        return np.where(whole, found, 0.0).reshape(batch, count)

    def _bleu(
        self, images: Sequence[str], words: Sequence[Sequence[str]]
    ) -> Float[np.ndarray, " captions"]:
        ours = CaptionNgrams([[said] for said in words])
        theirs = CaptionNgrams([self.references[image] for image in images])
        common = in_common(ours, theirs, np.arange(len(images)))
        return bleu_scores(bleu_statistics(ours, theirs, common))[:, 3]

    def loss(self, model: Any, sampled: Sampled) -> Losses:
        """REINFORCE with the baseline, by token."""
        batch = sampled.batch
        features = self.task.features(model, batch.given)
        logits = self.task.read(model, features, batch)
        logprobs = jax.nn.log_softmax(logits.astype(jnp.float32))
        said = jnp.take_along_axis(logprobs, batch.targets[..., None], axis=-1)[..., 0]
        counted = sampled.counted.astype(jnp.float32)
        weight = counted.sum()
        mean = sampled.rewards.mean() * weight  # reported divided by the weight
        losses = Losses(-(sampled.advantages * said * counted).sum(), weight, {"reward": mean})
        return self.task.keeping_classes(losses, features, batch.given)


def _words(caption: str) -> list[str]:
    return [*" ".join(ptb_tokenize(caption)).split(), END]
