"""Takes frames out of a video, evenly over its length.

FFmpeg, through PyAV, runs in a worker process (`apart.py`) and sees one file: the demuxer is chosen
here by the first bytes, so that no playlist or list of other files is ever followed.
"""

import dataclasses
import importlib.util
import io
import os
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from PIL import Image

from captax.files import absent, open_regular
from captax.images.apart import Failed, ask_apart
from captax.images.budget import MIB, never, room
from captax.images.decode import ImageError, ImageSource
from captax.images.kinds import HEADER, video_kind
from captax.images.prepared import Group

# How many frames are shown to a model, if neither it nor the user says.
FRAMES = 8
# How long a video may be decoded, and how much memory that may take, its frames included.
VIDEO_SECONDS = 60.0
VIDEO_MEMORY = 1024 * MIB
MAX_FRAMES = 256
# Larger than 8K; a decoder keeps many frames of this size.
_MAX_PIXELS = 8192 * 4320
# A jump to the next key frame costs less than decoding so many seconds.
_SEEK_SECONDS = 4.0
# A video may end earlier than it says by this, as its sound often is longer.
_SLACK_SECONDS, _SLACK_SHARE = 1.0, 0.1
_MOST_REDUCED = 8
# Damaged packets before a video is given up.
_FAULTS = 100


@dataclasses.dataclass(frozen=True, eq=False)
class Video:
    """Frames of a video: upright RGB pictures of one size, the seconds of each and of the whole.

    Raises `ImageError` if the frames or the times are not so.
    """

    frames: tuple[Image.Image, ...]
    times: tuple[float, ...]
    duration: float

    def __post_init__(self) -> None:
        if not self.frames or len(self.frames) != len(self.times):
            raise ImageError(
                f"video of {len(self.frames)} frames and {len(self.times)} times: give one time "
                "for each of one frame or more"
            )
        kinds = sorted({(each.mode, *each.size) for each in self.frames})
        if len(kinds) > 1 or kinds[0][0] != "RGB":
            found = ", ".join(f"{mode} {width}x{height}" for mode, width, height in kinds)
            raise ImageError(f"video with frames of {found}: make all of them RGB and of one size")


# What one caption may be of: a picture, a video, or several pictures that are shown together.
CaptionSource = ImageSource | Video | Group | Sequence[ImageSource]


def read_video(
    source: str | os.PathLike[str] | bytes,
    frames: int,
    *,
    at_least: tuple[int, int] | None = None,
    seconds: float = VIDEO_SECONDS,
    gone: Callable[[], bool] = never,
) -> Video:
    """`frames` frames of a video file: those in the middle of as many equal parts of its length.

    A video that has fewer gives all of them. As in `decode`, frames are halved as long as twice
    `at_least`, the (height, width) that they will be resized to, remains, and `seconds` and `gone`
    end the work.

    Raises `ImageError` if PyAV is not installed, or the file is missing, damaged, not a video, or
    takes too long or too much memory.
    """
    name = f"video of {len(source)} bytes" if isinstance(source, bytes) else os.fspath(source)
    if not 1 <= frames <= MAX_FRAMES:
        raise ImageError(f"{name}: {frames} frames: give 1 to {MAX_FRAMES}")
    if importlib.util.find_spec("av") is None:
        raise ImageError(f"{name}: captax reads videos with PyAV; pip install 'captax[video]'")
    asked: dict[str, Any] = {"frames": frames, "at_least": at_least}
    data = b""
    if isinstance(source, bytes):
        data = source
    else:
        # The worker opens the file itself: only parts of a large one are read.
        asked["path"] = os.path.abspath(source)  # noqa: PTH100 (`resolve` follows links)
    with room(VIDEO_MEMORY, gone):
        try:
            pictures, told = ask_apart(
                "video", data, asked, memory=VIDEO_MEMORY, seconds=seconds, gone=gone
            )
        except Failed as error:
            kind, reason = error.kind, str(error)
        else:
            return Video(tuple(pictures), tuple(told["times"]), told["duration"])
    if kind == "MemoryError":
        reason = (
            f"decoding this video takes more than {VIDEO_MEMORY // MIB:,} MiB; ask for fewer "
            "frames, or save it smaller"
        )
    elif kind == "ended":
        reason += "; save the video again in another format, or a shorter part of it"
    raise ImageError(f"{name}: {reason}")


def frames_in_this_process(
    data: bytes, *, frames: int, at_least: tuple[int, int] | None, path: str | None = None
) -> tuple[list[Image.Image], dict[str, Any]]:
    """`read_video`, however long it takes: frames, with their `times` and the `duration`.

    Errors do not name the file.
    """
    try:
        with io.BytesIO(data) if path is None else open_regular(path) as file:
            kind = video_kind(file.read(HEADER))
            file.seek(0)
            if kind is None:
                raise ImageError("is not a video that captax reads (MP4, MOV, MKV, WebM or AVI)")
            return _frames(file, kind, frames, at_least)
    except FileNotFoundError:
        raise ImageError(absent(str(path))) from None
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from None


def _frames(
    file: IO[bytes], kind: str, count: int, at_least: tuple[int, int] | None
) -> tuple[list[Image.Image], dict[str, Any]]:
    import av  # An extra, which only workers import.

    try:
        return _frames_of(av.open(file, format=kind), count, at_least)
    except av.error.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise
        raise ImageError(f"damaged or truncated video: {error.strerror}") from None


def _frames_of(
    opened: Any, count: int, at_least: tuple[int, int] | None
) -> tuple[list[Image.Image], dict[str, Any]]:
    found: dict[float, Image.Image] = {}
    with opened as container:
        streams = [each for each in container.streams.video if not _is_cover(each)]
        if not streams:
            raise ImageError("holds no video, or was cut off; download it again")
        stream = streams[0]
        if stream.codec_context is None:
            raise ImageError("FFmpeg does not know how its pictures are coded; save it as H.264")
        stream.codec_context.thread_count = min(4, os.cpu_count() or 1)
        stream.codec_context.thread_type = "AUTO"
        _check_size(stream.codec_context.width, stream.codec_context.height)
        begin = float((stream.start_time or 0) * stream.time_base)
        duration = _duration(container, stream, begin)
        shown = None  # the last frame that was decoded
        coming = _decoded(container, stream)
        ahead = next(coming, None)
        for part in range(count):
            target = begin + (part + 0.5) * duration / count
            if ahead is not None and target - ahead.time > _SEEK_SECONDS:
                container.seek(int(target / stream.time_base), stream=stream)
                coming = _decoded(container, stream)
                # FFmpeg goes by the order of decoding, and may come out behind the target.
                before, ahead = ahead, next(coming, None)
                shown = before if ahead is None else None
            while ahead is not None and ahead.time <= target:
                shown, ahead = ahead, next(coming, None)
            # Where nothing is decoded before it, the first frame after it.
            chosen = ahead if shown is None else shown
            if chosen is not None and (time := max(0.0, chosen.time - begin)) not in found:
                found[time] = _upright(chosen, at_least)
        if not found:
            raise ImageError("damaged or truncated video: no frame of it can be decoded")
        last, wanted = begin + max(found), begin + (count - 0.5) * duration / count
        end, slack = begin + duration, max(_SLACK_SECONDS, _SLACK_SHARE * duration)
        if wanted - last > slack and not _is_whole(container, stream, last, wanted, end, slack):
            raise ImageError(
                f"damaged or truncated video: its last frame is at {last - begin:.1f} s of "
                f"{duration:.1f} s"
            )
    times = sorted(found)
    sizes = {found[time].size for time in times}
    if len(sizes) > 1:  # a stream may change its size
        size = found[times[0]].size
        found = {time: image.resize(size) for time, image in found.items()}
    return [found[time] for time in times], {"times": times, "duration": duration}


def _is_cover(stream: Any) -> bool:
    """Whether a stream is only the picture of a sound's cover."""
    return "attached_pic" in stream.disposition.name if stream.disposition else False


def _duration(container: Any, stream: Any, begin: float) -> float:
    """The seconds of a stream; where no header says, its packets do."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration and container.duration > 0:
        return max(0.0, container.duration / 1e6 - max(0.0, begin))
    last = begin
    for packet in container.demux(stream):
        if packet.pts is not None:
            last = max(last, float((packet.pts + (packet.duration or 0)) * stream.time_base))
    container.seek(0)
    return last - begin


def _is_whole(
    container: Any, stream: Any, last: float, wanted: float, end: float, slack: float
) -> bool:
    """Whether nothing is missing: the frame at `last` stays until `wanted`, or sound is longer.

    The packets of a video that was cut off do not reach `end`; those of a damaged one hold pictures
    that were not decoded.
    """
    reached = 0.0
    back = max(float((stream.start_time or 0) * stream.time_base), last - _SEEK_SECONDS)
    container.seek(int(back / stream.time_base), stream=stream)
    # Where the pictures have a duration of their own, sound does not count.
    for packet in container.demux(*[stream] if stream.duration else []):
        moment = packet.dts if packet.pts is None else packet.pts
        if moment is None:
            continue
        start = float(moment * packet.time_base)
        if packet.stream.index == stream.index and last + slack < start <= wanted:
            return False
        reached = max(reached, start + float((packet.duration or 0) * packet.time_base))
    return reached >= end - slack


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """The frames of a stream from where it is, without those that are damaged."""
    import av  # An extra.

    faults, last = 0, float((stream.start_time or 0) * stream.time_base)
    step = 1 / float(stream.average_rate or 25)
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            faults += 1
            if faults > _FAULTS:
                return
            continue
        for frame in frames:
            _check_size(frame.width, frame.height)
            if frame.time is None:  # as in some old files
                frame.time_base = stream.time_base
                frame.pts = round((last + step) / stream.time_base)
            last = frame.time
            yield frame


def _check_size(width: int, height: int) -> None:
    if width * height > _MAX_PIXELS:
        raise ImageError(f"{width}x{height} is more than {_MAX_PIXELS:,} pixels; save it smaller")


def _upright(frame: Any, at_least: tuple[int, int] | None) -> Image.Image:
    image = frame.to_image()
    turned = frame.rotation % 360
    if at_least is not None:
        height, width = at_least if turned % 180 == 0 else at_least[::-1]
        factor = 1
        while 2 * factor <= _MOST_REDUCED and (
            image.height >= 4 * factor * height and image.width >= 4 * factor * width
        ):
            factor *= 2
        image = image.reduce(factor) if factor > 1 else image
    return image.rotate(turned, expand=True) if turned else image
