import io
import json

import numpy as np
import pytest
from PIL import Image

from captax.images import ImageError, ImageProcessor

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_stretch_is_pillows_resize_then_rescale_mean_and_std():
    processor = ImageProcessor((26, 30), resample="bilinear", mean=MEAN, std=STD)
    images = [noise(40, 21), noise(13, 50), noise(26, 30)]
    got = processor(images)
    assert got.shape == (3, 26, 30, 3) and got.dtype == np.float32
    for one, image in zip(got, images, strict=True):
        resized = Image.fromarray(image).resize((30, 26), Image.Resampling.BILINEAR)
        want = (np.asarray(resized) / 255 - MEAN) / STD
        np.testing.assert_allclose(one, want, atol=2e-6)
    assert processor([]).shape == (0, 26, 30, 3)


def test_the_lite_encoders_input_is_pixels_less_127_over_128():
    processor = ImageProcessor((260, 260), mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    image = noise(260, 260)
    np.testing.assert_allclose(processor([image])[0], (image - 127.0) / 128, atol=1e-6)


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (50, 50), (37, 111), (20, 21)])
def test_shortest_edge_keeps_the_aspect_and_cuts_out_the_centre(shape):
    height, width = shape
    processor = ImageProcessor((24, 20), "shortest_edge", 32, mean=(0.0,) * 3, std=(1.0,) * 3)
    image = Image.fromarray(noise(*shape))
    scale = 32 / min(shape)
    to_height, to_width = int(height * scale + 1e-6), int(width * scale + 1e-6)
    resized = np.asarray(image.resize((to_width, to_height), Image.Resampling.BICUBIC))
    top, left = (to_height - 24) // 2, (to_width - 20) // 2
    want = resized[top : top + 24, left : left + 20] / 255
    np.testing.assert_allclose(processor([image])[0], want, atol=1e-6)


def test_stretch_then_crop():
    processor = ImageProcessor((8, 8), resize_to=(12, 10), mean=(0.0,) * 3, std=(1 / 255,) * 3)
    image = Image.fromarray(noise(30, 30))
    want = np.asarray(image.resize((10, 12), Image.Resampling.BICUBIC))[2:10, 1:9]
    np.testing.assert_allclose(processor([image])[0], want, atol=1e-3)


def test_every_kind_of_source_in_one_batch(tmp_path):
    array = noise(40, 30)
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    (tmp_path / "a.png").write_bytes(file.getvalue())
    sources = [tmp_path / "a.png", str(tmp_path / "a.png"), file.getvalue(), array, array / 255]
    batch = ImageProcessor((16, 16))([*sources, Image.fromarray(array)])
    assert (batch == batch[0]).all()
    stacked = ImageProcessor((16, 16))(np.stack([array, array]))
    assert (stacked == batch[:2]).all()


def test_large_jpegs_are_decoded_small_with_hardly_a_difference():
    y, x = np.mgrid[:1500, :2000]
    image = np.stack([x * 255 // 2000, y * 255 // 1500, (x + y) % 512 // 2], 2).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95)
    processor = ImageProcessor((100, 100), mean=(0.0,) * 3, std=(1 / 255,) * 3)
    fast, exact = processor([file.getvalue()]), processor([Image.open(file)])
    assert np.abs(fast - exact).mean() < 0.5
    assert np.abs(fast - exact).max() < 12  # where blue jumps from 255 to 0


def test_errors_say_which_picture(tmp_path):
    processor = ImageProcessor((8, 8))
    with pytest.raises(ImageError, match=r"^image 1: .*gone\.jpg: no such file$"):
        processor([noise(8, 8), tmp_path / "gone.jpg"])
    with pytest.raises(ImageError, match="image 0: picture of 3 bytes: not a picture"):
        processor([b"abc"])
    for one in ("cat.jpg", noise(8, 8)):
        with pytest.raises(ImageError, match=r"pass \[picture\]"):
            processor(one)
    narrow = ImageProcessor((224, 224), "shortest_edge")
    with pytest.raises(ImageError, match="1x50000 picture: too narrow"):
        narrow([np.zeros((50_000, 1), np.uint8)])
    assert narrow([np.zeros((1, 300), np.uint8)]).shape == (1, 224, 224, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize_to": (8, 9)}, "leaves no 10x10"),
        ({"resize_to": 12}, "leaves no 10x10"),
        ({"resize": "shortest_edge", "resize_to": 9}, "leaves no 10x10"),
        ({"resize": "shortest_edge", "resize_to": (12, 12)}, "leaves no 10x10"),
        ({"size": (0, 10)}, "leaves no 0x10"),
        ({"std": (0.5, 0.0, 0.5)}, "std above 0"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(ImageError, match=message):
        ImageProcessor(**{"size": (10, 10), **options})


@pytest.mark.parametrize(
    "processor",
    [
        ImageProcessor((260, 260), mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
        ImageProcessor((384, 256), resample="lanczos", mean=MEAN, std=STD),
        ImageProcessor((224, 224), "shortest_edge", mean=MEAN, std=STD),
        ImageProcessor((224, 200), "shortest_edge", 256, resample="bilinear"),
        ImageProcessor((224, 224), resize_to=(256, 240), rescale=1.0),
    ],
)
def test_config_round_trip(processor):
    config = json.loads(json.dumps(processor.to_config()))
    assert ImageProcessor.from_config(config) == processor


# As published with these checkpoints.
VIT_GPT2 = {
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ViTFeatureExtractor",
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "size": 224,
}
GIT = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "CLIPImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "processor_class": "GitProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 224},
}
BLIP = {
    **{key: value for key, value in GIT.items() if "crop" not in key},
    "image_processor_type": "BlipImageProcessor",
    "size": {"height": 384, "width": 384},
}


def test_published_configs():
    assert ImageProcessor.from_config(VIT_GPT2) == ImageProcessor((224, 224), resample="bilinear")
    clip = {"mean": tuple(GIT["image_mean"]), "std": tuple(GIT["image_std"])}
    git = ImageProcessor((224, 224), "shortest_edge", 224, **clip)
    assert ImageProcessor.from_config(GIT) == git
    assert ImageProcessor.from_config(BLIP) == ImageProcessor((384, 384), **clip)
    old_clip = {**GIT, "feature_extractor_type": "CLIPFeatureExtractor", "size": 224}
    assert ImageProcessor.from_config({**old_clip, "crop_size": 224}) == git
    nulls = {"do_pad": None, "crop_size": None, "do_center_crop": None, "rescale_factor": None}
    assert ImageProcessor.from_config({**BLIP, **nulls}) == ImageProcessor((384, 384), **clip)
    plain = ImageProcessor.from_config({**BLIP, "do_rescale": False, "do_normalize": False})
    image = noise(384, 384)
    np.testing.assert_array_equal(plain([image])[0], image)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": {"shortest_edge": 800, "longest_edge": 1333}}, "size=.*longest_edge"),
        ({"size": {"longest_edge": 512}}, r"it must be \{height, width\} or \{shortest_edge\}"),
        ({"do_center_crop": False}, "different sizes"),
        ({"do_resize": False}, "do_resize=False"),
        ({"do_pad": True}, "do_pad=True"),
        ({"do_image_splitting": True}, "do_image_splitting=True"),
        ({"crop_pct": 0.875}, "crop_pct=0.875"),
        ({"crop_size": {"height": 256, "width": 256}}, "leaves no 256x256"),
        ({"crop_size": [224, 224]}, r"crop_size=\[224, 224\]"),
        ({"resample": 9}, "resample=9 is no filter"),
        ({"image_mean": 0.5}, "image_mean=0.5 must be three numbers"),
        ({"image_std": None}, "image_std is missing"),
        ({"size": None}, "size is missing"),
    ],
)
def test_configs_that_ask_for_something_else_are_refused(change, message):
    with pytest.raises(ImageError, match=message):
        ImageProcessor.from_config({**GIT, **change})
