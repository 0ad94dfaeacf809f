"""Folders of frames and flow images, zipped or not: their order, other sizes, and what is damaged."""

import io
import zipfile

import numpy as np
import pytest

from prepare.frame_folders import FrameFolder
from utils import InputError

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("av")
pytest.importorskip("cv2")
STEMS = {"img": "img", "flow_x": "x", "flow_y": "y"}  # in a folder, and in an archive


def image(value, mode="L", size=(340, 256), suffix="png"):
    data = io.BytesIO()
    Image.new(mode, size, value).save(data, {"png": "PNG", "jpg": "JPEG"}[suffix])
    return data.getvalue()


def images(frames=(1, 2, 10, 11, 100), flow=(1, 2, 10, 11), suffix="png", **options):
    """By name: images whose value is their number, y plus 100, without zeros in front."""
    files = {f"img_{n}.{suffix}": image((n, n, n), "RGB", suffix=suffix, **options) for n in frames}
    files |= {f"flow_x_{n}.{suffix}": image(n, suffix=suffix, **options) for n in flow}
    return files | {f"flow_y_{n}.{suffix}": image(n + 100, suffix=suffix, **options) for n in flow}


def write(folder, files, *, zipped=False):
    folder.mkdir(exist_ok=True)
    if not zipped:
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return folder
    for kind, stem in STEMS.items():
        with zipfile.ZipFile(folder / f"{kind}.zip", "w") as archive:
            for name, data in files.items():
                if name.startswith(kind):
                    archive.writestr(f"some/{stem}{name.removeprefix(kind)}", data)
    return folder


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_images_come_in_the_order_of_their_numbers(tmp_path, zipped, suffix):
    folder = write(tmp_path / "a b é", images(suffix=suffix), zipped=zipped)
    (folder / "notes.txt").write_text("img_3.jpg")
    assert FrameFolder.is_one(folder)
    video = FrameFolder(folder)
    rgb, flow = [*video.rgb()], [*video.flow()]
    assert {(frame.shape, frame.dtype) for frame in rgb} == {((256, 340, 3), np.dtype(np.uint8))}
    assert {frame.shape for frame in flow} == {(256, 340, 2)}
    assert [frame[5, 5].tolist() for frame in rgb] == [[n, n, n] for n in (1, 2, 10, 11, 100)]
    assert [frame[5, 5].tolist() for frame in flow] == [[n, n + 100] for n in (1, 2, 10, 11)]
    assert (video.count, video.has_flow) == (5, True)
    assert video.damage == "missing between its first and last frame: 95"


def test_frames_alone_are_enough(tmp_path):
    video = FrameFolder(write(tmp_path / "v", images((1, 2, 3), ())))
    assert (video.count, video.has_flow, video.damage) == (3, False, None)


def test_other_sizes_are_scaled_and_flow_with_them(tmp_path):
    files = images((1, 2), (), size=(680, 128))
    files |= {f"flow_{axis}_1.png": image(187, size=(680, 128)) for axis in "xy"}  # 59.5 over zero
    video = FrameFolder(write(tmp_path / "v", files))
    assert next(video.rgb()).shape == (256, 340, 3)
    [flow] = video.flow()
    assert flow.shape == (256, 340, 2)
    assert flow[9, 9].tolist() == [157, 246]  # half as many pixels along x, twice as many along y


def test_what_is_no_such_folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "photo_1.jpg").touch()
    (tmp_path / "images" / "x_1.jpg").touch()  # only archives leave flow_ out
    (tmp_path / "img_1.jpg").touch()
    assert not any(FrameFolder.is_one(tmp_path / name) for name in ("images", "img_1.jpg", "nowhere"))
    assert FrameFolder.is_one(tmp_path)


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("flow_y_2.png", None, "v: flow images of x without y, or of y without x: flow_x_2.png"),
        ("img_1.png", None, "v: 2 frames, but 4 of flow"),
        ("img_002.png", image(0), "v: two images of one number: img_"),
    ],
)
def test_folders_that_do_not_fit_are_refused_in_a_line(tmp_path, name, data, message):
    folder = write(tmp_path / "v", images((1, 2, 3), (1, 2, 3, 4)))
    (folder / name).unlink() if data is None else (folder / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        _ = FrameFolder(folder).damage


def test_flow_without_frames_is_refused_in_a_line(tmp_path):
    with pytest.raises(InputError, match=r"v: has flow, but no frames: neither img_00001.jpg, … nor img.zip"):
        FrameFolder(write(tmp_path / "v", images((), (1, 2)))).rgb()


@pytest.mark.parametrize("data", [b"", b"no image", image(0)[:100], image(0, suffix="jpg")[:300]])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_damaged_image_is_named(tmp_path, data, zipped):
    folder = write(tmp_path / "v", images((1, 2), ()) | {"img_2.png": data}, zipped=False)
    if zipped:
        folder = write(tmp_path / "z", {path.name: path.read_bytes() for path in folder.iterdir()}, zipped=True)
        for kind in ("flow_x", "flow_y"):
            (folder / f"{kind}.zip").unlink()
    frames = FrameFolder(folder).rgb()
    next(frames)
    with pytest.raises(InputError, match=r"img_2\.png: not an? .*image.*; write the frames") as error:
        next(frames)
    assert "\n" not in str(error.value) and " object at " not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"no archive", "cut"])
def test_an_archive_that_is_none_is_named(tmp_path, data):
    folder = write(tmp_path / "v", images((1, 2), (1, 2)), zipped=True)
    path = folder / "flow_y.zip"
    path.write_bytes(path.read_bytes()[:-30] if data == "cut" else data)
    with pytest.raises(InputError, match=r"flow_y\.zip: not a readable zip archive"):
        FrameFolder(folder).rgb()


def test_an_archive_without_images_is_named(tmp_path):
    folder = write(tmp_path / "v", images((1, 2), (1, 2)), zipped=True)
    with zipfile.ZipFile(folder / "flow_x.zip", "w") as archive:
        archive.writestr("readme.txt", "")
    with pytest.raises(InputError, match=r"flow_x\.zip: holds no images named x_00001\.jpg"):
        next(FrameFolder(folder).flow())
