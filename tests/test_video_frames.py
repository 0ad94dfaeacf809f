"""Frames of videos: which frame is shown when, upright, scaled; and what files that are none, or damaged, say."""

import os
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("cv2")
pytest.importorskip("PIL")

import av
from PIL import Image
from videos import cut, grey, noise, turn, write_sound, write_video

from prepare import video_packages
from prepare.video_frames import VideoFile
from utils import InputError

LEVELS = [6 * k for k in range(40)]
GREYS = [grey(level) for level in LEVELS]


def shown(path, fps=25.0):
    """The numbers of the frames of a video of `GREYS`, as they come."""
    video = VideoFile(path, fps)
    numbers = [round(frame.mean() / 6) for frame in video.frames()]
    assert video.seconds == pytest.approx(len(numbers) / fps)
    return numbers, video


def at(times, end, fps=25.0):
    """The last frame that has begun at each time k / fps before the end; times in milliseconds."""
    counts = (k for k in range(1000) if k < end * fps / 1000 - 1e-9)
    return [max(i for i, time in enumerate(times) if time <= 1000 * k / fps + 1e-9) for k in counts]


# ------------------------------------------------------------------------------------------------- rates


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("x264.mp4", {}),
        ("x264.mkv", {}),
        ("x264.ts", {}),
        ("x264.flv", {}),
        ("raw.h264", {"form": "h264"}),  # without timestamps
        ("mpeg2.mpg", {"codec": "mpeg2video"}),
        ("mpeg4.avi", {"codec": "mpeg4"}),
        ("vp9.webm", {"codec": "libvpx-vp9"}),
        ("ten bit.mkv", {"codec": "libx265", "pixels": "yuv420p10le"}),
        ("grey.mkv", {"codec": "ffv1", "pixels": "gray"}),
        ("alpha.mkv", {"codec": "ffv1", "pixels": "bgra"}),
    ],
)
def test_every_frame_of_25_a_second_comes_once(tmp_path, name, more):
    numbers, video = shown(write_video(tmp_path / name, GREYS, **more))
    off = 1 if more.get("codec") in ("mpeg2video", "mpeg4") else 0  # they lose more than half a level of six
    assert np.abs(np.subtract(numbers, range(40))).max() <= off
    assert video.damage is None


@pytest.mark.parametrize("rate", ["60", "30000/1001", "12.5", "24", "10", "50"])
@pytest.mark.parametrize("ending", [".mp4", ".mkv"])  # exact timestamps, and whole milliseconds
def test_a_frame_is_the_one_that_is_shown_then(tmp_path, rate, ending):
    numerator, _, denominator = rate.partition("/")
    fps = float(numerator) / float(denominator or 1)
    numbers, _ = shown(write_video(tmp_path / f"x{ending}", GREYS, rate=rate))
    times = [1000 * k / fps for k in range(40)]
    if ending == ".mkv":  # they are rounded, and count half a unit early
        times = [round(time) - 0.5 for time in times]
    assert numbers == at(times, 40_000 / fps)


@pytest.mark.parametrize(("rate", "count"), [("30000/1001", 40), ("24", 2), ("24", 5), ("60", 40)])
def test_a_video_at_its_own_rate_keeps_all_frames(tmp_path, rate, count):
    """Its timestamps are rounded to milliseconds, so a frame may begin a little after its time."""
    numbers, _ = shown(write_video(tmp_path / "x.mkv", GREYS[:count], rate=rate), fps=float(Fraction(rate)))
    assert numbers == [*range(count)]


def test_rates_may_vary(tmp_path):
    """The times of the frames decide, not how many there are."""
    times = [0, 10, 20, 30, 198, 238, 278, 318, 323, 324, 325, 500, 998, 1010]
    path = write_video(tmp_path / "x.mkv", GREYS[: len(times)], times=times, ticks=1000)
    numbers, video = shown(path)
    assert numbers == at(times, 1050)  # the last frame lasts for a 25th of a second
    assert video.seconds == pytest.approx(1.08)


def test_times_count_from_the_first_frame(tmp_path):
    for ending in (".mkv", ".ts", ".mp4"):
        numbers, video = shown(write_video(tmp_path / f"x{ending}", GREYS, times=[250 + k for k in range(40)]))
        assert numbers == [*range(40)] and video.damage is None


def test_a_gap_is_filled_with_the_frame_before_it(tmp_path):
    path = write_video(tmp_path / "x.mkv", GREYS, times=[k + 25 * (k >= 20) for k in range(40)])
    assert shown(path)[0] == [*range(20), *[19] * 25, *range(20, 40)]


@pytest.mark.parametrize("bframes", ["3", "8"])
def test_frames_come_in_order_where_files_do_not_say_when_they_are_shown(tmp_path, bframes):
    """An .avi file says when frames are decoded, and FFmpeg's guess of the rest is wrong for H.264."""
    path = write_video(tmp_path / "x.avi", GREYS, options={"bf": bframes})
    assert shown(path)[0] == [*range(40)]
    mkv = tmp_path / "x.mkv"  # as programs write it that make one of an .avi file: the first frames come by the guess
    with av.open(path) as source, av.open(mkv, "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream, packet.pts = stream, packet.dts
                target.mux(packet)
    assert shown(mkv)[0][4:] == [*range(4, 40)]


def test_long_sums_of_times_lose_no_frame(tmp_path):
    numbers = [k % 40 for k in range(300)]
    path = write_video(tmp_path / "x.avi", [GREYS[number] for number in numbers], codec="ffv1", pixels="bgr0")
    assert shown(path)[0] == numbers


@pytest.mark.parametrize("second", ["again", "later"])
def test_a_clock_that_jumps_goes_on(tmp_path, second):
    """Recordings of broadcasts that were joined: the second begins at 0 again, or minutes later."""
    first = write_video(tmp_path / "first.ts", GREYS[:20])
    start = 0 if second == "again" else 25 * 600
    then = write_video(tmp_path / "then.ts", GREYS[20:], times=[start + k for k in range(20)])
    both = tmp_path / "both.ts"
    both.write_bytes(first.read_bytes() + then.read_bytes())
    numbers, video = shown(both)
    assert numbers == [*range(40)] and "timestamps" in video.damage


# ------------------------------------------------------------------------------------------------- pictures


def quarters():
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32], picture[24:, 32:] = (
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        255,
    )
    return picture


def colours(frame):
    names = {(1, 0, 0): "R", (0, 1, 0): "G", (0, 0, 1): "B", (1, 1, 1): "W"}
    assert frame.shape == (256, 340, 3) and frame.dtype == np.uint8 and frame.flags.c_contiguous
    return "".join(names[tuple((frame[y, x] > 128).astype(int))] for y in (64, 192) for x in (85, 255))


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), "RGBW"),
        ((0, 1, -1, 0), "BRWG"),  # a quarter clockwise, as phones that are held upright write it
        ((-1, 0, 0, -1), "WBGR"),
        ((0, -1, 1, 0), "GWRB"),
        ((-1, 0, 0, 1), "GRWB"),  # mirrored
        ((0, 1, 1, 0), "RBGW"),
    ],
)
def test_videos_are_turned_as_players_turn_them(tmp_path, matrix, expected):
    path = write_video(tmp_path / "x.mp4", [quarters()] * 3, pixels="yuv444p")
    turn(path, matrix)
    assert {colours(frame) for frame in VideoFile(path).frames()} == {expected}


@pytest.mark.parametrize("size", [(33, 51), (2, 2), (2, 301), (1280, 16), (340, 256)])
def test_any_size_is_scaled(tmp_path, size):
    path = write_video(tmp_path / "x.mkv", [grey(120, size)] * 3, codec="ffv1", pixels="bgr0")
    for frame in VideoFile(path).frames():
        assert frame.shape == (256, 340, 3) and np.abs(frame.astype(int) - 120).max() <= 1


def test_colours_that_cannot_be_converted_are_taken_for_usual_ones(tmp_path):
    numbers, video = shown(write_video(tmp_path / "x.mp4", GREYS, options={"x264-params": "colormatrix=bt2020c"}))
    assert numbers == [*range(40)] and "colour space 10" in video.damage


def test_the_video_is_found_behind_a_picture(tmp_path):
    """Some files begin with a picture of what they hold that is not marked as one."""
    video = write_video(tmp_path / "video.mp4", GREYS)
    picture = write_video(tmp_path / "picture.mp4", [grey(200)])
    with av.open(picture) as first, av.open(video) as second, av.open(tmp_path / "x.mkv", "w") as target:
        streams = [target.add_stream_from_template(source.streams.video[0]) for source in (first, second)]
        for source, stream in zip((first, second), streams, strict=True):
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
    assert shown(tmp_path / "x.mkv")[0] == [*range(40)]


def test_plain_videos_are_known(tmp_path):
    for name, pictures, plain in (("a", GREYS, True), ("b", [*GREYS, quarters()], False)):
        video = VideoFile(write_video(tmp_path / f"{name}.mp4", pictures))
        assert sum(1 for _ in video.frames()) == len(pictures) and video.is_plain == plain


def test_the_same_video_gives_the_same_frames(tmp_path):
    path = write_video(tmp_path / "x.mp4", noise(20))
    video = VideoFile(path)
    first, second = ([frame.copy() for frame in video.frames()] for _ in range(2))
    assert np.array_equal(first, second) and video.seconds == 0.8


# ------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(("name", "more"), [("x.mkv", {}), ("x.mp4", {"movflags": "faststart"})])
def test_a_video_that_was_cut_off_is_used_as_far_as_it_goes(tmp_path, name, more):
    pictures = noise(60)
    path = write_video(tmp_path / name, pictures, **more)
    whole = [*VideoFile(path).frames()]
    cut(path, 0.6)
    video = VideoFile(path)
    frames = [*video.frames()]
    assert 25 <= len(frames) < 45
    assert np.array_equal(frames[:20], whole[:20])
    assert f"{video.seconds:.1f} of 2.4 s" in video.damage


def test_what_is_damaged_in_the_middle_is_passed(tmp_path):
    path = write_video(tmp_path / "x.ts", noise(60), codec="mpeg2video")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = bytes(4000)
    path.write_bytes(content)
    video = VideoFile(path)
    assert sum(1 for _ in video.frames()) >= 55 and "damaged" in video.damage


def picture_file(path):
    Image.new("RGB", (64, 48)).save(path, "jpeg")


def song_with_cover(path):
    """An mp3 file whose cover is, to FFmpeg, a video of one frame."""
    cover = path.with_suffix(".jpg")
    picture_file(cover)
    image = cover.read_bytes()
    frame = b"APIC" + (len(image) + 14).to_bytes(4, "big") + b"\0\0" + b"\0image/jpeg\0\x03\0" + image
    size = len(frame)
    tag = b"ID3\x03\0\0" + bytes((size >> shift) & 127 for shift in (21, 14, 7, 0)) + frame
    path.write_bytes(tag + (b"\xff\xfb\x90\x64" + bytes(413)) * 40)


BAD = {
    "text": (lambda path: path.write_text("<html>404 not found</html>\n"), "text .*404 not found"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "rubbish": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(50_000)), "not a video"),
    "a picture": (picture_file, "picture"),
    "sound": (lambda path: write_sound(path, "mp4"), "no video stream .*audio"),
    "a song": (song_with_cover, "no video stream .*audio"),
    "a broken link": (lambda path: path.symlink_to("/gone/x.mp4"), "/gone/x.mp4"),
    "a folder": (lambda path: path.mkdir(), "a folder"),
    "a pipe": (os.mkfifo, "no ordinary file"),
    "nothing": (lambda path: None, "no such file"),
    "a playlist": (lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n"), "not a video"),
    "cut before its index": (lambda path: (write_video(path, noise(20)), cut(path, 0.7)), "index"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_video_says_what_it_is(tmp_path, kind):
    make, says = BAD[kind]
    path = tmp_path / "x.mp4"
    make(path)
    with pytest.raises(InputError, match=says) as raised:
        next(VideoFile(path).frames())
    assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(tmp_path):
    path = write_video(tmp_path / "x.mp4", GREYS)
    path.chmod(0)
    with pytest.raises(InputError, match=f"{path}: .*[Pp]ermission"):
        next(VideoFile(path).frames())


@pytest.mark.parametrize(
    "name",
    ["a b.mp4", "a\nb.mp4", "日本語 видео.mp4", "pipe:1.mp4", "%03d.mp4", "http:x.mp4", "-i.mp4", "concat:a|b.mp4"],
)
def test_a_file_may_have_any_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    plain = write_video(tmp_path / "x.mp4", GREYS[:3])
    path = plain.rename(tmp_path / name).relative_to(tmp_path)
    assert shown(path)[0] == [0, 1, 2]


def test_a_file_behind_a_folder_that_may_not_be_entered_says_so(tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "stat", refused)
    with pytest.raises(InputError, match=rf"{tmp_path / 'x.mp4'}: .*Permission denied"):
        next(VideoFile(tmp_path / "x.mp4").frames())


def test_frames_that_cannot_be_scaled_say_of_what_kind_they_are(tmp_path, monkeypatch):
    class Failing:
        def reformat(self, *_, **__):
            raise av.error.InvalidDataError(22, "Invalid argument")

    path = write_video(tmp_path / "x.mp4", GREYS[:3])
    monkeypatch.setattr("av.video.reformatter.VideoReformatter", Failing)
    with pytest.raises(InputError, match=rf"{path}: .*64 x 48 in yuv420p"):
        next(VideoFile(path).frames())


def test_missing_packages_name_the_command_that_installs_them(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(InputError, match=r"cv2.*pip install -r requirements-video\.txt"):
        video_packages.require_video_packages()
