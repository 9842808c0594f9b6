"""Frames taken out of videos of several kinds, and of what is none."""

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

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


FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


@pytest.mark.parametrize(("name", "options"), [("a.mp4", FRAGMENTS), ("a.avi", {})])
def test_a_jump_in_the_order_of_decoding_leaves_no_old_frame(
    name: str, options: dict[str, str], tmp_path: Path
) -> None:
    """Where frames are coded in another order, FFmpeg may come out a little behind."""
    path = write_video(
        tmp_path / name,
        [round(index * 250 / 599) for index in range(600)],
        codec="libx264",
        key_frames=20,
        fps=10,
        options=options,
    )
    found = read_video(path, 8)
    wanted = [3.75 + 7.5 * index for index in range(8)]
    assert found.times == pytest.approx(wanted, abs=0.3)
    assert greys(found) == pytest.approx([250 * each / 60 for each in wanted], abs=4)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_frame_may_stay_for_long(name: str, tmp_path: Path) -> None:
    slides = write_video(tmp_path / name, (0, 100, 200), fps=Fraction(1, 10))
    assert read_video(slides, 8).times == (0, 10, 20)
    still = read_video(write_video(tmp_path / f"still-{name}", (80,), fps=Fraction(1, 10)), 8)
    assert still.times == (0,) and still.duration == 10
    # As a recorded screen, on which nothing happens between 2 s and 28 s.
    places = [*range(20), 280]
    record = write_video(tmp_path / f"record-{name}", range(0, 210, 10), fps=10, at=places)
    for count in (1, 4):
        found = read_video(record, count)
        assert found.times[-1] == pytest.approx(1.9, abs=0.01)
        assert greys(found)[-1] == pytest.approx(190, abs=4)


def test_sound_may_be_longer_than_the_pictures(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", range(0, 200, 10), fps=2, sound=16)
    found = read_video(path, 8)
    assert found.duration == pytest.approx(16, abs=0.3) and found.times[-1] == 9.5
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match="damaged or truncated video: its last frame is at"):
        read_video(path, 8)


def test_pictures_that_cannot_be_decoded_are_no_frame_that_stays(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", range(0, 240, 4), key_frames=1)
    whole = bytearray(path.read_bytes())
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.pts is not None and packet.pts * packet.time_base >= 10:
                place = whole.index(bytes(packet))
                whole[place : place + packet.size] = b"\xff" * packet.size
    with pytest.raises(ImageError, match=r"its last frame is at 9\.5 s of 30\.0 s"):
        read_video(bytes(whole), 8)


def test_too_little_memory_is_no_damaged_packet() -> None:
    av = pytest.importorskip("av")

    def decode() -> None:
        raise av.error.MemoryError(12, "Cannot allocate memory")

    container = SimpleNamespace(demux=lambda stream: [SimpleNamespace(decode=decode)])
    stream = SimpleNamespace(start_time=0, time_base=Fraction(1, 10), average_rate=10)
    with pytest.raises(MemoryError):
        next(video_module._decoded(container, stream))


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
    grey, large = Image.new("L", (4, 4)), Image.new("RGB", (6, 4))
    with pytest.raises(ImageError, match="frames of L 4x4: make all of them RGB"):
        Video((grey,), (0.0,), 1.0)
    with pytest.raises(ImageError, match=r"frames of RGB 4x4, RGB 6x4: .* of one size"):
        Video((Image.new("RGB", (4, 4)), large), (0.0, 0.5), 1.0)
