"""Makes small videos."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SIZE = 64, 48  # width and height


def grey(level, size=SIZE):
    """A picture of one grey level."""
    return np.full((size[1], size[0], 3), level, np.uint8)


def noise(count, size=SIZE, seed=0):
    """Pictures that do not compress, so that a file that is cut has lost some."""
    return np.random.default_rng(seed).integers(0, 256, (count, size[1], size[0], 3), np.uint8)


def write_video(
    path,
    pictures,
    *,
    codec="libx264",
    rate=25,
    pixels="yuv420p",
    times=None,
    ticks=None,
    form=None,
    movflags=None,
    options=None,
):
    """Encode RGB pictures.

    `times` are the timestamps, in units of 1 / `ticks` of a second (1 / `rate` when not given); `options` are those of
    the codec.
    """
    base = Fraction(1, ticks) if ticks else 1 / Fraction(rate)
    with av.open(str(path), "w", format=form, options={"movflags": movflags} if movflags else {}) as container:
        stream = container.add_stream(codec, rate=Fraction(rate), options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.codec_context.time_base = pixels, base
        if codec == "libx265":
            stream.codec_context.options = {"x265-params": "log-level=none"}
        for k, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = times[k] if times else k, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound(path, form=None):
    """A second of silence."""
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return path


def turn(path, matrix):
    """Replace the display matrix of an .mp4 file, which says how a player turns it: a, b, c and d, each -1, 0 or 1."""

    def packed(a, b, c, d):
        return struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)

    content = Path(path).read_bytes()
    place = content.index(packed(1, 0, 0, 1), content.index(b"tkhd"))
    path.write_bytes(content[:place] + packed(*matrix) + content[place + 36 :])


def cut(path, share):
    """Cut the end of a file off."""
    content = Path(path).read_bytes()
    path.write_bytes(content[: int(share * len(content))])
