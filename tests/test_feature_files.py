"""Feature files as extractors and releases write them: each reads as the same data in our own form, `<video>.npy`."""

import json
import unicodedata

import numpy as np
import pytest
import torch

from dataset import load_videos
from proposals import Proposals
from readers import feature_files, kept_features
from readers.annotations import read_annotations
from readers.features import Features
from utils import InputError

VIDEOS = ["a", "b"]
LENGTHS = (7, 9)


def arrays(video):
    """RGB and flow, `[T, 4]` each, of whole numbers, which any type holds."""
    length, rng = LENGTHS[VIDEOS.index(video)], np.random.default_rng(VIDEOS.index(video))
    return rng.integers(0, 100, (2, length, 4)).astype(np.float32)


def crops_of(array, count=10):
    """`[crops, T, D]` with this mean, to the bit."""
    shift = np.arange(count, dtype=np.float32) - (count - 1) / 2
    return array + shift[:, None, None]


def both(save, form, change=lambda array: array):
    """Writes RGB and flow, each changed, into files named by the form, with braces for the video and for the kind."""

    def write(folder, video):
        for kind, array in zip(("rgb", "flow"), arrays(video), strict=True):
            path = folder / form.format(video, kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            save(path, change(array))

    return write


def joint(save, form="{}.npy", change=lambda array: array):
    """Likewise, joined in one file."""

    def write(folder, video):
        save(folder / form.format(video), change(np.hstack(arrays(video))))

    return write


def under(name, save=np.savez):
    return lambda path, array: save(path, **{name: array})


def with_rate(path, array):
    np.savez_compressed(path, features=array, fps=25.0)


def both_in_one(folder, video):
    rgb, flow = arrays(video)
    np.savez(folder / f"{video}.npz", rgb=rgb, flow=flow, fps=np.array(25), timestamps_ms=np.arange(len(rgb)))


VARIANTS = {
    "video_features": both(np.save, "{}_{}.npy"),
    "two .npy": both(np.save, "{}-{}.npy"),
    "pytorch-i3d": joint(np.save, change=lambda x: x[:, None, None]),
    "pytorch-i3d, two files": both(np.save, "{1}/{0}.npy", lambda x: x[:, None, None]),
    "feature maps": joint(np.save, change=lambda x: x[:, :, None, None]),
    "a batch of one": joint(np.save, change=lambda x: x[None]),
    "one array, any name": joint(under("arr_0"), "{}.npz"),
    "one array and its rate": joint(with_rate, "{}.npz"),
    "rgb and flow in one archive": both_in_one,
    "archives in folders": both(under("x", np.savez_compressed), "{1}/{0}.npz"),
    "CMCS in folders": both(under("feature"), "{1}/v_{0}-{1}.npz", crops_of),
    "CMCS": both(under("feature"), "{}-{}.npz", crops_of),
    "folders of the subsets": both(np.save, "train/{1}/{0}.npy"),
    "crops first": joint(np.save, change=crops_of),
    "crops second": joint(np.save, change=lambda x: crops_of(x).swapaxes(0, 1)),
    "crops second, in archives": both(under("feature"), "{}_{}.npz", lambda x: crops_of(x).swapaxes(0, 1)),
    "crops and an axis of one": joint(np.save, change=lambda x: crops_of(x)[:, :, None]),
    "as many crops as snippets": joint(np.save, change=lambda x: crops_of(x, 7)),
    "as many crops as snippets, second": joint(np.save, change=lambda x: crops_of(x, 9).swapaxes(0, 1)),
    "integers": joint(np.save, change=lambda x: x.astype(np.int16)),
    "bytes, two files": both(np.save, "{}_{}.npy", lambda x: x.astype(np.uint8)),
    "half precision": both(np.save, "{}-{}.npy", lambda x: x.astype(np.float16)),
    "double precision, big endian": joint(np.save, change=lambda x: x.astype(">f8")),
    "Fortran's order": joint(np.save, change=np.asfortranarray),
}


@pytest.mark.parametrize("write", VARIANTS.values(), ids=VARIANTS)
def test_a_variant_reads_as_our_own_form(tmp_path, write):
    for video in VIDEOS:
        write(tmp_path, video)
    found = Features(tmp_path, VIDEOS)
    for i, video in enumerate(VIDEOS):
        expected = torch.from_numpy(np.hstack(arrays(video)))
        assert torch.equal(found.read(i), expected) and torch.equal(found.read_again(i), expected)
        assert torch.equal(found.read_again(i, out=torch.empty(expected.shape)), expected)
        assert Features(tmp_path, VIDEOS).length(i) == len(expected)  # from the header alone


@pytest.mark.parametrize("write", [VARIANTS[name] for name in ("CMCS", "crops second", "video_features")])
def test_what_training_sees_is_the_same(tmp_path, write):
    """Pooled rows, means and lengths: all that a run has of features."""
    database = {video: {"subset": "training", "annotations": [{"label": "x"}]} for video in VIDEOS}
    (tmp_path / "annotations.json").write_text(json.dumps({"database": database}))
    annotations = read_annotations(tmp_path / "annotations.json")
    listed = {"a": {video: Proposals(np.array([[1.0, 5.0]]), np.array([0.5]), np.array([0])) for video in VIDEOS}}
    loaded = []
    for folder, one in ((tmp_path / "theirs", write), (tmp_path / "ours", joint(np.save))):
        folder.mkdir()
        for video in VIDEOS:
            one(folder, video)
        loaded.append(load_videos(annotations, Features(folder, VIDEOS), listed, roi_size=12, rate=25 / 16))
    for theirs, ours in zip(*(videos["a"] for videos in loaded), strict=True):
        assert torch.equal(theirs.pooled, ours.pooled) and torch.equal(theirs.mean, ours.mean)
        assert theirs.num_snippets == ours.num_snippets


@pytest.mark.parametrize("swap", [False, True])
def test_one_crop(tmp_path, caplog, swap):
    caplog.set_level("INFO")
    for video in VIDEOS:
        crops = crops_of(np.hstack(arrays(video)))
        np.save(tmp_path / f"{video}.npy", crops.swapaxes(0, 1) if swap else crops)
    expected = torch.from_numpy(np.hstack(arrays("a")) + 2.5)
    assert torch.equal(Features(tmp_path, VIDEOS, 7).read(0), expected)
    assert caplog.text.count("10 crops, of which --crop takes 7") == 1
    with pytest.raises(InputError, match=r"a\.npy: holds 10 crops, so --crop goes from 0 to 9"):
        Features(tmp_path, VIDEOS, 10).read(0)


@pytest.mark.parametrize(
    ("shapes", "snippets"),
    [
        ([(10, 10), (10, 12)], 1),  # the first could be either
        ([(10, 10), (12, 10)], 0),
        ([(10, 10), (10, 10), (3, 10)], 0),
        ([(10, 32), (10, 32)], 1),  # all of one length: a usual number of crops
        ([(100, 5), (100, 5)], 0),
        ([(10, 7)], 1),
        ([(1, 40), (1, 40)], 1),
        ([(5, 10)], None),  # both are usual, or none is
        ([(10, 10), (10, 10)], None),
        ([(49, 64), (49, 64)], None),
        ([(10, 7), (5, 9)], None),  # each video has another number of crops
    ],
)
def test_the_axis_of_snippets(tmp_path, shapes, snippets):
    names = [f"v{i}" for i in range(len(shapes))]
    rng = np.random.default_rng(0)
    for name, shape in zip(names, shapes, strict=True):
        np.save(tmp_path / f"{name}.npy", rng.random((*shape, 4), dtype=np.float32))
    stored = np.load(tmp_path / "v0.npy")
    if snippets is None:
        with pytest.raises(InputError, match=r"v0\.npy: .*--crop_axis 0.* 1"):
            Features(tmp_path, names).read(0)
    else:
        assert (Features(tmp_path, names).read(0).numpy() == stored.mean(1 - snippets)).all()
    for axis in (0, 1):  # the remedy
        told = Features(tmp_path, names, crop_axis=axis)
        assert (told.read(0).numpy() == stored.mean(axis)).all() and told.read(len(names) - 1).shape[1] == 4


def test_a_video_with_another_number_of_crops(tmp_path):
    for name, shape in {"v0": (10, 7), "v1": (10, 9), "v2": (9, 9)}.items():
        np.save(tmp_path / f"{name}.npy", np.ones((*shape, 4)))
    found = Features(tmp_path, ["v0", "v1", "v2"])
    assert found.read(0).shape == (7, 4)
    with pytest.raises(InputError, match=r"v2\.npy: 9 crops .*v0\.npy has 10"):
        found.read(2)


def test_axes_of_one_in_the_array_of_all_videos(tmp_path):
    stacked = np.empty(2, dtype=object)
    stacked[:] = [np.hstack(arrays(video))[:, None, None] for video in VIDEOS]
    np.save(tmp_path / "all.npy", stacked)
    assert torch.equal(Features(tmp_path / "all.npy", VIDEOS).read(1), torch.from_numpy(np.hstack(arrays("b"))))


def test_names_that_look_the_same(tmp_path):
    video = "Caf\u00e9 \u30d1"
    np.save(tmp_path / f"{unicodedata.normalize('NFD', video)}.npy", np.ones((5, 4)))
    assert Features(tmp_path, [video]).read(0).shape == (5, 4)
    np.save(tmp_path / f"{video}\u200b.npy", np.ones((6, 4)))
    with pytest.raises(InputError, match=r"2 files look the same: .*u0301.*u200b"):
        Features(tmp_path, [video]).read(0)
    np.save(tmp_path / f"{video}.npy", np.ones((7, 4)))  # the very name goes before all that look like it
    assert Features(tmp_path, [video]).read(0).shape == (7, 4)


def test_a_prefix_too_many(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((5, 4)))
    assert Features(tmp_path, ["v_a"]).read(0).shape == (5, 4)
    assert Features(tmp_path, ["v_a", "a"]).files(0) == []  # it is another video's


def test_whole_pairs_go_before_parts(tmp_path):
    np.save(tmp_path / "a-rgb.npy", np.zeros((5, 4)))
    both(np.save, "{}_{}.npy")(tmp_path, "a")
    assert torch.equal(Features(tmp_path, ["a"]).read(0), torch.from_numpy(np.hstack(arrays("a"))))


# ------------------------------------------------------------------------------------------- reading once


@pytest.fixture
def unpacked(tmp_path, monkeypatch):
    """Ten crops of two videos, and the list of the files that are unpacked."""
    for video in VIDEOS:
        VARIANTS["CMCS"](tmp_path, video)
    files, read_archive = [], feature_files.read_archive
    monkeypatch.setattr(
        feature_files, "read_archive", lambda path, name: files.append(path.name) or read_archive(path, name)
    )
    return files


def read_thrice(folder):
    found = Features(folder, VIDEOS)
    first = [found.read(i) for i in range(2)]
    assert all(torch.equal(found.read_again(i), first[i]) for i in (0, 1, 1, 0))
    return found


def test_archives_are_unpacked_once(tmp_path, unpacked):
    found = read_thrice(tmp_path)
    assert len(unpacked) == 4
    found.forget(0)
    found.read_again(0)
    assert len(unpacked) == 6


def test_what_does_not_fit_in_memory_is_in_a_file_without_a_name(tmp_path, unpacked, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(kept_features, "free_memory", lambda device: 2 * 7 * 8 * 4)  # half of it holds one
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "room"))
    (tmp_path / "room").mkdir()
    read_thrice(tmp_path)
    assert len(unpacked) == 4 and f"temporary file in {tmp_path / 'room'}" in caplog.text
    assert not [*(tmp_path / "room").iterdir()]


def test_without_room_for_the_folder_they_are_unpacked_again(tmp_path, unpacked, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(kept_features, "free_memory", lambda device: 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "a-rgb.npz"))  # no folder
    read_thrice(tmp_path)
    assert len(unpacked) == 4 + 8 and caplog.text.count("no room for a temporary file") == 1
