"""What is done on PyTorch's side: random weights, the call, the gradients."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from golden.case import Case, Inputs, Outputs


def make_reference(case: Case, *, full: bool, seed: int = 0) -> Any:
    """The reference in evaluation mode, with weights under which every tensor matters.

    As transformers makes them, biases are 0 and scales 1, and so are some positions: to exchange
    two, or to forget one, would go unseen.
    """
    torch.manual_seed(seed)
    model = case.reference(full).eval()
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")  # the others give no attention weights
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.dtype.is_floating_point and (value.ndim <= 1 or _constant(value)):
                value.add_(0.1 * torch.randn_like(value))
            elif value.dtype.is_floating_point and not full:
                value.mul_(5)  # the initial ones of a narrow model are next to nothing
    return model


def _constant(value: Any) -> bool:
    return bool((value == value.flatten()[:1]).all())


def ask(case: Case, model: Any, inputs: Inputs) -> Any:
    """The reference's outputs, states and attentions included."""
    tensors = {name: torch.from_numpy(value.copy()) for name, value in inputs.items()}
    if case.ask is not None:
        return case.ask(model, tensors)
    return model(**tensors, output_hidden_states=True, output_attentions=True)


def outputs(case: Case, model: Any, inputs: Inputs, names: Any) -> Outputs:
    """Those of the reference's outputs that are named, as arrays."""
    with torch.no_grad():
        found = ask(case, model, inputs)
    return {name: _array(found[name]) for name in names}


def _array(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_array(each) for each in value]
    return value.detach().numpy()


def weigh(shape: tuple[int, ...]) -> np.ndarray:
    """Fixed weights, by which an output is summed to the loss whose gradient is compared."""
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def save_gradients(case: Case, model: Any, inputs: Inputs, directory: Path) -> None:
    """Of the weighed sum of the case's `loss` output in training mode, as a checkpoint.

    In the place of the weights, so that they bear the names that tensors have on disk.
    """
    model.train()
    found = ask(case, model, inputs)[case.loss]
    (found * torch.from_numpy(weigh(tuple(found.shape)))).sum().backward()
    for parameter in model.parameters():
        gradient = parameter.grad
        parameter.data = torch.zeros_like(parameter) if gradient is None else gradient
    for buffer in model.buffers():
        buffer.zero_()  # running statistics, which get no gradient
    model.save_pretrained(directory)
