"""Self-critical training: rewards, baselines, what is learned from, and in which direction."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from captax.checkpoints.state import parameters, rebuilder
from captax.metrics import CiderD
from captax.pipelines.captioner import Captioner
from captax.training.recipe import Recipe, RecipeError, SelfCritical
from captax.training.self_critical import Critic, Sampled
from captax.training.writing import CaptionTask

TIME = 8


@pytest.fixture(scope="module")
def task(
    tiny_captioner: Captioner,
    dataset: Callable[[Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> CaptionTask:
    """The small captioner, whose words are partly those of the made-up dataset."""
    root = dataset(tmp_path_factory.mktemp("data"))
    tiny_captioner.save(root / "model")
    return CaptionTask(recipe_of(root))


def recipe_of(root: Path, rows: str | None = None) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tiny",
            "data": {
                "root": root,
                "train": [{"path": "shapes", "split": "train", "rows": rows}],
                "dev": [{"path": "shapes", "split": "dev"}],
                "max_tokens": 12,
            },
            "model": {"checkpoint": str(root / "model")},
            "stages": [{"name": "s", "epochs": 1, "lr": 1e-3, "self_critical": {}}],
            "evaluation": {"max_new_tokens": TIME},
        }
    )


def critic(task: CaptionTask, **options: Any) -> Critic:
    return Critic(task, SelfCritical(**options), rebuilder(task.model))


def rows(task: CaptionTask, *texts: str) -> np.ndarray:
    """Tokens of captions as sampled: eos behind each, but not behind one that ends with "..."."""
    found = np.full((len(texts), TIME), task.eos, np.int32)
    for row, text in zip(found, texts, strict=True):
        [ids] = task.subject.tokenizer.encode_plain([text.removesuffix("...")])
        assert task.subject.tokenizer.unk_id not in ids
        if text.endswith("..."):
            row[:] = (ids * TIME)[:TIME]  # until there is no room
        else:
            row[: len(ids)] = ids
    return found


def place(task: CaptionTask, name: str) -> int:
    return [example.id for example in task.train].index(name)


def test_rewards_are_cider_d_with_the_end_as_a_word(task: CaptionTask) -> None:
    # Of picture 0: "A red stripe in the dark ." and "The stripe is red ."
    said = ["a red", "a square is red", "red", "is blue"]
    number = place(task, "shapes/0")
    got = critic(task).rewards(rows(task, *said)[None], [number])
    references = {
        example.id: [
            [*caption.lower().replace(" .", "").split(), "</s>"] for caption in example.captions
        ]
        for example in task.train
    }
    words = [[*text.split(), "</s>"] for text in said]
    want = CiderD(references).score(["shapes/0"] * 4, words)
    np.testing.assert_allclose(got, [want], rtol=1e-9)
    assert len(set(got[0])) == 4 and (got[0, :3] > 0).all()


def test_a_caption_that_breaks_off_is_worth_nothing(task: CaptionTask) -> None:
    # Cut off; ended behind a word that no caption ends with; without a word.
    said = ["a red...", "red is the", "a red square", "", "the square is red"]
    number = place(task, "shapes/3")
    [rewards] = critic(task, bleu=1.0).rewards(rows(task, *said)[None], [number])
    assert rewards[:4].tolist() == [0, 0, 0, 0] and rewards[4] > 5


def test_bleu_is_added_by_its_share(task: CaptionTask) -> None:
    # "The square is red" is a whole reference of picture 3: five words with the end.
    tokens = rows(task, "the square is red", "a")[None]
    number = [place(task, "shapes/3")]
    plain, mixed = (critic(task, bleu=bleu).rewards(tokens, number) for bleu in (0.0, 0.5))
    np.testing.assert_allclose(mixed - plain, [[0.5, 0.0]], atol=1e-5)
    # A lone reference of its kind, said word for word, scores 10 beside the other's 0 or more.
    assert 5 <= plain[0, 0] <= 10


def fixed(answer: np.ndarray) -> Callable[..., jax.Array]:
    return lambda parameters, given, seeds: jnp.asarray(answer)


def sampled(
    task: CaptionTask, names: Sequence[str], said: Sequence[Sequence[str]], **options: Any
) -> tuple[Sampled, np.ndarray]:
    """What is learned of these captions of these pictures, and their rewards."""
    made = critic(task, samples=len(said[0]), **options)
    tokens = np.stack([rows(task, *texts) for texts in said])
    made._sample = fixed(tokens)
    made._greedy = fixed(np.stack([rows(task, "the square is blue") for _ in names]))
    chosen = np.array([place(task, name) for name in names])
    batch = task.batch(chosen, np.zeros_like(chosen))
    return made.sample({}, batch, chosen, 1), made.rewards(tokens, chosen)


SAID = [["the square is red", "a red square", "blue"], ["a blue...", "is blue", "the blue square"]]
NAMES = ["shapes/3", "shapes/5"]


def test_a_sample_is_measured_by_the_others_of_its_picture(task: CaptionTask) -> None:
    found, rewards = sampled(task, NAMES, SAID)
    advantages = found.advantages.reshape(2, 3, TIME)
    for picture in range(2):
        for one in range(3):
            others = [rewards[picture, other] for other in range(3) if other != one]
            want = rewards[picture, one] - sum(others) / 2
            np.testing.assert_allclose(advantages[picture, one], want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.rewards, rewards.mean(1), rtol=1e-6)
    assert np.ptp(rewards[0]) > 1


def test_a_sample_may_be_measured_by_the_greedy_caption(task: CaptionTask) -> None:
    found, rewards = sampled(task, NAMES, SAID, baseline="greedy")
    greedy = [
        critic(task).rewards(rows(task, "the square is blue")[None], [place(task, name)])[0, 0]
        for name in NAMES
    ]
    assert min(greedy) > 0
    want = rewards - np.array(greedy)[:, None]
    got = found.advantages.reshape(2, 3, TIME)
    np.testing.assert_allclose(got, np.repeat(want[..., None], TIME, 2), rtol=1e-5)


def test_captions_are_laid_side_by_side_and_what_was_cut_off_counts_nothing(
    task: CaptionTask,
) -> None:
    found, _ = sampled(task, NAMES, SAID)
    names = ("inputs", "targets", "positions", "segments")
    batch = {name: getattr(found.batch, name).reshape(2, 3, TIME) for name in names}
    counted = found.counted.reshape(2, 3, TIME)
    # Words and the end that is learned with them; nothing of the caption without an end.
    assert counted.sum(-1).tolist() == [[5, 4, 2], [0, 3, 4]]
    for picture, texts in enumerate(SAID):
        tokens = rows(task, *texts)
        np.testing.assert_array_equal(batch["targets"][picture], tokens)
        np.testing.assert_array_equal(batch["inputs"][picture, :, 1:], tokens[:, :-1])
        assert (batch["inputs"][picture, :, 0] == task.start).all()
    assert (batch["positions"] == np.arange(TIME)).all()
    assert (batch["segments"] == np.array([1, 2, 3])[:, None]).all()


def logprobs(task: CaptionTask, weights: dict[str, Any], found: Sampled) -> np.ndarray:
    """Of each caption, what the captioner itself says: one at a time, without the others."""
    [pixels] = task.pictures.read(np.array([place(task, "shapes/3")]))  # type: ignore[union-attr]
    model: Any = rebuilder(task.model)(weights)
    inputs, targets, counted = (
        np.asarray(x).reshape(-1, TIME)
        for x in (found.batch.inputs, found.batch.targets, found.counted)
    )
    features = model.encode(jnp.asarray(pixels)[None].repeat(len(inputs), 0))
    logits = model.read(features, jnp.asarray(inputs))
    right = np.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
    return np.asarray((right * counted).sum(-1))


@pytest.mark.slow
def test_the_gradient_makes_the_better_caption_likelier(task: CaptionTask) -> None:
    found, rewards = sampled(task, NAMES[:1], [["the square is red", "blue", "a red..."]])
    made = critic(task, samples=3)
    rebuild = rebuilder(task.model)
    weights = parameters(task.model)

    @jax.jit
    def learn(weights: dict[str, Any], found: Sampled) -> Any:
        def total(weights: dict[str, Any]) -> Any:
            losses = made.loss(rebuild(weights), found)
            return losses.total, losses

        return jax.grad(total, has_aux=True)(weights)

    gradient, losses = learn(weights, found)
    before = logprobs(task, weights, found)
    advantages = found.advantages.reshape(3, TIME)[:, 0]
    np.testing.assert_allclose(losses.total, -(advantages * before).sum(), rtol=1e-3)
    assert rewards[0, 0] > rewards[0, 1] and before[2] == 0  # the one that was cut off
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradient.values()))
    stepped = jax.tree.map(lambda w, g: w - 1e-2 / norm * g, weights, gradient)
    after = logprobs(task, stepped, found)
    assert after[0] > before[0] and after[1] < before[1]
    assert losses.weight == 5 + 2
    np.testing.assert_allclose(losses.measures["reward"], 7 * rewards.mean(), rtol=1e-5)


@pytest.mark.slow
def test_samples_differ_by_step_and_never_hold_an_unknown_word(task: CaptionTask) -> None:
    made = critic(task, samples=5, temperature=20.0)
    chosen = np.arange(8)
    batch = task.batch(chosen, np.zeros_like(chosen))
    weights = parameters(task.model)

    def tokens(step: int) -> np.ndarray:
        return np.asarray(made.sample(weights, batch, chosen, step).batch.targets)

    first = tokens(1)
    np.testing.assert_array_equal(tokens(1), first)
    second = tokens(2)
    assert (first != second).any()
    tokenizer = task.subject.tokenizer
    drawn = {*first.ravel().tolist(), *second.ravel().tolist()}
    unknown = tokenizer.unk_id
    assert unknown is not None and unknown not in drawn
    # At this temperature every word is drawn: an unknown one would be, too.
    assert len(drawn) > 0.8 * tokenizer.vocab_size
    five = first[0].reshape(5, TIME)
    assert len({row.tobytes() for row in five}) > 1


def test_one_picture_is_too_few(task: CaptionTask) -> None:
    lone = CaptionTask(recipe_of(task.recipe.data.root, rows=":1"))
    message = "self_critical needs 2 training pictures or more, .*; add pictures to data.train"
    with pytest.raises(RecipeError, match=message):
        critic(lone)
