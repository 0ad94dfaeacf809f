"""The frames of a video at a constant rate, 340 x 256, as I3D features are made of them.

Frame k of the output is the frame that is shown at k / fps seconds, counted from the first frame's timestamp. A frame
is shown until the next one's timestamp, and the last for its own duration. So the rate of the video may vary. Where
timestamps are rounded, as to milliseconds in .mkv files, they count half a unit early.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from prepare.video_packages import require_video_packages
from utils import InputError, error_text, ran_out, short_repr

WIDTH, HEIGHT = 340, 256
_ROUNDED = 0.001  # seconds: a longer unit of time is that of the frames, and exact
_INEXACT = 1e-5  # seconds, of sums of floating point numbers
_BACK = 0.5  # seconds that a timestamp may go back without being a new beginning
_GAP, _GAP_OF_BROADCASTS = 3600.0, 10.0  # seconds from one frame to the next; more is a jump of the clock
_UNSPECIFIED = 2  # FFmpeg's number for colours of which nothing is said
_MISSING = 0.02, 0.5  # share and seconds of the stated length that may be missing


class VideoFile:
    """A video that FFmpeg reads.

    Args:
        path: of the file.
        fps: frames per second to show it at.

    Attributes:
        seconds: of the frames so far; the video's length when there are no more.
        stated_seconds: its length according to the file, once the first frame was read; None if it does not say.
        damage: what is damaged, when there are no more frames; None if nothing is.
        is_plain: whether all frames so far are of one colour each.
    """

    def __init__(self, path: Path, fps: float = 25.0) -> None:
        self.path, self.fps = path, fps
        self.seconds, self.is_plain = 0.0, True
        self.stated_seconds: float | None = None
        self.damage: str | None = None
        self._late = 0.0  # seconds that rounding may add to a timestamp
        self._colours: str | None = None  # what is odd about them

    def frames(self) -> Iterator[np.ndarray]:
        """Decode the video: uint8 RGB `[256, 340, 3]`, one frame after another; a frame that lasts comes repeatedly.

        Memory does not depend on the length. A damaged video is read as far as it goes, see `damage`.

        Raises:
            InputError: nothing of it can be read; the message says why.
        """
        scale = _Scaler()
        number, picture = 0, None
        shown: Any = None
        for time, frame in self._timed_frames():
            while number / self.fps + self._late < time:
                if picture is None:
                    picture = self._picture(shown, scale)
                    self.is_plain = self.is_plain and _is_plain(picture)
                number += 1
                self.seconds = number / self.fps
                yield picture
            shown, picture = frame, None

    def _picture(self, frame: Any, scale: _Scaler) -> np.ndarray:
        import av

        with suppress(av.FFmpegError):
            return scale(frame)
        space, frame.colorspace = int(frame.colorspace), _UNSPECIFIED
        try:
            picture = scale(frame)
            self._colours = f"colours that FFmpeg cannot convert (colour space {space}), taken for usual ones"
            return picture
        except av.FFmpegError as error:
            if ran_out(error):
                raise
            what = f"frames of {frame.width} x {frame.height} in {frame.format.name} cannot be scaled"
            raise InputError(f"{self.path}: {what} ({_reason(error)}); convert it, for example to H.264") from None

    def _timed_frames(self) -> Iterator[tuple[float, Any]]:
        """The decoded frames, each with the seconds from the first one to it; last, the end and None."""
        with opened_video(self.path) as container:
            stream = video_stream(container, self.path)
            stream.codec_context.thread_count = 1  # several may conceal damage otherwise each time
            self.stated_seconds = _stated_seconds(container, stream)
            discontinuous = container.format.flags & 0x0200  # AVFMT_TS_DISCONT
            self._late = max(_INEXACT, float(stream.time_base / 2) if stream.time_base <= _ROUNDED else 0.0)
            clock = _Clock(_usual_step(stream), _GAP_OF_BROADCASTS if discontinuous else _GAP)
            stamps, decoding = _Stamps(float(stream.time_base), container.format.name), _Decoding(container, stream)
            for frame in decoding.frames():
                yield clock.time_of(stamps.of(frame), float((frame.duration or 0) * stream.time_base)), frame
            if clock.end is None:
                cause = f" ({decoding.cause})" if decoding.cause else ""
                raise InputError(f"{self.path}: no frame can be decoded{cause}; get the video again")
            yield clock.end, None
        times = clock.damage or self._missing(clock.end)
        self.damage = "; ".join(filter(None, (decoding.damage, times, self._colours))) or None

    def _missing(self, end: float) -> str | None:
        stated, (share, seconds) = self.stated_seconds, _MISSING
        if stated is None or end >= stated - max(share * stated, seconds):
            return None
        return f"ends after {end:.1f} of {stated:.1f} s"


class _Decoding:
    """Decodes a stream, past what is damaged."""

    def __init__(self, container: Any, stream: Any) -> None:
        self._container, self._stream = container, stream
        self._errors = self._corrupt = 0
        self._stopped = False
        self.cause = ""  # the first error

    @property
    def damage(self) -> str | None:
        """What is damaged; None if nothing is."""
        parts = [f"packets that cannot be decoded: {self._errors}"] if self._errors else []
        parts += [f"damaged frames: {self._corrupt}"] if self._corrupt else []
        parts += [f"cannot be read to its end ({self.cause})"] if self._stopped else []
        return ", ".join(parts) or None

    def frames(self) -> Iterator[Any]:
        """The frames, in the order in which they are shown."""
        packets = self._container.demux(self._stream)
        while True:
            packet = self._tried(lambda: next(packets, None))
            self._stopped = packet is _FAILED
            for frame in self._decoded(None if self._stopped else packet) if packet is not None else ():
                self._corrupt += bool(frame.is_corrupt)
                yield frame
            if packet is None or self._stopped:
                return

    def _decoded(self, packet: Any) -> list[Any]:
        """The frames that a packet completes; those that are left for None."""
        frames = self._tried(lambda: self._stream.codec_context.decode(packet))
        if frames is _FAILED:
            self._errors += 1
            return []
        return frames

    def _tried(self, call: Any) -> Any:
        import av

        try:
            return call()
        except av.FFmpegError as error:
            if ran_out(error):
                raise
            self.cause = self.cause or _reason(error)
            return _FAILED


_FAILED = object()


class _Stamps:
    """Timestamps of frames, in seconds by the file's own clock.

    Decoders give frames in the order in which they are shown. So where the times at which they are shown do not rise,
    but those at which they are decoded do, the former are wrong, and the latter count, as in FFmpeg's own program.
    Files such as .avi hold only the latter, from which FFmpeg guesses the former.

    Args:
        unit: of the timestamps, in seconds.
        form: of the file, FFmpeg's name for it.
    """

    def __init__(self, unit: float, form: str) -> None:
        self._unit = unit
        self._last: list[int | None] = [None, None]  # when shown, when decoded
        self._wrong = [int(form == "avi"), 0]

    def of(self, frame: Any) -> float | None:
        """When the next frame is shown; None if that is unknown."""
        stamps = [frame.pts, frame.dts]
        for i, (stamp, last) in enumerate(zip(stamps, self._last, strict=True)):
            if stamp is not None:
                self._wrong[i] += last is not None and stamp <= last
                self._last[i] = stamp
        by_decoding = self._last[1] is not None and self._wrong[0] > self._wrong[1]
        stamp = stamps[1] if by_decoding or stamps[0] is None else stamps[0]
        seconds = None if stamp is None else stamp * self._unit
        return seconds if seconds is not None and math.isfinite(seconds) else None


class _Clock:
    """Times of frames, counted from the first, from timestamps that may be missing, go back or jump.

    Args:
        usual: seconds from one frame to the next, where timestamps do not say.
        longest: seconds that a frame may be shown; a longer time is a jump of the timestamps.
    """

    def __init__(self, usual: float, longest: float) -> None:
        self._usual, self._longest = usual, longest
        self._time: float | None = None
        self._stamp: float | None = None
        self._jumps = 0
        self.end: float | None = None  # of what was shown; None before the first frame

    @property
    def damage(self) -> str | None:
        """What is wrong with the timestamps; None if nothing is."""
        return f"jumps of the timestamps, joined: {self._jumps}" if self._jumps else None

    def time_of(self, stamp: float | None, duration: float) -> float:
        """The time of the next frame, in seconds.

        Args:
            stamp: its timestamp, in seconds; None if it has none.
            duration: in seconds; 0 if unknown.
        """
        step = None if stamp is None or self._stamp is None else stamp - self._stamp
        if self._time is None:
            self._time, self._stamp = 0.0, stamp
        elif step is None:  # the first timestamp, or none
            self._time += self._usual
            self._stamp = stamp if self._stamp is None else self._stamp + self._usual
        elif -_BACK <= step <= self._longest:
            self._time += max(0.0, step)
            self._stamp = stamp if step > 0 else self._stamp
        else:
            self._time, self._stamp, self._jumps = self._time + self._usual, stamp, self._jumps + 1
        self.end = self._time + (duration if 0 < duration <= self._longest else self._usual)
        return self._time


class _Scaler:
    """Decoded frames to RGB of 340 x 256, upright. The ratio of the sides is not kept (SPEC section 15)."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()

    def __call__(self, frame: Any) -> np.ndarray:
        (a, b), (c, d) = _orientation(frame)
        lies = abs(a) + abs(d) < abs(b) + abs(c)
        width, height = (HEIGHT, WIDTH) if lies else (WIDTH, HEIGHT)
        scaled = self._reformatter.reformat(frame, width, height, "rgb24", interpolation="BICUBIC", threads=1)
        picture = scaled.to_ndarray()
        if lies:  # x' = c y, y' = b x
            picture, a, d = picture.transpose(1, 0, 2), c, b
        return np.ascontiguousarray(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _is_plain(picture: np.ndarray) -> bool:
    """Whether a picture is of one colour; along the rows first, which is 30 times as fast as along both."""
    return bool((picture.max(0).max(0).astype(int) - picture.min(0).min(0) <= 8).all())


def _orientation(frame: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """The display matrix: (x, y) of the stored frame is shown at (a x + c y, b x + d y), but for where it begins."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return (1, 0), (0, 1)
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).tolist()
    return (a, b), (c, d)


# ------------------------------------------------------------------------------------------------- opening


def opened_video(path: Path) -> Any:
    """Open a file with FFmpeg; a context manager that closes it.

    Raises:
        InputError: it is no file that FFmpeg can read; the message says what it is instead.
    """
    require_video_packages()
    import av

    _require_file(path)
    try:  # an absolute path is never taken for a protocol; a playlist may name files only
        return av.open(str(path.absolute()), options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (av.FFmpegError, UnicodeError) as error:
        if ran_out(error):
            raise
        raise InputError(f"{path}: not a video that FFmpeg can read ({_what_it_is(path) or _reason(error)})") from None


def _require_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            raise InputError(f"{path}: {'a folder' if stat.S_ISDIR(mode) else 'no ordinary file'}, not a video")
        with open(path, "rb") as file:
            is_empty = not file.read(1)
    except FileNotFoundError:
        what = f"a link to {path.readlink()}, which does not exist" if path.is_symlink() else "no such file"
        raise InputError(f"{path}: {what}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if is_empty:
        raise InputError(f"{path}: an empty file; get the video again")


def _what_it_is(path: Path) -> str | None:
    """What a file is that FFmpeg cannot open; None if nothing is known of it."""
    with open(path, "rb") as file:
        start = file.read(1000)
    if start[4:8] in (b"ftyp", b"mdat", b"wide", b"free"):
        return "its index, which is written last, is missing: the recording or download was cut off; get it again"
    with suppress(UnicodeDecodeError):
        if line := start[:900].decode("ascii").strip().partition("\n")[0]:
            return f"it is text that begins with {short_repr(line)}"
    return None


def video_stream(container: Any, path: Path) -> Any:
    """The video stream of an open file.

    Raises:
        InputError: it has none, is a picture, or its codec is unknown.
    """
    from av.stream import Disposition

    kinds = sorted({stream.type for stream in container.streams})
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    name = container.format.name
    if name in ("image2", "tty") or name.endswith("_pipe"):  # FFmpeg draws text as a terminal does
        raise InputError(f"{path}: {'text' if name == 'tty' else 'a picture'}, not a video")
    if not streams:
        raise InputError(f"{path}: has no video stream ({', '.join(kinds) or 'no stream at all'})")
    if streams[0].codec_context is None:
        raise InputError(f"{path}: its codec is unknown to FFmpeg; convert it, for example to H.264")
    best = container.streams.best("video")  # the first may be a preview, or a picture that is not marked as one
    return best if best in streams else streams[0]


def _stated_seconds(container: Any, stream: Any) -> float | None:
    """How long a video is, as its file says."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration is None or len(container.streams) > 1:  # sound may be longer
        return None
    return (container.duration - max(0, container.start_time or 0)) / 1e6


def _usual_step(stream: Any) -> float:
    """Seconds from one frame to the next, as the file says; a 25th if it does not."""
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and 1e-3 <= rate <= 1e3:
            return float(1 / rate)
    return 1 / 25


def _reason(error: BaseException) -> str:
    """What FFmpeg says, without its number and the path."""
    return error_text(getattr(error, "strerror", None) or str(error))
