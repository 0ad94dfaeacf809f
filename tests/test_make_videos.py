"""The made videos: what their annotations say is what they show."""

import json
import shlex

import numpy as np
import pytest

from options import parse_options
from prepare import make_videos as shapes
from prepare.make_videos import CLASSES, FPS, HEIGHT, WIDTH, Scene, draw, entry_of, invent_scene, num_frames
from readers.annotations import read_annotations
from utils import InputError


def frames_at(scene, *seconds):
    """The frames at some times."""
    numbers = {round(time * FPS): time for time in seconds}
    return {numbers[i]: frame for i, frame in enumerate(draw(scene)) if i in numbers}


def test_scenes_are_as_described():
    scenes = [invent_scene(str(i), i, i) for i in range(60)]
    for i, scene in enumerate(scenes):
        (label, start, end), (_, again, last) = scene.actions
        assert label == [*CLASSES][i % len(CLASSES)]
        assert start > 1.1 and again - end > 2.9 and scene.seconds - last > 0.7 and 8 < scene.seconds < 17.5
        assert all(1.9 < length < 4.1 for length in (end - start, last - again))
    assert 5 < sum(len({label for label, *_ in scene.actions}) == 2 for scene in scenes) < 25


@pytest.mark.parametrize("label", CLASSES)
def test_a_class_is_seen_during_its_action_alone_and_moves(label):
    """Its colour is nowhere else."""
    scene = Scene("x", 3, 1.2, ((label, 0.4, 1.0),))
    frames = frames_at(scene, 0.2, 0.44, 0.6, 0.8, 1.08)

    def coloured(frame):
        colour = np.array(CLASSES[label].colour)
        return frame @ colour > 0.99 * np.linalg.norm(frame.astype(float), axis=2) * np.linalg.norm(colour)  # [H, W]

    seen = {time: coloured(frame) for time, frame in frames.items()}
    assert not seen[0.2].any() and not seen[1.08].any()
    assert all(seen[time].sum() > 1000 for time in (0.44, 0.6, 0.8))
    assert (seen[0.44] ^ seen[0.6]).sum() > 500 and (seen[0.6] ^ seen[0.8]).sum() > 500
    assert not (frames[0.2] == frames[1.08]).all()  # the dark shape wanders


def test_the_same_seed_draws_the_same():
    one, two, other = (invent_scene("a", 0, seed) for seed in (5, 5, 6))
    assert one == two != other
    assert (next(draw(one)) == next(draw(two))).all() and not (next(draw(one)) == next(draw(other))).all()


def test_training_videos_have_labels_alone():
    scene = Scene("x", 0, 2.0, (("Roll", 0.2, 0.8), ("Drop", 1.0, 1.5), ("Roll", 1.6, 1.9)))
    assert entry_of(scene, "training")["annotations"] == [{"label": "Drop"}, {"label": "Roll"}]
    assert entry_of(scene, "validation")["annotations"][1] == {"label": "Drop", "segment": [1.0, 1.5]}


@pytest.fixture
def short(monkeypatch):
    """Videos of a second."""

    def scene(name, main_class, seed):
        return Scene(name, seed, 1.0, (([*CLASSES][main_class % len(CLASSES)], 0.2, 0.8),))

    monkeypatch.setattr(shapes, "invent_scene", scene)


def test_a_dataset_is_written(short, tmp_path, monkeypatch, capsys):
    av = pytest.importorskip("av")
    pytest.importorskip("cv2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["make_videos", "--train", "4", "--test", "1"])
    assert shapes.main() == 0
    folder = tmp_path / "data/Shapes"
    annotations = read_annotations(folder / "annotations.json")
    assert annotations.class_names == sorted(CLASSES)
    assert len(annotations.videos_of("training")) == 4 and len(annotations.videos_of("validation")) == 1
    assert len(annotations.instances) == 1 and (annotations.durations == 1.0).all()
    files = sorted((folder / "videos").iterdir())
    assert [path.stem for path in files] == sorted(annotations.videos)
    with av.open(str(files[0])) as video:
        stream = video.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(stream)]
        assert (stream.width, stream.height, stream.average_rate) == (WIDTH, HEIGHT, FPS)
        assert stream.codec_context.pix_fmt == "yuv420p"
    drawn = list(draw(shapes.invent_scene("shapes_test_001", 0, 4)))
    assert len(frames) == len(drawn) == FPS
    assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(frames, drawn, strict=True)) < 8
    if files[0].suffix == ".mp4":  # a browser shows it before all of it is there
        content = files[0].read_bytes()
        assert content.index(b"moov") < content.index(b"mdat")
    said = capsys.readouterr().out
    assert "4 videos to train and 1 to test on, 5 s" in said
    assert f"--dataset_name Shapes --videos {folder.relative_to(tmp_path)}/videos --i3d_weights random" in said

    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    assert shapes.main() == 2 and "exists" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in folder.rglob("*.*")}
    again = shapes.write_video(shapes.invent_scene(files[0].stem, 0, 4), tmp_path)
    assert again.read_bytes() == before[files[0]]


@pytest.mark.parametrize(
    ("argv", "message"),
    [(["--train", "0"], "--train and --test"), (["--seed", "-1"], "--seed"), (["--folder", "/"], "--folder /")],
)
def test_bad_command_lines(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["make_videos", *argv])
    assert shapes.main() == 2 and message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_without_the_packages_the_command_that_installs_them_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(InputError, match=r"pip install -r requirements-video\.txt"):
        shapes.make_videos(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_length_in_the_annotations_is_that_of_the_frames():
    scene = Scene("x", 0, 1.01, ())
    assert entry_of(scene, "training")["duration"] == num_frames(scene) / FPS == len(list(draw(scene))) / FPS
    assert json.dumps(entry_of(scene, "training"))


def test_a_folder_that_cannot_be_written_to_is_an_error_before_any_work(tmp_path, monkeypatch, capsys):
    for package in ("av", "cv2", "PIL"):
        pytest.importorskip(package)
    (tmp_path / "file").touch()
    monkeypatch.setattr(shapes, "write_video", None)
    monkeypatch.setattr("sys.argv", ["make_videos", "--folder", str(tmp_path / "file")])
    assert shapes.main() == 2
    assert f"error: --folder {tmp_path / 'file'}: " in capsys.readouterr().err


def test_the_next_command_can_be_pasted(tmp_path, monkeypatch, capsys):
    for package in ("av", "cv2", "PIL"):
        pytest.importorskip(package)
    monkeypatch.setattr(shapes, "write_video", lambda scene, folder: folder.mkdir(parents=True, exist_ok=True))
    monkeypatch.setattr("sys.argv", ["make_videos", "--folder", str(tmp_path / "My videos")])
    assert shapes.main() == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1].partition("next: python main.py ")[2])
    assert parse_options(words).videos == tmp_path / "My videos" / "videos"
