"""Features of folders of videos: what is found, made, left alone and refused; with networks that take no time."""

import errno
import json
import os
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("av")
pytest.importorskip("cv2")
pytest.importorskip("PIL")

from PIL import Image
from videos import cut, grey, noise, write_video

from options import parse_options
from prepare import video_features
from prepare.commands import make_video_features
from prepare.feature_writing import FeatureSettings
from prepare.settings import feature_job
from prepare.video_features import make_features
from prepare.video_files import find_videos
from readers.feature_files import FeatureFolder, made_by
from readers.features import Features
from utils import CannotWrite, FileLock, InputError

NAMES = ("a", "b c", "日本語")
WEIGHTS = {"rgb": "1", "flow": "2"}
SETTINGS = FeatureSettings(weights=WEIGHTS)


class Means:
    """Stands for the networks: the features of a snippet are the mean of its frames."""

    def __init__(self, crops=1):
        self.crops = crops

    def stream(self, kind, frequency):
        return MeansOfVideo(frequency, self.crops)


class MeansOfVideo:
    def __init__(self, frequency, crops):
        self.frequency, self.crops, self.levels = frequency, crops, []

    @property
    def count(self):
        return len(self.levels)

    def add_frame(self, frame):
        assert frame.shape[:2] == (256, 340) and frame.dtype == np.uint8
        self.levels.append(frame.mean())

    def features(self):
        starts = range(0, len(self.levels) - 15, self.frequency)
        rows = [np.full(1024, np.mean(self.levels[start : start + 16]), np.float32) for start in starts]
        return np.stack([np.stack(rows)] * self.crops)


def both_frames(frames, workers):
    """Optical flow that takes no time: a channel of each of two frames."""
    return (np.stack([a[..., 0], b[..., 0]], 2) for a, b in pairwise(frames))


@pytest.fixture(autouse=True)
def quick_flow(monkeypatch, request):
    if "real_flow" not in request.fixturenames:
        monkeypatch.setattr(video_features, "flow_of", both_frames)


@pytest.fixture
def real_flow():
    """For tests that need it."""


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three videos of 20, 33 and 50 frames."""
    folder = tmp_path_factory.mktemp("videos")
    for name, ending, count in zip(NAMES, (".mp4", ".mkv", ".webm"), (20, 33, 50), strict=True):
        codec = "libvpx-vp9" if ending == ".webm" else "libx264"
        write_video(folder / f"{name}{ending}", [grey(5 * k) for k in range(count)], codec=codec)
    return folder


def make(videos, target, settings=SETTINGS, **more):
    return make_features([videos], target, settings, more.pop("networks", Means()), workers=1, **more)


def left(folder):
    """The files of a folder, and what is in them."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def expected(three, tmp_path_factory):
    """What the features of `three` are when nothing happens."""
    target = tmp_path_factory.mktemp("expected")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video_features, "flow_of", both_frames)
        make(three, target)
    return left(target)


# ------------------------------------------------------------------------------------------------- what is made


def test_each_video_has_two_archives_that_the_readers_find(three, expected, tmp_path):
    summary = make(three, tmp_path / "features")
    assert sorted(summary.made) == sorted(NAMES) and summary.status == 0
    assert left(tmp_path / "features") == expected
    assert sorted(expected) == sorted(f"{name}-{kind}.npz" for name in NAMES for kind in ("rgb", "flow"))
    folder = FeatureFolder(tmp_path / "features", NAMES)
    for name, count, snippets in zip(NAMES, (20, 33, 50), (1, 2, 3), strict=True):
        for file, frames in zip(folder.find(name), (count, count - 1), strict=True):
            with np.load(file) as content:
                assert content["feature"].shape[::2] == (1, 1024) and content["feature"].dtype == np.float32
                assert (content["frame_cnt"], content["video_name"]) == (frames, name)
        assert Features(tmp_path / "features", [name], modalities=2).read(0).shape == (snippets, 2048)


@pytest.mark.parametrize("frequency", [16, 5])
def test_snippets_are_of_the_frames_that_they_should_be(tmp_path, frequency):
    """As SPEC section 15 has it. The frames are grey by their numbers, and so is their flow."""
    write_video(tmp_path / "x.mkv", [grey(5 * k) for k in range(50)], codec="ffv1", pixels="bgr0")
    make(tmp_path, tmp_path, FeatureSettings(weights=WEIGHTS, snippet_frames=frequency))
    for kind, frames, later in (("rgb", 50, 0), ("flow", 49, 0.5)):
        with np.load(tmp_path / f"x-{kind}.npz") as content:
            rows = content["feature"][0, :, 0]
        starts = range(0, (frames - 16) // frequency * frequency + 1, frequency)
        assert rows == pytest.approx([5 * (start + 7.5 + later) for start in starts], abs=0.6)


@pytest.mark.parametrize(("crops", "shape"), [(1, (2, 2048)), (10, (10, 2, 2048))])
def test_one_array_a_video(tmp_path, crops, shape):
    """RGB has three snippets, and flow two."""
    write_video(tmp_path / "x.mp4", noise(48))
    settings = FeatureSettings(weights=WEIGHTS, feature_format="npy", crop="ten" if crops == 10 else "center")
    make(tmp_path, tmp_path / "features", settings, networks=Means(crops))
    assert sorted(left(tmp_path / "features")) == ["x.json", "x.npy"]
    assert np.load(tmp_path / "features" / "x.npy").shape == shape
    assert made_by(tmp_path / "features" / "x.npy")["crop"] == settings.crop
    assert Features(tmp_path / "features", ["x"], modalities=2).read(0).shape == (2, 2048)


def test_files_say_what_made_them(three, tmp_path):
    make(three, tmp_path, FeatureSettings(weights=WEIGHTS, feature_fps=50, snippet_frames=8, crop="resize"))
    made = made_by(tmp_path / "b c-flow.npz")
    assert made.pop("version") and made == {
        "video": "b c.mkv",
        "bytes": (three / "b c.mkv").stat().st_size,
        "feature_fps": 50,
        "snippet_frames": 8,
        "crop": "resize",
        "weights": WEIGHTS,
        "half": False,
        "frames": 66,
        "seconds": 1.32,
        "damage": None,
    }


def test_files_of_others_do_not_say_it(tmp_path):
    np.savez(tmp_path / "x.npz", feature=np.ones((1, 2, 3)))
    np.save(tmp_path / "y.npy", np.ones((2, 3)))
    (tmp_path / "y.json").write_text('{"duration": 3}')
    assert made_by(tmp_path / "x.npz") is None and made_by(tmp_path / "y.npy") is None
    np.savez(tmp_path / "z.npz", feature=np.ones((1, 2, 3)), made_by="[")
    with pytest.raises(InputError, match=r"z\.npz: .*made_by"):
        made_by(tmp_path / "z.npz")


def disc(k):
    y, x = np.mgrid[:256, :340]
    return np.where(((x - 100 - 3 * k) ** 2 + (y - 120) ** 2 < 900)[..., None], 200, 60).repeat(3, 2).astype(np.uint8)


def test_the_whole_of_it(tmp_path, real_flow, caplog):
    """From a video to features of I3D; with random weights, it says so."""
    caplog.set_level("INFO")
    write_video(tmp_path / "x.mp4", [disc(k) for k in range(17)])
    argv = ["--videos", str(tmp_path), "--features", str(tmp_path), "--i3d_weights", "random"]
    job = feature_job(parse_options(["--run_type", "features", *argv]))
    summary = make_video_features(job, torch.device("cpu"))
    assert summary.made == ["x"] and "warning: --i3d_weights random" in caplog.text
    for kind in ("rgb", "flow"):
        with np.load(tmp_path / f"x-{kind}.npz") as content:
            assert content["feature"].shape == (1, 1, 1024) and content["feature"].std() > 0
        assert "random" in made_by(tmp_path / f"x-{kind}.npz")["weights"][kind]


def test_the_command_line_says_what_is_made():
    argv = "--run_type features --videos v --i3d_weights w --dataset_name Mine --crop ten --snippet_frames 8"
    job = feature_job(parse_options([*argv.split(), "--shard", "3/16"]))
    assert (job.videos, job.weights, job.target) == (Path("v"), Path("w"), Path("data/Mine/features"))
    assert job.settings == FeatureSettings(crop="ten", snippet_frames=8) and job.shard == (3, 16)


@pytest.mark.parametrize("with_flow", [True, False])
def test_folders_of_frames_are_videos(tmp_path, with_flow):
    folder = tmp_path / "videos" / "v 1.mp4"  # folders may be named like files
    folder.mkdir(parents=True)
    for k in range(33):
        Image.fromarray(grey(5 * k, (340, 256))).save(folder / f"img_{k + 1:05}.jpg")
        for kind in "xy" if with_flow and k < 32 else "":
            Image.fromarray(grey(200 + k, (340, 256))[..., 0]).save(folder / f"flow_{kind}_{k + 1:05}.jpg")
    for videos in (folder, folder.parent):
        make(videos, tmp_path / "features", overwrite=True)
        with np.load(tmp_path / "features" / "v 1.mp4-flow.npz") as content:
            assert content["frame_cnt"] == 32
            assert content["feature"][0, 0, 0] == pytest.approx(207.5 if with_flow else 40, abs=1)
        made = made_by(tmp_path / "features" / "v 1.mp4-rgb.npz")
        assert made["frames"] == 33 and made["bytes"] is None


def test_sixteen_frames_are_too_few_even_with_sixteen_of_flow(tmp_path):
    for kind in ("img", "flow_x", "flow_y"):
        for k in range(16):
            Image.fromarray(grey(9)[..., 0]).save(tmp_path / f"{kind}_{k:05}.jpg")
    summary = make(tmp_path, tmp_path / "features")
    assert summary.status == 1 and f"{tmp_path}: too short: 16 frames" in summary.errors[0]


# ------------------------------------------------------------------------------------------------- what is found


def test_files_that_are_no_videos_are_left_out(tmp_path, three):
    content = (three / "a.mp4").read_bytes()
    for name in ("1.MP4", "sub/2.mkv", "sub/deep er/3.webm", "no_ending", "odd.ending", ".hidden.mp4", ".d/x.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    for name in (
        "x.mp4.part",
        "x.mp4.crdownload",
        "1.srt",
        "notes.txt",
        "data.json",
        "cover.jpg",
        "data.bin",
        "README",
    ):
        (tmp_path / name).write_bytes(b"1\n" * 50)
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    found = find_videos([tmp_path])
    assert [*found.videos] == ["1", "2", "3", "no_ending", "odd"] and not found.errors
    assert found.others.total() == 10  # `.d` is one


def test_a_folder_without_videos_says_what_was_looked_for(tmp_path):
    (tmp_path / "a.txt").touch()
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=str(path)):
            make(path, tmp_path / "features")
    with pytest.raises(InputError, match=r"\.mp4.*img_.*1 other files \(\.txt\)"):
        find_videos([tmp_path])
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_one_name_for_two_videos_is_an_error_of_both(tmp_path, three):
    """Accents may be stored in two ways, and the names look the same."""
    names = ("a.mp4", "sub/a.mkv", "\u00fc.mp4", "u\u0308.mp4", "b.mp4")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((three / "a.mp4").read_bytes())
    found = find_videos([tmp_path])
    assert [*found.videos] == ["b"] and len(found.errors) == 2
    assert all(any(str(tmp_path / name) in error for error in found.errors) for name in names[:4])


def test_names_that_look_like_halves_of_others_are_errors(tmp_path):
    """The readers would take `x-rgb.npz`, of the video x, for the features of the video x-rgb."""
    for name in ("x", "x-rgb", "x_flow", "river-flow", "y-rgb", "z_rgb", "z_flow"):
        (tmp_path / f"{name}.mp4").touch()
    found = find_videos([tmp_path])
    assert [*found.videos] == ["river-flow", "x", "y-rgb"]
    assert sorted(error.split("'")[1] for error in found.errors) == ["x-rgb", "x_flow", "z_flow", "z_rgb"]


def test_what_cannot_be_used_does_not_stop_the_others(tmp_path, three, caplog):
    caplog.set_level("INFO")
    write_video(tmp_path / "short.mp4", noise(16))
    write_video(tmp_path / "just long enough.mp4", noise(17))
    write_video(tmp_path / "plain.mp4", [grey(9)] * 20)
    cut(write_video(tmp_path / "cut.mkv", noise(60)), 0.6)
    (tmp_path / "text.mp4").write_text("no such page")
    (tmp_path / "empty.avi").touch()
    (tmp_path / "gone.mov").symlink_to("/gone")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "two\nlines.mp4").write_bytes((three / "a.mp4").read_bytes())
    summary = make(tmp_path, tmp_path / "features")
    assert sorted(summary.made) == ["cut", "just long enough", "plain"] and summary.status == 1
    bad = ("short.mp4", "text.mp4", "empty.avi", "gone.mov", "folder.mp4", r"two\nlines.mp4")
    lines = [line for line in caplog.text.splitlines() if "error: " in line]
    assert len(lines) == len(bad) and all(sum(f"{tmp_path}/{name}: " in line for line in lines) == 1 for name in bad)
    notices = [line for line in caplog.text.splitlines() if "notice: " in line]
    assert len(notices) == 2 and "cut.mkv (ends after" in notices[0] and "plain.mp4" in notices[1]
    assert "3 made" in caplog.text and "6 failed" in caplog.text
    assert made_by(tmp_path / "features" / "cut-rgb.npz")["damage"].startswith("ends after")
    assert len(left(tmp_path / "features")) == 6


# ------------------------------------------------------------------------------------------------- again


def test_started_again_it_makes_what_is_left(three, expected, tmp_path):
    for name, content in expected.items():
        if name not in ("a-rgb.npz", "b c-flow.npz"):
            (tmp_path / name).write_bytes(content)
    kept = (tmp_path / "日本語-rgb.npz").stat().st_mtime_ns
    summary = make(three, tmp_path)
    assert summary.made == ["a", "b c"] and summary.there == ["日本語"]
    assert left(tmp_path) == expected and (tmp_path / "日本語-rgb.npz").stat().st_mtime_ns == kept


OTHERS = {
    "crop": ({"crop": "resize"}, "crop"),
    "rate": ({"feature_fps": 30.0}, "feature_fps"),
    "stride": ({"snippet_frames": 8}, "snippet_frames"),
    "weights": ({"weights": {"rgb": "other", "flow": "2"}}, "weights"),
    "format": ({"feature_format": "npy"}, "format"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_features_that_were_made_in_another_way_are_not_replaced(three, expected, tmp_path, kind):
    changes, word = OTHERS[kind]
    settings = FeatureSettings(**{"weights": WEIGHTS, **changes})
    make(three, tmp_path)
    with pytest.raises(InputError, match=f"{word}.* 3 videos .*--overwrite") as raised:
        make(three, tmp_path, settings)
    assert all(name in str(raised.value) for name in NAMES) and left(tmp_path) == expected
    assert len(make(three, tmp_path, settings, overwrite=True).made) == 3
    again = left(tmp_path)
    assert not [name for name in again if again[name] == expected.get(name)]
    assert {Path(name).suffix for name in again} == ({".npy", ".json"} if kind == "format" else {".npz"})
    assert len(make(three, tmp_path, settings, overwrite=True).there) == 3  # nothing is made twice
    make(three, tmp_path, overwrite=True)
    assert left(tmp_path) == expected


def test_features_of_another_video_or_program_are_not_replaced(tmp_path):
    write_video(tmp_path / "x.mkv", noise(20))
    make(tmp_path, tmp_path)
    write_video(tmp_path / "x.mkv", noise(40))
    with pytest.raises(InputError, match=r"x-rgb\.npz: made with bytes .*--overwrite"):
        make(tmp_path, tmp_path)
    np.savez(tmp_path / "x-rgb.npz", feature=np.ones((1, 2, 3)))
    with pytest.raises(InputError, match=r"x-rgb\.npz: .*--overwrite"):
        make(tmp_path, tmp_path)
    (tmp_path / "x-rgb.npz").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"x-rgb\.npz: .*--overwrite"):
        make(tmp_path, tmp_path)
    assert make(tmp_path, tmp_path, overwrite=True).made == ["x"]


def test_other_json_files_are_not_replaced(tmp_path):
    write_video(tmp_path / "x.mkv", noise(20))
    (tmp_path / "x.json").write_text('{"labels": []}')
    settings = FeatureSettings(weights=WEIGHTS, feature_format="npy")
    with pytest.raises(InputError, match=r"x\.json: .*--overwrite"):
        make(tmp_path, tmp_path, settings)
    assert make(tmp_path, tmp_path).made == ["x"]
    assert (tmp_path / "x.json").read_text() == '{"labels": []}'


class Stopped(BaseException):
    pass


class StoppedAfter(Means):
    """Ends the process, as far as a test can, after so many frames."""

    def __init__(self, frames):
        super().__init__()
        self.left = frames

    def stream(self, kind, frequency):
        stream = super().stream(kind, frequency)
        add = stream.add_frame

        def add_frame(frame):
            self.left -= 1
            if self.left < 0:
                raise Stopped
            add(frame)

        stream.add_frame = add_frame
        return stream


@pytest.mark.parametrize("frames", [0, 25, 60])
def test_stopped_anywhere_it_leaves_whole_files_and_goes_on(three, expected, tmp_path, frames):
    (tmp_path / ".a-rgb.npz.17.part").touch()  # of a process that was killed before
    with pytest.raises(Stopped):
        make(three, tmp_path, networks=StoppedAfter(frames))
    there = left(tmp_path)
    assert there.items() < expected.items()
    make(three, tmp_path)
    assert left(tmp_path) == expected


def test_what_killed_processes_left_is_removed(three, expected, tmp_path):
    names = (".a-rgb.npz.17.part", ".a.lock", ".日本語-flow.npz.18.part", ".gone.npy.19.part", ".gone.json.19.part")
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    make(three, tmp_path)
    assert left(tmp_path) == expected


@pytest.mark.parametrize("ends", ["killed", "made"])
def test_videos_of_other_processes_are_waited_for(three, expected, tmp_path, monkeypatch, caplog, ends):
    """When it ends, all features are there, whoever made them: what follows it can begin."""
    caplog.set_level("INFO")
    held, waited = FileLock(tmp_path / ".b c.lock"), []
    assert held.take()
    (tmp_path / ".b c-rgb.npz.20.part").write_bytes(b"half")

    def wait(_):
        waited.append(sorted(left(tmp_path).keys() - expected.keys()))
        for name in expected if ends == "made" and len(waited) == 2 else ():
            (tmp_path / name).write_bytes(expected[name])
        if len(waited) == 2:
            held.release()

    monkeypatch.setattr(video_features.time, "sleep", wait)
    summary = make(three, tmp_path)
    assert waited == [[".b c-rgb.npz.20.part", ".b c.lock"]] * 2
    assert ("b c" in summary.made) == (ends == "killed") and len(summary.made + summary.there) == 3
    assert f"waiting for other processes, which are making videos: b c (process {os.getpid()} on" in caplog.text
    assert left(tmp_path) == expected


def test_several_at_once_share_the_work(three, expected, tmp_path):
    barrier, summaries = threading.Barrier(3), []

    def work():
        barrier.wait()
        summaries.append(make(three, tmp_path / "features"))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(name for summary in summaries for name in summary.made) == sorted(NAMES)
    assert left(tmp_path / "features") == expected


def test_shards_are_parts_of_the_whole(three, expected, tmp_path):
    made = [make(three, tmp_path, shard=(part, 2)).made for part in (1, 2)]
    assert sorted(map(len, made)) == [1, 2] and sorted(made[0] + made[1]) == sorted(NAMES)
    assert left(tmp_path) == expected


def test_without_locks_it_says_so(three, expected, tmp_path, monkeypatch, caplog):
    def fail(_):
        raise OSError(errno.ENOLCK, "No locks available")

    caplog.set_level("INFO")
    monkeypatch.setattr(FileLock, "_lock", staticmethod(fail))
    (tmp_path / ".a-rgb.npz.17.part").touch()  # perhaps of a process that is alive
    make(three, tmp_path)
    assert "notice: " in caplog.text and "No locks available" in caplog.text
    assert left(tmp_path).keys() - expected.keys() == {".a-rgb.npz.17.part"}


def test_a_full_disk_ends_it_and_leaves_nothing_half_written(three, expected, tmp_path, monkeypatch):
    save = np.savez

    def full(file, **content):
        save(file, **content)
        if content["video_name"] == "b c":
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(CannotWrite, match=r"b c-rgb\.npz: .*No space"):
        make(three, tmp_path)
    assert left(tmp_path) == {name: expected[name] for name in ("a-rgb.npz", "a-flow.npz")}


def test_an_array_is_never_beside_what_made_another(tmp_path, monkeypatch):
    """If the disk is full in between, there is no array rather than one that claims to be made in the new way."""
    write_video(tmp_path / "x.mkv", noise(20))
    make(tmp_path, tmp_path, FeatureSettings(weights=WEIGHTS, feature_format="npy"))

    def full(file, array):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(CannotWrite, match=r"x\.npy: "):
        make(tmp_path, tmp_path, FeatureSettings(weights={}, feature_format="npy"), overwrite=True)
    assert not (tmp_path / "x.npy").exists()


def test_a_target_that_is_no_folder_is_an_error_before_any_work(three, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"--features {tmp_path / 'file'}"):
        make(three, tmp_path / "file", networks=None)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_target_that_cannot_be_written_to_is_an_error_before_any_work(three, tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(InputError, match=f"--features {tmp_path}"):
        make(three, tmp_path, networks=None)


def test_made_by_is_json_text(expected, tmp_path):
    """So that other programs can read it."""
    (tmp_path / "a.npz").write_bytes(expected["a-rgb.npz"])
    with np.load(tmp_path / "a.npz") as content:
        assert json.loads(str(content["made_by"]))["video"] == "a.mp4"
