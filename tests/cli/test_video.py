"""`captax caption clip.mp4`: videos among pictures, with a small GIT that reads three frames."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import captax
from captax.errors import OptionError
from captax.images import ImageError, Video
from video_files import write_video


@pytest.fixture
def git(checkpoint: Callable[[str], Path]) -> Path:
    return checkpoint("git-video")


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder with two pictures, two videos, and one that is broken."""
    folder = tmp_path / "album"
    (folder / "clips").mkdir(parents=True)
    noise = np.random.default_rng(0)
    for name in ("a.png", "c.png"):
        Image.fromarray(noise.integers(0, 256, (40, 30, 3), np.uint8)).save(folder / name)
    write_video(folder / "b.mp4")
    write_video(folder / "clips" / "d.mkv", (200, 0, 100, 30))
    (folder / "clips" / "e.webm").write_bytes(b"\x1a\x45\xdf\xa3 nothing more")
    return folder


def test_videos_are_captioned_among_pictures(
    git: Path, album: Path, run: Callable[..., object], tmp_path: Path
) -> None:
    out = tmp_path / "captions.jsonl"
    done = run("caption", album, "--model", git, "--out", out, "--sheet", tmp_path / "sheet.html")
    assert done.code == 1 and "e.webm: damaged or truncated video" in done.err
    records = [json.loads(line) for line in out.read_text().splitlines()]
    names = ["a.png", "b.mp4", "c.png", "clips/d.mkv", "clips/e.webm"]
    assert [each["path"] for each in records] == [str(album / name) for name in names]
    sheet = (tmp_path / "sheet.html").read_text()
    assert sheet.count("data:image/jpeg") == 4
    captioner = captax.load(git)
    assert captioner.frames == 3
    for record, name in zip(records[:4], names, strict=False):
        [alone] = captioner.caption(album / name)
        assert record["caption"] == alone.text
        assert record["score"] == pytest.approx(alone.score, abs=1e-5)
    [other] = captioner.caption(album / "b.mp4", seed=0)
    frames = captax.images.read_video(album / "b.mp4", 3, at_least=(32, 32))
    assert captioner.caption(frames)[0] == other
    first = Video(frames.frames[:1], frames.times[:1], 3.0)
    assert captioner.caption([first, frames])[0].score != pytest.approx(other.score, abs=1e-5)
    assert captioner.score([album / "b.mp4", album / "a.png"], [other, "red"])[0] == pytest.approx(
        other.score, abs=1e-4
    )


def test_a_number_of_frames_is_part_of_a_job(
    git: Path, album: Path, run: Callable[..., object], tmp_path: Path
) -> None:
    said = ("caption", album / "b.mp4", "--model", git, "--out", tmp_path / "c.jsonl")
    assert run(*said, "--frames", 2).code == 0
    other = run(*said, "--frames", 3)
    assert other.code == 2 and "frames" in other.err
    with pytest.raises(OptionError, match="`frames` is 4, and this model reads 1 to 3"):
        captax.load(git, frames=4)


def test_a_model_of_pictures_leaves_videos_out_and_says_so(
    model: Path, album: Path, run: Callable[..., object], tmp_path: Path
) -> None:
    done = run("caption", album, "--model", model, "--out", tmp_path / "c.jsonl")
    assert done.code == 0
    assert "3 files skipped: 1 .mkv, 1 .mp4, 1 .webm" in done.err
    named = run("caption", album / "b.mp4", "--model", model)
    assert named.code == 1
    assert "b.mp4: is a video or a sound, and this model reads pictures alone" in named.err
    assert "git-base-vatex" in named.err
    with pytest.raises(OptionError, match="`frames` is for models that read videos"):
        captax.load(model, frames=2)
    captioner = captax.load(model)
    with pytest.raises(ImageError, match="2 pictures together: this model reads single pictures"):
        captioner.caption([[album / "a.png", album / "c.png"]])


def test_sidecars_lie_beside_videos_and_are_not_counted(
    git: Path, album: Path, run: Callable[..., object]
) -> None:
    (album / "clips" / "e.webm").unlink()
    done = run("caption", album, "--model", git, "--format", "sidecar")
    assert done.code == 0 and (album / "b.txt").read_text().strip()
    again = run("caption", album, "--model", git, "--format", "sidecar")
    assert "skipped: 4" in again.err or "files skipped" not in again.err


def test_a_picture_goes_before_a_video_of_its_name(
    git: Path, tmp_path: Path, run: Callable[..., object]
) -> None:
    folder = tmp_path / "live"
    folder.mkdir()
    for name in ("x", "y"):
        Image.new("RGB", (40, 30), "red").save(folder / f"{name}.PNG")
    write_video(folder / "x.mov")  # which comes before x.PNG by name or not
    done = run("caption", folder, "--model", git, "--format", "sidecar")
    assert done.code == 1 and "x.PNG, of the same name, gets x.txt; rename one" in done.err
    assert {each.name for each in folder.glob("*.txt")} == {"x.txt", "y.txt"}
    again = run("caption", folder, "--model", git, "--format", "sidecar", "--frames", 0)
    assert "x.mov" not in again.err
    done = run("caption", folder / "x.mov", "--model", git, "--frames", 0)
    assert done.code == 1 and "is a video" in done.err


def test_too_many_frames_cost_one_record(
    checkpoint: Callable[[str], Path], album: Path, tmp_path: Path, run: Callable[..., object]
) -> None:
    write_video(album / "long.mp4", tuple(range(0, 240, 2)))
    out = tmp_path / "captions.jsonl"
    done = run(
        *("caption", album / "a.png", album / "long.mp4", album / "c.png"),
        *("--model", checkpoint("smolvlm"), "--prompt", "look", "--frames", 100, "--out", out),
        *("--max-new-tokens", 3, "--no-image-splitting"),
    )
    assert done.code == 1 and "show fewer --frames" in done.err
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert ["error" in each for each in records] == [False, True, False]
