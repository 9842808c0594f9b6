"""How a family's tensors are named and shaped in a checkpoint: one table, read in both directions.

A rule's names hold `{}` where a layer's number stands. `theirs` is the checkpoint's side (PyTorch's
conventions), `ours` the path of the parameter in the model.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable

import numpy as np

Canonical = Callable[[str], str | None]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One tensor of theirs and the parameters of ours that it holds.

    Their axes are put in our order by `axes`, after `lead` leading axes of size one that ours
    lack; several parameters lie side by side along the first of our axes. `counter` names an
    integer beside the tensor that means nothing to us, but is missed when it is not there: it is
    written as 0, and what it was is not read.
    """

    theirs: str
    ours: tuple[str, ...]
    axes: tuple[int, ...] | None = None
    lead: int = 0
    counter: str | None = None

    def to_ours(self, tensor: np.ndarray) -> list[np.ndarray]:
        """Their tensor as our parameters."""
        tensor = tensor.reshape(tensor.shape[self.lead :])
        if self.axes is not None:
            tensor = tensor.transpose(self.axes)
        return [tensor] if len(self.ours) == 1 else np.split(tensor, len(self.ours))

    def to_theirs(self, parameters: list[np.ndarray]) -> np.ndarray:
        """Our parameters as their tensor."""
        tensor = parameters[0] if len(parameters) == 1 else np.concatenate(parameters)
        if self.axes is not None:
            tensor = tensor.transpose(np.argsort(self.axes))
        return tensor.reshape((1,) * self.lead + tensor.shape)

    def their_shape(self, shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
        """The shape of their tensor, given those of ours."""
        shape = shapes[0]
        if len(shapes) > 1:
            shape = (sum(each[0] for each in shapes), *shape[1:])
        if self.axes is not None:
            shape = tuple(shape[i] for i in np.argsort(self.axes))
        return (1,) * self.lead + shape


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint: its name there, and the names and rule of what it holds."""

    theirs: str
    ours: tuple[str, ...]
    rule: Rule
    counter: str | None = None


def _same(name: str) -> str | None:
    return name


@dataclasses.dataclass(frozen=True)
class Layout:
    """The rules of a family; without any, names and shapes are the same on both sides.

    `canonical` turns every spelling that checkpoints of the family have used into the one in the
    rules, and gives None for tensors that carry nothing: buffers, and copies of tied weights.
    """

    rules: tuple[Rule, ...] = ()
    canonical: Canonical = _same

    def within(self, theirs: str, ours: str) -> "Layout":
        """This layout as part of a larger model, under a prefix on either side."""
        return Layout(
            tuple(
                dataclasses.replace(
                    rule,
                    theirs=theirs + rule.theirs,
                    ours=tuple(ours + name for name in rule.ours),
                    counter=rule.counter and theirs + rule.counter,
                )
                for rule in self.rules
            ),
            lambda name: _prefixed(theirs, self.canonical, name),
        )

    def tensors(self, names: Iterable[str]) -> list[Tensor]:
        """The tensors that hold the parameters of these names, in their order."""
        by_name = {name: rule for rule in self.rules for name in rule.ours}
        found: dict[str, Tensor] = {}
        for name in names:
            numbers = re.findall(r"(?<=\.)\d+(?=\.)", name)
            rule = by_name.get(re.sub(r"(?<=\.)\d+(?=\.)", "{}", name))
            if rule is None:
                if self.rules:
                    raise KeyError(f"no rule for {name}")
                rule = Rule(name, (name,))
            theirs = rule.theirs.format(*numbers)
            ours = tuple(each.format(*numbers) for each in rule.ours)
            counter = rule.counter and rule.counter.format(*numbers)
            found[theirs] = Tensor(theirs, ours, rule, counter)
        return list(found.values())


def join(*layouts: Layout) -> Layout:
    """The layout of a model made of parts whose names on disk do not overlap."""

    def canonical(name: str) -> str | None:
        for layout in layouts:
            spelt = layout.canonical(name)
            if spelt != name:
                return spelt
        return name

    return Layout(tuple(rule for layout in layouts for rule in layout.rules), canonical)


def _prefixed(prefix: str, canonical: Canonical, name: str) -> str | None:
    if not name.startswith(prefix):
        return name
    spelt = canonical(name.removeprefix(prefix))
    return None if spelt is None else prefix + spelt


def linear(theirs: str, *ours: str, bias: bool = True) -> tuple[Rule, ...]:
    """`torch.nn.Linear`, which keeps its weight `[out in]` too; fused ones hold several of ours."""
    weight = Rule(f"{theirs}.weight", tuple(f"{name}.kernel" for name in ours))
    return (weight, *_bias(theirs, ours, bias))


def conv1d(theirs: str, *ours: str) -> tuple[Rule, ...]:
    """GPT-2's linear layer, which keeps its weight `[in out]`."""
    weight = Rule(f"{theirs}.weight", tuple(f"{name}.kernel" for name in ours), axes=(1, 0))
    return (weight, *_bias(theirs, ours, True))


def conv2d(theirs: str, ours: str, *, bias: bool = True) -> tuple[Rule, ...]:
    """`torch.nn.Conv2d`, whose weight is `[out in height width]`; ours `[height width in out]`."""
    weight = Rule(f"{theirs}.weight", (f"{ours}.kernel",), axes=(2, 3, 1, 0))
    return (weight, *_bias(theirs, (ours,), bias))


def norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    """A normalisation's weight and bias."""
    weight = Rule(f"{theirs}.weight", (f"{ours}.scale",))
    return (weight, *_bias(theirs, (ours,), True))


def batch_norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    """`torch.nn.BatchNorm2d`, which also counts the batches it has seen."""
    return (
        *norm(theirs, ours),
        Rule(f"{theirs}.running_mean", (f"{ours}.mean",), counter=f"{theirs}.num_batches_tracked"),
        Rule(f"{theirs}.running_var", (f"{ours}.variance",)),
    )


def table(*rules: Rule | tuple[Rule, ...]) -> tuple[Rule, ...]:
    """All rules in one tuple."""
    return tuple(rule for each in rules for rule in ((each,) if isinstance(each, Rule) else each))


def _bias(theirs: str, ours: tuple[str, ...], present: bool) -> tuple[Rule, ...]:
    names = tuple(f"{name}.bias" for name in ours)
    return (Rule(f"{theirs}.bias", names),) if present else ()
