"""Pixels against transformers' own image processors.

The reference is transformers 5's PIL-backed classes (`CLIPImageProcessorPil` and its like), which
resize as checkpoints' authors did. The torchvision-backed ones, which transformers 5 prefers where
torchvision is installed, resize a little differently, and are not compared here.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captax.images import ImageProcessor

pytestmark = pytest.mark.parity

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
# (class, config), with the keys of published checkpoints, old and new.
CONFIGS: list[tuple[str, dict[str, Any]]] = [
    ("ViT", {}),
    ("ViT", {"size": 224, "resample": 2, "do_resize": True, "do_normalize": True}),
    ("ViT", {"size": {"height": 40, "width": 56}, "resample": 0, "rescale_factor": 1 / 127.5}),
    ("ViT", {"size": {"height": 33, "width": 31}, "resample": 1, "do_normalize": False}),
    ("ViT", {"size": 48, "do_rescale": False, "do_normalize": False, "resample": 4}),
    ("DeiT", {}),
    ("DeiT", {"size": 256, "crop_size": 224, "do_center_crop": True, **IMAGENET}),
    ("DeiT", {"size": 50, "crop_size": {"height": 65, "width": 41}}),
    ("CLIP", {}),
    ("CLIP", {"size": 224, "crop_size": 224, "do_center_crop": True, "resample": 3}),
    ("CLIP", {"size": {"shortest_edge": 60}, "crop_size": {"height": 61, "width": 59}}),
    ("CLIP", {"size": {"shortest_edge": 30}, "crop_size": {"height": 41, "width": 64}}),
    ("CLIP", {"size": {"height": 60, "width": 50}, "do_center_crop": False}),
    # Florence-2's, smaller.
    ("CLIP", {"size": {"height": 76, "width": 76}, "do_center_crop": False, **IMAGENET}),
    ("Blip", {}),
    ("Blip", {"size": {"height": 64, "width": 64}, "resample": 5, "image_std": [0.1, 0.2, 0.3]}),
    ("Siglip", {}),
    ("Siglip", {"size": {"height": 60, "width": 50}, "resample": 2}),
    ("ConvNext", {}),
    ("ConvNext", {"size": 224, "crop_pct": 0.875, "resample": 3, **IMAGENET}),
    ("ConvNext", {"size": {"shortest_edge": 224}, "crop_pct": 0.95}),
    ("ConvNext", {"size": {"shortest_edge": 65}}),
    ("ConvNext", {"size": 384, "crop_pct": 0.875}),
]


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)

    def noise(*shape: int) -> np.ndarray:
        return rng.integers(0, 256, shape, np.uint8)

    rgb = [Image.fromarray(noise(h, w, 3)) for h, w in ((97, 61), (53, 128), (64, 64), (1, 2))]
    large = Image.fromarray(noise(40, 30, 3)).resize((433, 577), Image.Resampling.BICUBIC)
    grey = Image.fromarray(noise(45, 77))
    seen_through = Image.fromarray(noise(57, 43, 4))
    palette = rgb[0].quantize(60)
    return [*rgb, large, grey, grey.convert("1"), palette, seen_through, grey.convert("LA")]


def reference(name: str) -> Any:
    transformers = pytest.importorskip("transformers")
    return getattr(transformers, f"{name}ImageProcessorPil")


def pixels(processor: Any) -> np.ndarray:
    images = pictures()
    # Every class turns pictures to RGB when told to, which ViT's does not by itself.
    out = [processor(image, do_convert_rgb=True)["pixel_values"][0] for image in images]
    return np.stack(out).transpose(0, 2, 3, 1)


def close(got: np.ndarray, want: np.ndarray) -> None:
    assert got.shape == want.shape
    largest = max(1.0, float(np.abs(want).max()) / 4)  # unnormalised pixels go to 255
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * largest)


@pytest.mark.parametrize(("name", "config"), CONFIGS)
def test_pixels_and_files_both_ways(name: str, config: dict[str, Any], tmp_path: Path) -> None:
    theirs = reference(name)(**config)
    want = pixels(theirs)
    old = {"feature_extractor_type": f"{name}FeatureExtractor", **config}
    ours = ImageProcessor.from_config(old)
    close(ours(pictures()), want)
    # What transformers writes of it, alone and nested as it writes whole processors.
    theirs.save_pretrained(tmp_path)
    assert ImageProcessor.load(tmp_path) == ours
    nested = {"image_processor": theirs.to_dict(), "processor_class": "BlipProcessor"}
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert ImageProcessor.load(tmp_path) == ours
    # What we write of it.
    back = tmp_path / "back"
    back.mkdir()
    (back / "preprocessor_config.json").write_text(json.dumps(ours.to_config()))
    transformers = pytest.importorskip("transformers")
    again = transformers.AutoImageProcessor.from_pretrained(back, backend="pil")
    assert again.backend == "pil"
    close(pixels(again), want)


@pytest.mark.parametrize("name", ["ViT", "DeiT", "CLIP", "Blip", "Siglip", "ConvNext"])
def test_a_class_by_its_newer_names(name: str) -> None:
    ours = ImageProcessor.from_config({"image_processor_type": f"{name}ImageProcessorFast"})
    assert ours == ImageProcessor.from_config(reference(name)().to_dict())
