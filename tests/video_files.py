"""Small videos for tests, written by PyAV."""

from collections.abc import Sequence
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
    fps: int = 2,
) -> Path:
    """A video of (width, height), one frame for each shade of grey; its left quarter is white."""
    av = pytest.importorskip("av")
    width, height = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.gop_size = key_frames
        if rotation:
            stream.set_display_rotation(rotation)
        for grey in greys:
            picture = np.full((height, width, 3), grey, np.uint8)
            picture[:, : width // 4] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        container.mux(stream.encode())
    return path
