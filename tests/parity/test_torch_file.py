"""Files that PyTorch itself writes, read without it, bit for bit."""

import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from captax.checkpoints.torch_file import TorchFileError, read_torch_file
from captax.checkpoints.weights import open_weights

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "complex64", "complex128", "bool"),
    *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
)
Save = Callable[[Any], Path]


@pytest.fixture(params=[(True, 2), (True, 5), (False, 2)], ids=["zip", "zip, protocol 5", "legacy"])
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Save:
    new, protocol = request.param

    def write(content: Any) -> Path:
        path = tmp_path / "weights.pth"
        torch.save(content, path, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
        return path

    return write


def bits(tensor: Any) -> bytes:
    whole = tensor.detach().contiguous().reshape(-1)
    return whole.view(torch.uint8).numpy().tobytes()


def check(path: Path, want: dict[str, Any]) -> None:
    got = read_torch_file(path)
    assert list(got) == list(want)
    for name, tensor in want.items():
        assert got[name].shape == tuple(tensor.shape), name
        assert got[name].dtype.name == str(tensor.dtype).removeprefix("torch."), name
        assert got[name].tobytes() == bits(tensor), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_view(save: Save, dtype: str) -> None:
    kind = getattr(torch, dtype)
    raw = torch.randint(0, 256, (60 * kind.itemsize,), dtype=torch.uint8)
    values = (raw % 2 if kind is torch.bool else raw).view(kind).reshape(3, 4, 5)
    content = OrderedDict(
        whole=values,
        tied=values,
        transposed=values.permute(2, 0, 1),
        part=values[1:, ::2, 3],
        one=values[2, 3, 4],
        row=values[0, 0].expand(1, 5),
        none=values[:0],
    )
    check(save(content), content)


def test_state_dicts_and_parameters(save: Save) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.BatchNorm2d(4)).eval()
    model.tied = model[0]
    check(save(model.state_dict()), model.state_dict())
    parameters = dict(model.named_parameters())
    check(save(parameters), parameters)
    optimizer = torch.optim.Adam(model.parameters())
    model[1](model[0](torch.ones(1, 3, 4, 4))).sum().backward()
    optimizer.step()
    run = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    check(save(run), model.state_dict())


def test_what_is_more_than_tensors_is_refused(save: Save) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Some of these are on their way out.
        refused = {
            "torch.nn.modules.linear.Linear": torch.nn.Linear(1, 1),
            "_rebuild_sparse_tensor": torch.eye(2).to_sparse(),
            "_rebuild_meta_tensor_no_storage": torch.ones(2, device="meta"),
            "_rebuild_qtensor": torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.quint8),
            "of an unknown kind": torch.ones(2, dtype=torch.complex64).conj(),
            "outside its storage": torch.ones(1).expand(1000),
        }
    for match, value in refused.items():
        with pytest.raises(TorchFileError, match=match):
            read_torch_file(save({"w": value}))


@pytest.mark.parametrize("size", ["10GB", "20KB"], ids=["single", "sharded"])
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_what_transformers_saves(tmp_path: Path, size: str, safe: bool) -> None:
    """Transformers 5 has no pickles any more: the hub's library saves as transformers 4 did."""
    transformers = pytest.importorskip("transformers")
    from huggingface_hub import save_torch_model

    config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=8)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    if safe:
        model.save_pretrained(tmp_path, max_shard_size=size)
    else:
        save_torch_model(model, tmp_path, max_shard_size=size, safe_serialization=False)
    written = {path.suffix for path in tmp_path.iterdir()} - {".json"}
    assert written == {".safetensors" if safe else ".bin"}
    assert any(tmp_path.glob("*.index.json")) == (size == "20KB")
    want = model.state_dict()
    got = open_weights(tmp_path)
    assert want.keys() - got.keys() <= {"lm_head.weight"}  # tied to the embedding
    assert got.keys() <= want.keys()
    for name, tensor in got.items():
        np.testing.assert_array_equal(tensor.read(), want[name].numpy(), strict=True)
