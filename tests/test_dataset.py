"""Annotations, features and batches, and the messages about wrong ones."""

import os
import shutil
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from building import proposals_of

import dataset
from dataset import (
    Video,
    choose_cache,
    evaluation_batches,
    load_videos,
    make_batch,
    prefetch,
    read_proposals,
    training_batches,
)
from proposals import SNIPPETS_PER_SECOND
from readers.annotations import read_annotations, uninformative_labels
from readers.features import Features
from utils import InputError

CPU, OTHER = torch.device("cpu"), torch.device("meta")  # the latter has shapes and no numbers


def objects(*items):
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


@pytest.fixture
def folder(tmp_path):
    """Two videos of two classes; some strings as bytes and some as unicode, as in the public files."""
    np.save(tmp_path / "videoname.npy", np.array([b"v1", b"v2"]))
    np.save(tmp_path / "subset.npy", np.array(["validation", "test"]))
    np.save(tmp_path / "classlist.npy", np.array([b"Jump", b"Throw"]))
    np.save(tmp_path / "labels_all.npy", objects([b"Jump"], ["Throw", b"Jump"]))
    np.save(tmp_path / "labels.npy", objects([b"Jump", b"Jump"], ["Throw"]))
    np.save(tmp_path / "segments.npy", objects([[0.5, 1], [2, 3.5]], [[1.0, 2.0]]))
    return tmp_path


def test_annotations(folder):
    (folder / "Ambiguous_test.txt").write_text("v2   1.0 2.5\n\nv2 3 4\n")
    annotations = read_annotations(folder)
    assert annotations.class_names == ["Jump", "Throw"] and annotations.videos == ["v1", "v2"]
    assert annotations.labels.tolist() == [[1, 0], [1, 1]]
    assert annotations.ground_truth("validation").values.tolist() == [["v1", 0, 0.5, 1.0], ["v1", 0, 2.0, 3.5]]
    assert annotations.ground_truth("test").values.tolist() == [["v2", 1, 1.0, 2.0]]
    assert annotations.ambiguous["v2"].tolist() == [[1.0, 2.5], [3.0, 4.0]]


@pytest.mark.parametrize("content", [None, ""])
def test_ambiguous_file_may_be_absent_or_empty(folder, content):
    if content is not None:
        (folder / "Ambiguous_test.txt").write_text(content)
    assert read_annotations(folder).ambiguous == {}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("videoname", np.array([b"v1", b"v1"]), r"videoname.npy: v1 .*more than once"),
        ("videoname", np.array([b"v1", b"\xff"]), r"videoname.npy: .*text"),
        ("subset", np.array(["test"]), r"subset.npy: .*1 .*videoname.npy .*2"),
        ("labels_all", objects(["Swim"], []), r"labels_all.npy: video v1: .*classlist.npy.*Swim"),
        ("labels_all", objects(3, []), r"labels_all.npy: video v1: .*list of labels"),
        ("labels", objects(["Jump"], ["Throw"]), r"video v1 .*1 labels .*2 segments"),
        ("segments", objects([[0, 1], [2, np.nan]], [[1, 2]]), r"segments.npy: video v1: .*\[start, end\]"),
        ("segments", objects([[0, 1], [2]], [[1, 2]]), r"segments.npy: video v1: .*\[start, end\]"),
        ("segments", objects([[0, 1], [2, 10**400]], [[1, 2]]), r"segments.npy: video v1: .*\[start, end\]"),
        ("segments", objects(7, [[1, 2]]), r"segments.npy: video v1: .*\[start, end\]"),
        ("classlist", np.array([], dtype="S1"), r"classlist.npy: .*shape \[0\]"),
        ("videoname", np.array(b"v1"), r"videoname.npy: .*shape \[\]"),
    ],
)
def test_bad_annotations(folder, name, value, message):
    np.save(folder / f"{name}.npy", value)
    with pytest.raises(InputError, match=message):
        read_annotations(folder)


def test_bad_ambiguous_line(folder):
    (folder / "Ambiguous_test.txt").write_text("v2 1 2\nv2 one 2\n")
    with pytest.raises(InputError, match=r"Ambiguous_test.txt: line 2"):
        read_annotations(folder)


def test_unknown_subset(folder):
    with pytest.raises(InputError, match=r"subset 'training'; .*\['test', 'validation'\]"):
        read_annotations(folder).videos_of("training")


# ----------------------------------------------------------------------------------------------- features


def load_path(folder, path, proposals, feature_size=None, **options):
    annotations = read_annotations(folder)
    features = Features(path, annotations.videos, feature_size=feature_size)
    listed = {"all": {name: proposals_of(segments, score=0.1, class_idx=1) for name, segments in proposals.items()}}
    loaded = load_videos(annotations, features, listed, roi_size=12, rate=SNIPPETS_PER_SECOND, **options)
    return {video.name: video for video in loaded["all"]}


def load(folder, *features, **options):
    np.save(folder / "features.npy", objects(*features))
    proposals = {"v1": np.array([[0.0, 0.0]]), "v2": np.array([[0.0, 3.0], [2.0, 99.0]])}
    return load_path(folder, folder / "features.npy", proposals, **options)


def test_videos(folder):
    rng = np.random.default_rng(0)
    features = [rng.random((7, 4)), rng.random((5, 4)).astype(">f4")]  # any float type and byte order
    videos = load(folder, *features)
    assert list(videos) == ["v1", "v2"]
    assert videos["v1"].pooled.shape == (1, 3, 4)  # the proposal [0, 0]
    assert videos["v2"].pooled.shape == (2, 3, 4)  # the second ends far past the video
    assert all(video.pooled.isfinite().all() and video.pooled.dtype == torch.float32 for video in videos.values())
    assert videos["v2"].mean.numpy() == pytest.approx(features[1].mean(0), rel=1e-6)
    assert videos["v2"].labels.tolist() == [1, 1] and videos["v2"].num_snippets == 5
    assert videos["v2"].proposals.tolist() == videos["v2"].segments_snip.tolist() == [[0, 3], [2, 99]]
    assert videos["v2"].listed.score.tolist() == [0.1, 0.1]
    assert videos["v2"].listed.class_idx.tolist() == [1, 1]


def test_videos_of_one_length_may_be_stacked(folder):
    stacked = np.random.default_rng(0).random((2, 6, 4)).astype(np.float32)
    np.save(folder / "features.npy", stacked)
    proposals = {"v1": np.array([[0.0, 2.0]])}
    assert load_path(folder, folder / "features.npy", proposals)["v1"].num_snippets == 6


def load_folder(folder, features, **options):
    """The same as `load`, from a file per video."""
    for name, array in features.items():
        np.save(folder / f"{name}.npy", array)
    proposals = {"v1": np.array([[0.0, 0.0]]), "v2": np.array([[0.0, 3.0], [2.0, 99.0]])}
    return load_path(folder, folder, proposals, **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_file_per_video_gives_the_same(folder, dtype):
    rng = np.random.default_rng(0)
    features = {"v1": rng.random((7, 4)).astype(dtype), "v2": rng.random((5, 4)).astype(dtype)}
    whole, split = load(folder, *features.values()), load_folder(folder, features)
    for name, video in whole.items():
        assert torch.equal(video.pooled, split[name].pooled) and torch.equal(video.mean, split[name].mean)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_with_every_cache_the_numbers_are_the_same(folder, dtype):
    features = {"v1": np.random.default_rng(0).random((7, 4)), "v2": np.random.default_rng(1).random((5, 4))}
    kept = list(load_folder(folder, features, pooled_dtype=dtype).values())
    for cache, videos in (
        ("host", list(load_folder(folder, features, pooled_dtype=dtype, cache="host").values())),
        ("none", list(load_folder(folder, features, pooled_dtype=dtype, cache="none").values())),
        ("none", list(load(folder, *features.values(), pooled_dtype=dtype, cache="none").values())),
    ):
        assert all((video.pooled is None) == (cache == "none") for video in videos)
        for max_proposal in (None, 1):
            a, b = (make_batch(v, [1, 0], max_proposal, torch.Generator().manual_seed(3)) for v in (kept, videos))
            assert torch.equal(a.rows, b.rows) and torch.equal(a.proposals, b.proposals) and a.sizes == b.sizes
            assert a.rows.dtype == torch.float32


def test_a_file_that_changes_while_it_is_used_is_named(folder):
    videos = list(load_folder(folder, {"v1": np.ones((7, 4)), "v2": np.ones((5, 4))}, cache="none").values())
    np.save(folder / "v2.npy", np.ones((1, 4)))
    make_batch(videos, [0])
    with pytest.raises(InputError, match=r"v2.npy: video v2: .*changed .*\[1, 4\].*\[5, 4\]"):
        make_batch(videos, [0, 1])


def test_long_videos_are_read_again_a_few_at_a_time(folder, monkeypatch):
    features = {"v1": np.random.default_rng(0).random((7, 4)), "v2": np.random.default_rng(1).random((5, 4))}
    videos = list(load_folder(folder, features, cache="none").values())
    together, asked = make_batch(videos, [1, 0, 1]).rows, []
    monkeypatch.setattr(dataset, "RAW_AT_A_TIME", 6 * 4)
    monkeypatch.setattr(
        dataset, "host_memory", lambda shape, *args: asked.append(shape) or torch.empty(shape, dtype=args[0])
    )
    assert torch.equal(make_batch(videos, [1, 0, 1]).rows, together) and asked == [(12, 4), (5, 4)]


def test_a_file_is_looked_for_once(folder, monkeypatch):
    """On a network file system, each `stat` is a round trip."""
    looks, stat = [], os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: looks.append(str(path)) or stat(path, **options))
    videos = list(load_folder(folder, {"v1": np.ones((7, 4)), "v2": np.ones((5, 4))}, cache="none").values())
    for _ in range(5):
        make_batch(videos, [0, 1])
    assert sorted(path for path in looks if "v1" in path or "v2" in path) == [
        str(folder / f"{name}.npy") for name in ("v1", "v2")
    ]


def test_a_missing_file_is_named_but_only_if_the_video_is_used(folder):
    with pytest.raises(InputError, match=r"1 of 2 .*: v1; .*<video>\.npy"):
        load_folder(folder, {"v2": np.ones((5, 4))})
    proposals = {"v2": np.array([[0.0, 3.0]])}
    assert list(load_path(folder, folder, proposals)) == ["v2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no array", r"v1.npy: not .*\.npy"),
        (None, r"v1.npy: not .*\.npy"),
        (np.array([1, "a"], dtype=object), r"v1.npy: not .*\.npy"),
        (np.array("text"), r"v1.npy: video v1: .*\[T, D\].*<U4 \[\]"),
        (np.full((2, 4), np.nan), r"v1.npy: video v1: snippet 0 .*finite"),
    ],
)
def test_bad_files(folder, content, message):
    good = {"v2": np.ones((5, 4))}
    if isinstance(content, np.ndarray):
        np.save(folder / "v1.npy", content)
    else:
        np.save(folder / "v1.npy", np.ones((5, 4)))
        (folder / "v1.npy").write_bytes(content or (folder / "v1.npy").read_bytes()[:-1])  # one byte short
    with pytest.raises(InputError, match=message):
        load_folder(folder, good)


def test_a_video_name_cannot_leave_the_folder(folder):
    np.save(folder / "videoname.npy", np.array(["../v1", "v2"]))
    with pytest.raises(InputError, match=r"video '../v1' .*file name"):
        load_path(folder, folder, {"../v1": np.array([[0.0, 3.0]])})


@pytest.mark.parametrize(
    ("device", "of_device", "of_machine", "chosen"),
    [
        (CPU, None, 1001, "memory"),
        (CPU, None, 999, "none"),
        (CPU, None, None, "memory"),
        (OTHER, 1001, 0, "memory"),
        (OTHER, 999, 801, "host"),
        (OTHER, 999, 799, "none"),
        (OTHER, None, 0, "memory"),
    ],
)
def test_auto_takes_what_fits_beside_a_step_and_says_why(monkeypatch, caplog, device, of_device, of_machine, chosen):
    free = {OTHER: of_device, CPU: of_machine}
    monkeypatch.setattr(dataset, "free_memory", lambda where: free[where] and free[where] * 1e9 / dataset.USABLE)
    with caplog.at_level("INFO", logger="seal"):
        assert choose_cache(int(800e9), int(200e9), device) == chosen
    [line] = caplog.messages
    assert "800.00 GB" in line and "200.00 GB" in line and dataset.KEPT[chosen] in line and "--cache auto" in line


@pytest.mark.parametrize(("more", "kept"), [(1, True), (-1, False)])
def test_auto_is_told_how_much_room_to_leave(folder, monkeypatch, caplog, more, kept):
    pooled, free = 3 * 3 * 4 * 4, 10_000
    monkeypatch.setattr(dataset, "free_memory", lambda device: free)
    room = dataset.USABLE * free - pooled - more
    with caplog.at_level("INFO", logger="seal"):
        videos = load(folder, np.ones((5, 4)), np.ones((5, 4)), cache="auto", room={4: room}.get)
    assert all((video.pooled is not None) == kept for video in videos.values())
    assert ("stays in memory as a whole" in caplog.text) != kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("cache", ["memory", "host", "none"])
def test_every_cache_serves_another_device(folder, cache, dtype):
    """What is kept by the machine, and what is pooled again, is copied ahead."""
    features = {"v1": np.ones((7, 4)), "v2": np.ones((5, 4))}
    videos = list(load_folder(folder, features, cache=cache, pooled_dtype=dtype, device="meta").values())
    kept = {"memory": OTHER, "host": CPU, "none": None}[cache]
    assert [video.pooled if kept is None else video.pooled.device for video in videos] == [kept, kept]
    for batches in (evaluation_batches(videos), training_batches(videos, 2, 1, torch.Generator().manual_seed(0))):
        [batch] = batches
        assert batch.rows.device == batch.proposals.device == batch.labels.device == OTHER
        assert batch.rows.shape == (sum(batch.sizes), 3, 4) and batch.rows.dtype == torch.float32
        assert isinstance(batches, Generator) and (batches.gi_code.co_name == "prefetch") == (cache != "memory")


def test_float16_cannot_hold_every_difference(folder):
    features = np.ones((5, 4)), np.full((5, 4), 4e4)
    with pytest.raises(InputError, match=r"video v2: .*40000.*float32"):
        load(folder, *features, pooled_dtype=torch.float16)
    load(folder, *features, pooled_dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.ones((4,)), r"video v2: .*\[T, D\].*float64 \[4\]"),
        (np.ones((0, 4)), r"1 of 2 videos have no features: v2; .*--missing_features skip"),
        (np.full((5, 4), "x"), r"video v2: .*\[T, D\].*<U1"),
        (None, r"1 of 2 videos have no features: v2; .*--missing_features skip"),
        (np.ones((5, 6)), r"video v2: features .*6 .*v1 .*4"),
        (np.array([[1.0] * 4, [1, np.inf, 1, 1]]), r"video v2: snippet 1 .*finite"),
    ],
)
def test_bad_features(folder, bad, message):
    with pytest.raises(InputError, match=message):
        load(folder, np.ones((5, 4)), bad)


def test_features_beyond_float32(folder):
    with pytest.raises(InputError, match=r"video v2: snippet 2 .*finite .*float32"):
        load(folder, np.ones((5, 4)), np.array([[1.0] * 4] * 2 + [[1e300] * 4]))


def test_large_features_are_no_error(folder):
    assert load(folder, np.full((5, 4), 3e38), np.ones((5, 4)))["v1"].num_snippets == 5


def test_proposals_in_another_unit(folder):
    proposals = {"v2": np.array([[0.0, 3.0], [100.0, 1e12]])}
    np.save(folder / "features.npy", objects(np.ones((5, 4)), np.ones((5, 4))))
    with pytest.raises(InputError, match=r"video v2: \[64, 6.4e\+11\] s .*outside .*seconds"):
        load_path(folder, folder / "features.npy", proposals)


def test_equally_long_lists_may_be_stacked(folder):
    """numpy stacks them by default."""
    np.save(folder / "labels_all.npy", np.array([["Jump"], ["Throw"]]))
    np.save(folder / "labels.npy", np.array([["Jump"], ["Throw"]]))
    np.save(folder / "segments.npy", np.array([[[0, 1.0]], [[2, 3.0]]]))
    annotations = read_annotations(folder)
    assert annotations.labels.tolist() == [[1, 0], [0, 1]]
    assert annotations.ground_truth("test").values.tolist() == [["v2", 1, 2.0, 3.0]]


def test_a_width_of_one(folder):
    with pytest.raises(InputError, match=r"video v1: .*width 1\b.*at least 2"):
        load(folder, np.ones((5, 1)), np.ones((5, 1)))


def test_feature_size_that_contradicts_the_data(folder):
    with pytest.raises(InputError, match=r"video v1: features .*4 .*--feature_size .*2048"):
        load(folder, np.ones((5, 4)), np.ones((5, 4)), feature_size=2048)


def test_features_of_another_dataset(folder):
    with pytest.raises(InputError, match=r"features.npy: .*1 videos.* annotations .*2"):
        load(folder, np.ones((5, 4)))


# ------------------------------------------------------------------------------------------------ batches


def video(i, num_proposals):
    rows = torch.full((num_proposals, 3, 2), float(i)) + torch.arange(num_proposals)[:, None, None] / 100
    listed = proposals_of(np.column_stack([np.full(num_proposals, i), i + 1 + np.arange(num_proposals) / 100]))
    proposals, no_instance = torch.from_numpy(listed.segments_snip).float(), torch.full((num_proposals,), -1)
    mean, labels = torch.zeros(2), torch.eye(4)[i % 4]
    return Video(f"v{i}", labels, listed, proposals, no_instance, mean, mean, 10, pooled=rows, pool=None)


def test_batch_is_flat():
    videos = [video(i, n) for i, n in enumerate((3, 1, 4))]
    batch = make_batch(videos, [2, 0])
    assert batch.sizes == [4, 3] and batch.videos == [2, 0] and batch.labels.tolist() == torch.eye(4)[[2, 0]].tolist()
    assert batch.rows.shape == (7, 3, 2)
    assert batch.rows[:, 0, 0].floor().tolist() == [2] * 4 + [0] * 3 == batch.proposals[:, 0].tolist()


def test_max_proposal_keeps_rows_and_proposals_together():
    """The release subsamples inside the network and hands the loss the full list."""
    batch = make_batch([video(0, 50), video(1, 5)], [0, 1], max_proposal=20, generator=torch.Generator().manual_seed(1))
    assert batch.sizes == [20, 5]
    chosen = batch.proposals[:20, 1] - 1
    assert len(set(chosen.tolist())) == 20
    assert batch.rows[:20, 0, 0] == pytest.approx(chosen, abs=1e-6)


def test_an_epoch_shuffles_and_drops_the_last_partial_batch():
    videos = [video(i, 1) for i in range(23)]
    generator = torch.Generator().manual_seed(0)
    epochs = [[b.videos for b in training_batches(videos, 10, 3000, generator)] for _ in range(2)]
    for batches in epochs:
        assert [len(b) for b in batches] == [10, 10]
        assert len({i for b in batches for i in b}) == 20
    assert epochs[0] != epochs[1]


def test_testing_sees_every_video_once_in_order():
    videos = [video(i, n) for i, n in enumerate((5, 1, 9, 2))]
    batches = list(evaluation_batches(videos, rows_at_a_time=6))
    assert [b.videos for b in batches] == [[0, 1], [2], [3]]


def test_prefetched_batches_are_the_same_and_few():
    made, before = [], threading.active_count()

    def count():
        for i in range(9):
            made.append(i)
            yield i

    batches = prefetch(count(), CPU, depth=2)
    assert next(batches) == 0
    assert list(batches) == list(range(1, 9)) == made[1:]

    batches = prefetch(count(), CPU, depth=2)
    made.clear()
    next(batches)
    batches.close()  # as when training is interrupted
    assert len(made) <= 3
    assert threading.active_count() == before


def test_batches_are_made_with_few_threads_beside_the_steps():
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    try:
        counts = [*prefetch((torch.get_num_threads() for _ in range(2)), CPU)]
        here, later = torch.get_num_threads(), []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
    finally:
        torch.set_num_threads(before)
    assert counts == [2, 2] and here == 8 and later == [8]


def test_what_is_not_begun_is_not_made_when_nobody_takes_it(monkeypatch):
    made, begun, go_on = [], threading.Event(), threading.Event()

    class Executor(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            go_on.set()
            super().shutdown(wait)

    def slow():
        for i in range(9):
            made.append(i)
            if i == 1:
                begun.set()
                go_on.wait(10)
            yield i

    monkeypatch.setattr(dataset, "ThreadPoolExecutor", Executor)
    batches = prefetch(slow(), CPU, depth=4)
    assert next(batches) == 0 and begun.wait(10)
    batches.close()
    assert made == [0, 1]


def test_errors_in_prefetching_are_raised():
    def broken():
        yield 1
        raise InputError("v1.npy: no such file")

    batches = prefetch(broken(), CPU)
    assert next(batches) == 1
    with pytest.raises(InputError, match=r"v1.npy"):
        next(batches)


# ------------------------------------------------------------------------------------------ the real files


def test_real_thumos_annotations(thumos):
    annotations = read_annotations(thumos / "Thumos14reduced-Annotations")
    assert len(annotations.videos_of("validation")) == 200 and len(annotations.videos_of("test")) == 212
    assert len(annotations.class_names) == 20 and len(annotations.ground_truth("test")) == 3358
    unlabelled = [v for v, row in zip(annotations.videos, annotations.labels, strict=True) if not row.any()]
    assert unlabelled == ["video_test_0000270"]
    assert uninformative_labels(annotations, annotations.videos_of("validation")) is None
    assert annotations.ambiguous["video_test_0000278"].tolist() == [[0.0, 1.4], [95.7, 97.2]]
    for subset, part, count in (("validation", "train", 33_895), ("test", "test", 31_587)):
        path = thumos / f"Proposals_Thumos14reduced_{part}.json"
        proposals = read_proposals(path, annotations.videos_of(subset), SNIPPETS_PER_SECOND)
        assert sum(map(len, proposals.values())) == count
        segments = [of_video.segments_snip for of_video in proposals.values()]
        assert all((p == p.round()).all() for p in segments)  # multiples of 0.64 s are whole snippets


@pytest.mark.parametrize(("year", "num_class", "counts"), [("1.2", 100, [4819, 2383]), ("1.3", 200, [9337, 4575])])
def test_real_activitynet_annotations(activitynet, year, num_class, counts):
    annotations = read_annotations(activitynet / f"ActivityNet{year}-Annotations")
    assert len(annotations.class_names) == num_class
    assert [len(annotations.videos_of(subset)) for subset in ("training", "validation")] == counts
    assert annotations.labels.any(1).all()
    assert uninformative_labels(annotations, annotations.videos_of("training")) is None


def test_a_copy_under_another_name_is_the_same(thumos, tmp_path):
    """Current numpy writes other pickles than those in the public files; both are read."""
    source = thumos / "Thumos14reduced-Annotations"
    before = read_annotations(source)
    for path in source.glob("*.txt"):
        shutil.copyfile(path, tmp_path / path.name)
    by_video = dict(list(before.instances.groupby("video")))
    np.save(tmp_path / "videoname.npy", np.array(before.videos))
    np.save(tmp_path / "subset.npy", np.array(before.subsets))
    np.save(tmp_path / "classlist.npy", np.array(before.class_names))
    names = [[c for c, x in zip(before.class_names, row, strict=True) if x] for row in before.labels]
    np.save(tmp_path / "labels_all.npy", objects(*names))
    np.save(
        tmp_path / "labels.npy",
        objects(*([before.class_names[c] for c in by_video[v]["class_idx"]] for v in before.videos)),
    )
    np.save(
        tmp_path / "segments.npy",
        objects(*(by_video[v][["start_sec", "end_sec"]].values.tolist() for v in before.videos)),
    )
    after = read_annotations(tmp_path)
    assert (after.labels == before.labels).all() and after.instances.equals(before.instances)
