"""Frames taken out of videos of several kinds, and of what is none."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captax.images import ImageError, IsVideo, Video, decode, names_video, read_video
from captax.images import video as video_module
from captax.images.kinds import video_kind
from video_files import write_video


def greys(found: Video) -> list[int]:
    """The shades of the frames, without their white quarter."""
    return [round(float(np.asarray(each)[:, each.width // 2 :].mean())) for each in found.frames]


KINDS = {
    "a.mp4": "libx264",
    "a.mov": "mpeg4",
    "a.mkv": "mpeg4",
    "a.webm": "libvpx-vp9",
    "a.avi": "mpeg4",
}


@pytest.mark.parametrize("name", KINDS)
def test_frames_lie_in_the_middle_of_equal_parts(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, codec=KINDS[name])
    found = read_video(path, 3)
    assert found.duration == pytest.approx(3, abs=0.2)
    assert found.times == pytest.approx((0.5, 1.5, 2.5), abs=0.1)
    assert greys(found) == pytest.approx([50, 150, 250], abs=4)
    assert found.frames[0].size == (64, 48) and found.frames[0].mode == "RGB"
    again = read_video(path.read_bytes(), 3)
    assert again.times == found.times and greys(again) == greys(found)
    with pytest.raises(IsVideo, match="is a video or a sound"):
        decode(path)
    assert names_video(path)


def test_a_short_video_gives_each_frame_once(tmp_path: Path) -> None:
    found = read_video(write_video(tmp_path / "a.mp4", (0, 200)), 8)
    assert len(found.frames) == 2 and greys(found) == pytest.approx([0, 200], abs=4)
    one = read_video(write_video(tmp_path / "b.mp4", (80,)), 8)
    assert one.times == (0,)


def test_frames_are_found_after_jumps_too(tmp_path: Path) -> None:
    """As they are without: the same frames, from a video of key frames that lie far apart."""
    shades = [index * 2 for index in range(120)]
    path = write_video(tmp_path / "a.mp4", shades, key_frames=50, codec="libx264")  # of 60 s
    found = read_video(path, 4)
    assert found.times == (7.5, 22.5, 37.5, 52.5)
    assert greys(found) == pytest.approx([30, 90, 150, 210], abs=3)


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_frames_are_upright(rotation: int, tmp_path: Path) -> None:
    """FFmpeg's rotation is counter-clockwise, as Pillow's is."""
    found = read_video(write_video(tmp_path / "a.mp4", (0,), rotation=rotation), 1).frames[0]
    flat = Image.new("L", (64, 48))
    flat.paste(255, (0, 0, 16, 48))
    want = np.asarray(flat.rotate(rotation, expand=True))
    assert found.size == (64, 48) if rotation % 180 == 0 else (48, 64)
    assert np.abs(np.asarray(found.convert("L")).astype(int) - want).mean() < 6


def test_large_frames_are_halved_while_twice_the_size_remains(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", (9,), size=(640, 320))
    for at_least, size in (((80, 80), (320, 160)), ((81, 10), (640, 320)), ((1, 1), (80, 40))):
        assert read_video(path, 1, at_least=at_least).frames[0].size == size


def test_what_is_no_whole_video_is_refused(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mkv", range(0, 200, 4)).read_bytes()
    with pytest.raises(ImageError, match="damaged or truncated video: its last frame is at"):
        read_video(whole[: len(whole) // 2], 3)
    mp4 = write_video(tmp_path / "a.mp4").read_bytes()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(mp4[: len(mp4) // 2])
    with pytest.raises(ImageError, match=r"broken\.mp4: (damaged or trunc|holds no video)"):
        read_video(broken, 3)
    with pytest.raises(ImageError, match=r"none\.mp4: no such file"):
        read_video(tmp_path / "none.mp4", 3)
    with pytest.raises(ImageError, match="give 1 to 256"):
        read_video(mp4, 0)


def test_a_list_of_other_files_is_never_followed(tmp_path: Path) -> None:
    """FFmpeg would open what a playlist names, whatever the playlist is called."""
    write_video(tmp_path / "secret.mp4")
    for text in ("#EXTM3U\n#EXTINF:1,\nsecret.mp4\n", "ffconcat version 1.0\nfile secret.mp4\n"):
        path = tmp_path / "list.mp4"
        path.write_text(text)
        assert video_kind(text.encode()) is None
        with pytest.raises(ImageError, match="is not a video that captax reads"):
            read_video(path, 1)


def test_a_video_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", range(100), size=(640, 480))
    with pytest.raises(ImageError, match=r"took more than 0\.01 s; save the video again"):
        read_video(path, 50, seconds=0.01)


def test_what_to_install_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match=r"a\.mp4: .* with PyAV; pip install 'captax\[video\]'"):
        read_video(tmp_path / "a.mp4", 1)


def test_frames_of_ones_own_have_times() -> None:
    with pytest.raises(ImageError, match="give one time for each"):
        Video((Image.new("RGB", (4, 4)),), (), 1.0)
