"""The pretrained encoders against PyTorch, with the files that PyTorch's port published."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from captax.checkpoints.efficientnet_lite import find_efficientnet_lite, load_efficientnet_lite
from captax.checkpoints.state import CheckpointError
from captax.checkpoints.torch_file import read_torch_file
from captax.images import ImageProcessor

pytestmark = pytest.mark.parity


@pytest.fixture(params=[0, 2], ids="lite{}".format)
def size(request: pytest.FixtureRequest) -> int:
    try:
        find_efficientnet_lite(request.param)
    except CheckpointError as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture
def reference(size: int) -> Any:
    torch = pytest.importorskip("torch")
    port = pytest.importorskip("efficientnet_lite_pytorch")
    name = f"efficientnet-lite{size}"
    model = port.EfficientNet.from_name(name)
    model.load_state_dict(torch.load(find_efficientnet_lite(size), weights_only=True))
    return model.eval()


def test_the_file_is_read_as_pytorch_reads_it(size: int) -> None:
    torch = pytest.importorskip("torch")
    path = find_efficientnet_lite(size)
    want = torch.load(path, weights_only=True)
    got = read_torch_file(path)
    assert list(got) == list(want)
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value.numpy(), strict=True)


@pytest.mark.nightly("sizes of EfficientNet-Lite")
@pytest.mark.parametrize("any_size", range(5))
def test_every_size_computes_what_pytorch_computes(any_size: int, tmp_path: Path) -> None:
    """With random weights and batch statistics, saved by PyTorch itself."""
    torch = pytest.importorskip("torch")
    port = pytest.importorskip("efficientnet_lite_pytorch")
    torch.manual_seed(0)
    reference = port.EfficientNet.from_name(f"efficientnet-lite{any_size}").eval()
    for name, value in reference.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2)
    path = tmp_path / "weights.pth"
    torch.save(reference.state_dict(), path, _use_new_zipfile_serialization=False)
    model = load_efficientnet_lite(any_size, path, classifier=True)
    side = model.config.image_size
    pixels = np.random.default_rng(0).standard_normal((1, side, side, 3)).astype(np.float32)
    with torch.no_grad():
        want = reference(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).numpy()
    got = np.asarray(jax.jit(model.classify)(pixels))
    assert want.std() > 1e-3
    np.testing.assert_allclose(got, want, atol=1e-3 * np.abs(want).max())


def test_logits_are_those_of_pytorch(size: int, reference: Any, examples: Path) -> None:
    torch = pytest.importorskip("torch")
    model = load_efficientnet_lite(size, classifier=True)
    side = model.config.image_size
    processor = ImageProcessor((side, side), mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    noise = np.random.default_rng(0).standard_normal((3, side, side, 3))
    pixels = np.concatenate([noise, processor(sorted(examples.glob("*.jpg")))]).astype(np.float32)
    with torch.no_grad():
        want = reference(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).numpy()
    got = np.asarray(jax.jit(model.classify)(pixels))
    difference = np.abs(got - want).max() / np.abs(want).max()
    print(f"lite{size}: the largest difference is {difference:.1e} of the largest logit")
    assert difference < 1e-3
    np.testing.assert_array_equal(got.argmax(1), want.argmax(1))
