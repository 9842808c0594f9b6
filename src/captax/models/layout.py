"""How a family's tensors are named and shaped in a checkpoint: one table, read in both directions.

In a rule's names, `{}` stands for a layer's number. `theirs` is the name in the checkpoint, which
follows PyTorch's conventions, and `ours` is the path of the parameter in the model.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable

import numpy as np

Canonical = Callable[[str], str | None]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One tensor of a checkpoint and the parameters of the model that it holds.

    The tensor loses `lead` leading axes of size one, then `axes` puts the others in the model's
    order. Several parameters are joined along the first axis of that order. `counter` names an
    integer that the checkpoint holds together with the tensor. captax does not read it, but writes
    it as 0, because PyTorch reports it as missing otherwise.
    """

    theirs: str
    ours: tuple[str, ...]
    axes: tuple[int, ...] | None = None
    lead: int = 0
    counter: str | None = None

    def to_ours(self, tensor: np.ndarray) -> list[np.ndarray]:
        """The checkpoint's tensor as parameters of the model."""
        tensor = tensor.reshape(tensor.shape[self.lead :])
        if self.axes is not None:
            tensor = tensor.transpose(self.axes)
        return [tensor] if len(self.ours) == 1 else np.split(tensor, len(self.ours))

    def to_theirs(self, parameters: list[np.ndarray]) -> np.ndarray:
        """Parameters of the model as the checkpoint's tensor."""
        tensor = parameters[0] if len(parameters) == 1 else np.concatenate(parameters)
        if self.axes is not None:
            tensor = tensor.transpose(np.argsort(self.axes))
        return tensor.reshape((1,) * self.lead + tensor.shape)

    def their_shape(self, shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
        """The shape of the checkpoint's tensor, given the shapes of the parameters."""
        shape = joined_shape(shapes)
        if self.axes is not None:
            shape = tuple(shape[i] for i in np.argsort(self.axes))
        return (1,) * self.lead + shape


def joined_shape(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of arrays that are joined along their first axis; of a single one, its own."""
    if len(shapes) == 1:
        return shapes[0]
    return (sum(each[0] for each in shapes), *shapes[0][1:])


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint: its name, the parameters that it holds, and its rule."""

    theirs: str
    ours: tuple[str, ...]
    rule: Rule
    counter: str | None = None


def _same(name: str) -> str | None:
    return name


@dataclasses.dataclass(frozen=True)
class Layout:
    """The rules of a family; without rules, names and shapes are the same on both sides.

    `canonical` turns every name that checkpoints of the family have used for a tensor into the name
    in the rules. It returns None for tensors that hold no parameter of their own: buffers, and
    copies of tied weights. `transposed` are those of the other names under which a matrix lies the
    other way round than in the rules.
    """

    rules: tuple[Rule, ...] = ()
    canonical: Canonical = _same
    transposed: frozenset[str] = frozenset()

    def within(self, theirs: str, ours: str) -> "Layout":
        """This layout as part of a larger model, with a prefix for the names of each side."""
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
        """The tensors that hold the parameters with these names, in the order of the names."""
        by_name = {name: rule for rule in self.rules for name in rule.ours}
        found: dict[str, Tensor] = {}
        for name in names:
            numbers = re.findall(r"(?<=\.)\d+(?=\.)", name)
            rule = by_name.get(re.sub(r"(?<=\.)\d+(?=\.)", "{}", name))
            if rule is None:
                if self.rules:
                    raise KeyError(f"the layout has no rule for {name}; add one")
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
    """`torch.nn.Linear`, whose weight is `[out in]` like ours; a fused one holds several layers."""
    weight = Rule(f"{theirs}.weight", tuple(f"{name}.kernel" for name in ours))
    return (weight, *_bias(theirs, ours, bias))


def conv1d(theirs: str, *ours: str) -> tuple[Rule, ...]:
    """GPT-2's linear layer, whose weight is `[in out]`."""
    weight = Rule(f"{theirs}.weight", tuple(f"{name}.kernel" for name in ours), axes=(1, 0))
    return (weight, *_bias(theirs, ours, True))


def conv2d(theirs: str, ours: str, *, bias: bool = True) -> tuple[Rule, ...]:
    """`torch.nn.Conv2d`, with weight `[out in height width]`; ours is `[height width in out]`."""
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
    """Rules and tuples of rules as one tuple."""
    return tuple(rule for each in rules for rule in ((each,) if isinstance(each, Rule) else each))


def _bias(theirs: str, ours: tuple[str, ...], present: bool) -> tuple[Rule, ...]:
    names = tuple(f"{name}.bias" for name in ours)
    return (Rule(f"{theirs}.bias", names),) if present else ()
