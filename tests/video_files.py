"""Small videos for tests, written by PyAV."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest


def write_video(
    path: Path,
    greys: Sequence[int] = (0, 50, 100, 150, 200, 250),
    *,
    size: tuple[int, int] = (64, 48),
    codec: str = "mpeg4",
    rotation: int = 0,
    key_frames: int = 12,
    fps: int | Fraction = 2,
    at: Sequence[int] = (),
    sound: int = 0,
    options: Mapping[str, str] | None = None,
) -> Path:
    """A video of (width, height), one frame for each shade of grey; its left quarter is white.

    `at` are the places of the frames, in parts of 1 / `fps` seconds, and `sound` the seconds of
    silence that it has. `options` are those of the container.
    """
    av = pytest.importorskip("av")
    width, height = size
    with av.open(str(path), "w", options=dict(options or {})) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.gop_size = key_frames
        if rotation:
            stream.set_display_rotation(rotation)
        silence = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        for index, grey in enumerate(greys):
            picture = np.full((height, width, 3), grey, np.uint8)
            picture[:, : width // 4] = 255
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if at:
                frame.pts, frame.time_base = at[index], 1 / Fraction(fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        for index in range(sound * 8):
            heard = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), "fltp", "mono")
            heard.rate, heard.pts = 8000, index * 1000
            container.mux(silence.encode(heard))
        if silence:
            container.mux(silence.encode())
    return path
