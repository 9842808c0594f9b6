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


def test_black_is_put_around_what_the_crop_exceeds():
    """One row more above than below, as transformers 5.23's `center_crop` does."""
    processor = ImageProcessor((9, 6), resize_to=(4, 8), mean=(0.0,) * 3, std=(1 / 255,) * 3)
    image = noise(4, 8)
    want = np.zeros((9, 6, 3), np.uint8)
    want[3:7] = image[:, 1:7]
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
    with pytest.raises(ImageError, match=r"^/.*gone\.jpg: no such file$"):
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
        ({"resize_to": (0, 9)}, r"stretch to \(0, 9\)"),
        ({"resize_to": 12}, "stretch to 12"),
        ({"resize": "shortest_edge", "resize_to": 0}, "shortest_edge to 0"),
        ({"resize": "shortest_edge", "resize_to": (12, 12)}, r"one number for shortest_edge"),
        ({"size": (0, 10)}, r"size \(0, 10\)"),
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
        ({"crop_size": [224, 224]}, r"crop_size=\[224, 224\]"),
        ({"resample": 9}, "resample=9 is not a filter of Pillow"),
        ({"image_mean": 0.5}, "image_mean=0.5 must be three numbers"),
        ({"image_processor_type": "BeitImageProcessor", "image_std": None}, "image_std is missing"),
        ({"image_processor_type": None, "size": None}, "size is missing"),
        ({"use_square_size": True}, "use_square_size=True"),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"height": 9, "width": 9}},
            "size=.* with crop_pct",
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": 9, "crop_pct": 0},
            "crop_pct=0 must be 0.01 to 1",
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": 9, "crop_pct": 5e-324},
            "crop_pct=5e-324 must be 0.01 to 1",
        ),
        ({"resample": 2.0}, "resample=2.0 is not a filter of Pillow"),
        ({"resample": [2]}, r"resample=\[2\] is not a filter of Pillow"),
        ({"rescale_factor": {}}, r"rescale_factor=\{\} must be a number"),
        ({"rescale_factor": float("nan")}, "rescale_factor=nan must be a number"),
        ({"image_mean": [0.5, 0.5, 10**400]}, "image_mean=.* must be three numbers"),
        ({"size": {"shortest_edge": "9"}}, "size=.* must have a whole number"),
        ({"crop_size": 10**6}, "give .height, width. in pixels"),
    ],
)
def test_configs_that_ask_for_something_else_are_refused(change, message):
    with pytest.raises(ImageError, match=message):
        ImageProcessor.from_config({**GIT, **change})


def test_what_a_config_leaves_out_is_its_classs():
    """The classes' defaults in transformers 5.23."""
    clip = {"mean": tuple(GIT["image_mean"]), "std": tuple(GIT["image_std"])}
    want = {
        "ViT": ImageProcessor((224, 224), resample="bilinear"),
        "DeiT": ImageProcessor((224, 224), resize_to=(256, 256)),
        "CLIP": ImageProcessor((224, 224), "shortest_edge", 224, **clip),
        "Blip": ImageProcessor((384, 384), **clip),
        "Siglip": ImageProcessor((224, 224)),
        "ConvNext": ImageProcessor((384, 384)),
    }
    for name, processor in want.items():
        for kind in ("ImageProcessor", "ImageProcessorFast"):
            assert ImageProcessor.from_config({"image_processor_type": name + kind}) == processor
        old = {"feature_extractor_type": f"{name}FeatureExtractor", "size": None}
        assert ImageProcessor.from_config(old) == processor


@pytest.mark.parametrize("size", [224, {"shortest_edge": 224}])
def test_resnet_crops_a_part_and_stretches_what_is_large(size):
    # microsoft/resnet-50 as published, and with the newer kind of size.
    resnet = {
        "crop_pct": 0.875,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "ConvNextFeatureExtractor",
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
        "size": size,
    }
    imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    got = ImageProcessor.from_config(resnet)
    assert got == ImageProcessor((224, 224), "shortest_edge", 256, **imagenet)
    large = ImageProcessor.from_config({**resnet, "size": 384})
    assert large == ImageProcessor((384, 384), **imagenet)


def test_load_finds_the_file_that_has_it(tmp_path):
    with pytest.raises(ImageError, match=r"preprocessor_config\.json: no such file, and no proc"):
        ImageProcessor.load(tmp_path)
    blip, git = ImageProcessor.from_config(BLIP), ImageProcessor.from_config(GIT)
    old, new = tmp_path / "preprocessor_config.json", tmp_path / "processor_config.json"
    new.write_text(json.dumps({"processor_class": "BlipProcessor"}))
    with pytest.raises(ImageError, match=r"and no processor_config\.json with an image_processor"):
        ImageProcessor.load(tmp_path)
    old.write_text(json.dumps(GIT))
    assert ImageProcessor.load(tmp_path) == git
    new.write_text(json.dumps({"image_processor": BLIP, "processor_class": "BlipProcessor"}))
    assert ImageProcessor.load(tmp_path) == blip
    for content, fault in (("{", "not JSON"), ("[]", "expected a JSON object, got list")):
        new.write_text(content)
        with pytest.raises(ImageError, match=rf"processor_config\.json: {fault}"):
            ImageProcessor.load(tmp_path)
    new.write_text(json.dumps({"image_processor": {**BLIP, "do_pad": True}}))
    with pytest.raises(ImageError, match=r"processor_config\.json: .*do_pad=True"):
        ImageProcessor.load(tmp_path)
