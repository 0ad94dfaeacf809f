"""LAC's network and proposals are LAC's own, see parity/README.md; and its checkpoint is read as published."""

import json
import re
import zlib

import numpy as np
import pytest
import torch
from building import own_dataset

from prepare import lac
from prepare.lac import LacNetwork, candidates, interpolate, outer_inner_contrast, read_lac, runs_as_lac
from prepare.snippet_proposals import result_entries
from proposals import SNIPPETS_PER_SECOND
from utils import InputError, pick_device

# THUMOS14's, as LAC numbers them.
CLASSES = (
    "BaseballPitch", "BasketballDunk", "Billiards", "CleanAndJerk", "CliffDiving", "CricketBowling", "CricketShot",
    "Diving", "FrisbeeCatch", "GolfSwing", "HammerThrow", "HighJump", "JavelinThrow", "LongJump", "PoleVault",
    "Shotput", "SoccerPenalty", "TennisSwing", "ThrowDiscus", "VolleyballSpiking",
)  # fmt: skip
SNIPPETS = {"v_0": 16, "v_1": 37, "v_2": 90, "v_3": 8, "v_4": 200}
SMALL = {"feature_size": 6, "num_class": 2, "hidden": 4}


# ---------------------------------------------------------------------------------------- equal to LAC's


def drawn(name, shape):
    """Numbers that are the same everywhere, from the frozen generator of numpy."""
    return np.random.RandomState(zlib.crc32(f"lac {name}".encode())).standard_normal(shape).astype(np.float32)


def parity_weights():
    weights = {}
    for name, value in LacNetwork(feature_size=64, num_class=20).state_dict().items():
        w = drawn(name, tuple(value.shape))
        if "classifier" in name:
            w *= np.float32(2.6 / np.sqrt(np.prod(w.shape[1:])))
            w[:-1] -= np.float32(0.0025)
        else:
            w *= np.float32(1.2 / np.sqrt(np.prod(w.shape[1:])) if w.ndim > 1 else 0.1)
        weights[name] = torch.from_numpy(w)
    return weights


def parity_features(video):
    count = SNIPPETS[video]
    noise = drawn(video, (count + 8, 64)).astype(np.float64)
    smooth = sum(noise[i : i + count] for i in range(9)) / 3
    return torch.from_numpy(np.maximum(smooth, 0).astype(np.float32))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("lac") / "model.pkl"
    torch.save(parity_weights(), path)
    return path


@pytest.mark.parametrize("class_names", [CLASSES, CLASSES[::-1]], ids=["in LAC's order", "in another"])
def test_proposals_are_those_of_lac(parity, checkpoint, class_names):
    device = pick_device("auto")  # a GPU where there is one
    network = read_lac(checkpoint, class_names, 64).to(device)
    expected = json.loads((parity / "lac_temp_result.json").read_text())["results"]
    assert expected.keys() == SNIPPETS.keys()
    for video, theirs in expected.items():
        found = lac.propose(network, parity_features(video).to(device), rate=SNIPPETS_PER_SECOND)
        ours = result_entries(found, lac.lac_order(class_names), SNIPPETS_PER_SECOND, None, None)
        assert [entry["label"] for entry in ours] == [entry["label"] for entry in theirs], video
        for name, deviation in (("segment", 1e-9), ("score", 1e-6)):
            pair = (np.array([entry[name] for entry in listed]) for listed in (ours, theirs))
            assert np.abs(np.subtract(*pair)).max() <= deviation, video


# ------------------------------------------------------------------------------------- the steps by hand


def test_cells_beyond_the_last_snippet_follow_the_line():
    fine = interpolate(np.array([[0.0], [0.5], [0.25]], np.float32))[:, 0]
    assert len(fine) == 72 and fine[24] == 0.5 and fine[12] == 0.25 and fine[48] == 0.25
    assert fine[60] == pytest.approx(0.25 - 0.25 / 2)
    assert interpolate(np.array([[0.3]], np.float32))[:, 0].tolist() == [np.float32(0.3)] * 24


def test_runs_are_found_but_not_of_the_first_cell_alone():
    inside = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0], [1, 1, 0, 0, 0]], bool)
    found = zip(*(part.tolist() for part in runs_as_lac(inside)), strict=True)
    assert list(found) == [(0, 0, 1), (0, 2, 4), (1, 4, 5), (3, 0, 2)]


def test_contrast_is_over_whole_cells_and_ends_with_the_video():
    sequence = np.array([[1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10]])
    start, end = np.array([2, 0, 3, 0]), np.array([8, 4, 4, 10])
    expected = [
        5.5 - (1 + 2 + 9) / 3,  # a cell and a half on either side: from int(0.5) to int(8.5)
        2.5 - 5,  # nothing before; one cell after
        4 - 3,  # from int(2.75), and to int(3.25)
        5.5,  # nothing around the video
    ]
    assert outer_inner_contrast(sequence, np.zeros(4, int), start, end).tolist() == pytest.approx(expected)


def test_what_is_below_a_threshold_counts_around_runs_of_actionness_alone():
    activation = np.array([0.01, 0.01, 0.3, 0.3, 0.3, 0.3, 0.01, 0.01])
    cells, contrast, first = candidates(activation, np.array([0, 0, 0.61, 0.61, 0.61, 0.61, 0, 0]))
    assert first == 0 and cells[0].tolist() == [0, 8]  # everything is above zero
    assert (cells[1:] == [2, 6]).all() and len(cells) == 1 + 9 + 5  # up to 0.225, and to 0.6
    assert contrast[1:10] == pytest.approx([0.3] * 9) and contrast[10:] == pytest.approx([0.29] * 5)
    assert len(candidates(np.zeros(5), np.zeros(5))[0]) == 0


@pytest.mark.parametrize("count", [1, 2, 7])
def test_short_videos(count):
    torch.manual_seed(0)
    found = lac.propose(LacNetwork(**SMALL), torch.rand(count, 6), rate=2.0)
    assert len(found) and found.segments_snip.min() >= 0 and found.segments_snip.max() <= count


def test_the_most_likely_class_is_taken_alone_or_all_that_are_likely():
    network = LacNetwork(**SMALL).eval()
    for value in network.state_dict().values():
        value.zero_()
    network.cls_module["conv_1"][0].bias.data.fill_(1)
    of_class = network.cls_module["classifier"][0].weight.data[:, 0]  # the logits, for any features
    for logits, classes in (([-2, -1, 0], {1}), ([1, 2, 0], {0, 1}), ([1, -1, 0], {0})):
        of_class[:, 0] = torch.tensor(logits, dtype=torch.float32)
        found = lac.propose(network, torch.rand(9, 6), rate=2.0)
        assert set(found.class_idx.tolist()) == classes
    of_class[2] = 1e6  # all background
    assert len(lac.propose(network, torch.rand(9, 6), rate=2.0)) == 0


def test_classes_are_in_the_order_of_their_first_candidates():
    """The first is active in the background alone, so it has candidates by actionness, which come later."""
    logits = torch.tensor([[200.0, -1, 200], [-200, 3, -5], [-200, 3, -5], [-200, 3, -5]])
    found = lac.propose(lambda _: logits, logits, rate=2.0)
    assert set(found.class_idx.tolist()) == {0, 1} and found.class_idx[0] == 1
    assert (np.diff(found.class_idx) <= 0).all()


def test_outputs_that_are_not_finite_are_told_by_the_score():
    network = LacNetwork(**SMALL).eval()
    network.cls_module["conv_1"][0].weight.data.fill_(1)
    assert np.isnan(lac.propose(network, torch.full((9, 6), 3e38), rate=2.0).score).any()


def test_suppression_is_by_seconds():
    """At a high rate all is short, and what is a second apart counts as near."""
    torch.manual_seed(0)
    network, features = LacNetwork(**SMALL), torch.rand(200, 6) * 5
    few, many = (len(lac.propose(network, features, rate=rate)) for rate in (100.0, 0.1))
    assert 0 < few < many
    best = lac.propose(network, features, rate=0.1, most=5)
    assert len(best) == 5 and (np.diff(best.score) <= 0).all()


# ------------------------------------------------------------------------------------------ checkpoints


def state_of(**changed):
    torch.manual_seed(0)
    return LacNetwork(**{**SMALL, **changed}).state_dict()


def saved(path, content):
    torch.save(content, path)
    return path


@pytest.mark.parametrize("form", ["plain", "state_dict", "model", "module"])
def test_a_checkpoint_loads_in_every_usual_form(tmp_path, form):
    state = dict(state_of())
    content = {"plain": state, "module": {f"module.{name}": value for name, value in state.items()}}
    path = saved(tmp_path / "lac.pkl", content.get(form, {form: state, "epoch": 3}))
    read = read_lac(path, ("a", "b"), 6)
    assert not read.training and all(torch.equal(value, state[name]) for name, value in read.state_dict().items())


def test_classes_in_another_order_are_said(tmp_path, caplog):
    caplog.set_level("INFO")
    path = saved(tmp_path / "lac.pkl", state_of())
    read_lac(path, ("a", "b"), 6)
    assert "notice" not in caplog.text
    read_lac(path, ("b", "a"), 6)
    assert re.search(r"notice: .*order.*lac\.pkl", caplog.text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: state_of(feature_size=8), r"features 8 wide.* 6 wide"),
        (lambda: state_of(num_class=20), r"21 outputs.* 20 classes.* 2 classes"),
        (lambda: {"embed.weight": torch.zeros(2, 2)}, r"not a checkpoint of LAC.*embed\.weight"),
        (lambda: dict(list(state_of().items())[:2]), r"not a checkpoint of LAC.*classifier"),
        (lambda: state_of() | {"cls_module.classifier.0.weight": torch.zeros(3, 5, 1)}, r"LAC.*\[3, 5, 1\]"),
        (
            lambda: state_of() | {"cls_module.conv_1.0.weight": torch.zeros(4, 6)},
            r"LAC.*shape: cls_module\.conv_1",
        ),
        (lambda: state_of() | {"cls_module.conv_1.0.bias": torch.full((4,), np.nan)}, r"bias .*not finite"),
        (lambda: {"a": 1}, r"not a checkpoint of LAC.*: a, "),
        (lambda: [1], r"not a checkpoint of LAC"),
    ],
)
def test_other_checkpoints_are_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=rf"lac\.pkl: .*{message}"):
        read_lac(saved(tmp_path / "lac.pkl", content()), ("a", "b"), 6)


def test_missing_and_damaged_checkpoints(tmp_path):
    with pytest.raises(InputError, match=r"lac\.pkl: .*--lac_ckpt"):
        read_lac(tmp_path / "lac.pkl", ("a", "b"), 6)
    whole = saved(tmp_path / "whole.pkl", state_of()).read_bytes()
    (tmp_path / "cut.pkl").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.pkl: not a readable"):
        read_lac(tmp_path / "cut.pkl", ("a", "b"), 6)


# ------------------------------------------------------------------------------------- the command line


def test_proposals_of_both_parts_are_written_in_full(run_in, tmp_path):
    own_dataset(tmp_path / "data/Mine", num_videos=4)
    path = saved(tmp_path / "lac.pkl", state_of())
    argv = ("--run_type", "proposals", "--dataset_name", "Mine", "--feature_fps", 32, "--lac_ckpt")
    run = run_in(tmp_path)
    status, out, err = run(*argv, path)
    assert status == 0 and out.count("recall @ tIoU") == 2, err
    network = read_lac(path, ("Dive", "Jump"), 6)
    for part, prefix in (("train", "a"), ("test", "b")):
        content = json.loads((tmp_path / f"proposals4Thumos14/Proposals_Mine_{part}.json").read_text())
        assert len(content["results"]) == 4
        for video, entries in content["results"].items():
            features = torch.from_numpy(np.load(tmp_path / f"data/Mine/features/{video}.npy"))
            found = lac.propose(network, features, rate=2.0)
            assert video[0] == prefix and entries == result_entries(found, ("Dive", "Jump"), 2.0, None, None)
            assert len(entries) == len(found) > 0

    before = (tmp_path / "proposals4Thumos14/Proposals_Mine_test.json").read_text()
    (tmp_path / "classes.txt").write_text("Jump\nDive\n")  # which are mapped by name
    status, out, err = run(*argv, path, "--class_list", tmp_path / "classes.txt", "--overwrite")
    assert status == 0 and re.search(r"notice: .*order.*lac\.pkl", out), err
    assert (
        json.loads(before)["results"]
        == json.loads((tmp_path / "proposals4Thumos14/Proposals_Mine_test.json").read_text())["results"]
    )

    assert run(*argv, path)[0] == 2  # what is there is kept
    for wrong in (saved(tmp_path / "w.pkl", state_of(feature_size=8)), tmp_path / "none.pkl"):
        status, _, err = run(*argv, wrong, "--overwrite")
        assert status == 2 and re.search(rf"{wrong.name}: ", err) and len(err.splitlines()) <= 2
