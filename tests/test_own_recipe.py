"""The recipe for own data: its losses, scores, training length, and whole runs."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from building import batch_of, own_dataset, proposals_of

import main
from dataset import batch_instances
from eval.postprocess import PostProcess, fuse_scores, independent
from losses import Step, independent_logits, instance_overlap, multi_scale_logits, multi_scale_loss
from model import Standardise
from options import parse_options, recipe_of
from proposals import pseudo_instances, roi_pool
from runs.log import read_metrics
from utils import InputError, Settling

OWN = ("--dataset_name", "Own", "--feature_fps", 2, "--snippet_frames", 1, "--batch_size", 3)


# ---------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("Thumos14reduced", "paper"),
        ("ActivityNet1.3", "paper"),
        ("Demo", "paper"),
        ("Thumos14x", "paper"),
        ("Mine", "own"),
    ],
)
def test_the_recipe_follows_from_the_dataset(name, recipe):
    assert recipe_of(name) == parse_options(["--dataset_name", name]).recipe == recipe


def test_what_is_typed_goes_before_the_recipe():
    assert parse_options(["--dataset_name", "Mine", "--lr", "0.5"]).lr == 0.5
    paper, own = (parse_options(["--dataset_name", "Mine", "--recipe", recipe]) for recipe in ("paper", "own"))
    assert paper.lr == 5e-5 and paper.max_epoch == 200 and paper.hidden_size is None and paper.score_fusion == 0
    assert own.lr == 1e-3 and own.hidden_size == 256 and own.score_fusion > 0


# ----------------------------------------------------------------------------------------------- losses


def test_the_scales_of_mil_by_hand():
    logits = torch.arange(16.0)[:, None]  # one class, sixteen proposals
    assert multi_scale_logits(logits, [16])[:, 0, 0].tolist() == [7.5, 11.5, 13.5, 14.5, 15.0]
    two = torch.cat(
        [logits, torch.tensor([[3.0], [1.0]])]
    )  # of two proposals, the strongest one at every scale but all
    assert multi_scale_logits(two, [16, 2])[:, 1, 0].tolist() == [2.0, 3.0, 3.0, 3.0, 3.0]
    labels = torch.tensor([[1.0], [0.0]])
    pooled = multi_scale_logits(two, [16, 2])
    expected = torch.stack([F.softplus(-pooled[:, 0]), F.softplus(pooled[:, 1])]).mean()
    assert multi_scale_loss(two, [16, 2], labels).item() == pytest.approx(expected.item())


def test_classes_are_independent():
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    assert independent_logits(logits).tolist() == [[1.5, -1.5]]
    assert independent_logits(logits[:, [0, 2]]).tolist() == [[1.5]]  # without the other class


def test_pseudo_instances_by_hand():
    listed = proposals_of([[0, 4], [0, 5], [10, 14], [20, 24], [0, 4], [30, 34]])
    listed.score[:] = [1.0, 0.9, 0.85, 0.5, 0.7, np.nan]
    listed.class_idx[:] = [0, 0, 0, 0, 1, 0]
    both = pseudo_instances(listed, np.array([1, 1, 0]), ratio=0.8)
    assert both.tolist() == [0, -1, 0, -1, 1, -1]  # the second overlaps the first, the fourth is too weak
    assert pseudo_instances(listed, np.array([0, 0, 1]), ratio=0.8).tolist() == [-1] * 6
    listed.score[:] -= 2  # negative scores have a best one, too
    assert pseudo_instances(listed, np.array([1, 0, 0]), ratio=0.8).tolist() == [0, -1, -1, -1, -1, -1]
    listed.score[:] += 2
    listed.class_idx[:] = -1
    assert pseudo_instances(listed, np.array([0, 1, 0]), ratio=0.8).tolist() == [1, -1, 1, -1, -1, -1]
    assert pseudo_instances(listed, np.array([1, 1, 0]), ratio=0.8).tolist() == [-1] * 6  # of which label?


def test_overlap_with_the_nearest_pseudo_instance():
    proposals = torch.tensor([[0.0, 4], [0, 2], [10, 14], [0, 4], [6, 8]])
    instances = batch_instances([np.array([1, -1, 1]), np.array([-1, -1])], proposals.device)
    overlap = instance_overlap(proposals, [3, 2], instances, 3)
    assert overlap.tolist() == [[0, 1, 0], [0, 0.5, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]  # the second video has none


def test_labels_without_a_pseudo_instance_teach_nothing():
    """The first video has labels 0 and 1 and an instance of 1 alone; the second has neither label nor instance."""
    batch = batch_of(sizes=[2, 1], proposals=torch.tensor([[0.0, 4], [0, 2], [0, 9]]), labels=torch.eye(2) * 0)
    batch.labels[0] = 1
    batch = replace(batch, instances=batch_instances([np.array([1, -1]), np.array([-1])], batch.labels.device))
    step = Step({}, batch, None, 1)
    assert step.instance_overlap.tolist() == [[0, 1], [0, 0.5], [0, 0]]
    assert step.overlap_is_known.tolist() == [[0, 1], [0, 1], [1, 1]]


def test_standardising_pooled_features_is_that_of_features():
    features = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)) * 3 + 7
    segments = torch.tensor([[10.0, 20.0], [12.0, 30.0]], dtype=torch.float64)
    layer = Standardise(5)
    layer.fit(features.mean(0), features.var(0, correction=0))
    scaled = (features - features.mean(0)) / features.var(0, unbiased=False).mean().sqrt()
    assert torch.allclose(layer(roi_pool(features, segments)), roi_pool(scaled, segments), atol=1e-5)
    layer.fit(torch.ones(5), torch.zeros(5))  # constant features
    assert layer.scale == 1
    with pytest.raises(InputError, match="too large"):
        layer.fit(torch.ones(5), torch.full((5,), torch.inf))


# ----------------------------------------------------------------------------------------------- scores


def test_another_label_does_not_lower_a_score():
    alone, beside = np.array([[2.0, -3.0, 0.0]]), np.array([[2.0, 5.0, 0.0]])
    one = np.ones(1)
    scores, video = zip(*(independent(logits, one, one) for logits in (alone, beside)), strict=True)
    assert scores[0][0, 0] == scores[1][0, 0] and video[0][0] == video[1][0]


def test_fused_scores_by_hand():
    listed = proposals_of([[0, 4], [0, 4], [0, 4], [0, 4]])
    listed.score[:] = [0.5, np.nan, -1.0, 0.5]
    listed.class_idx[:] = [0, 0, 0, -1]
    fused = fuse_scores(np.full((4, 2), 0.25), listed, 0.5)
    assert fused[:, 0] == pytest.approx([(0.25 * 0.5) ** 0.5, 0.5, (0.25 * 1e-6) ** 0.5, (0.25 * 0.5) ** 0.5])
    assert fused[:3, 1].tolist() == [0, 0, 0] and fused[3, 1] == fused[3, 0]


def test_a_proposal_is_a_detection_of_its_class_alone():
    listed = proposals_of([[0, 4], [8, 12]], score=0.5)
    listed.class_idx[:] = [0, 1]
    logits = np.array([[3.0, 3.0, 0.0], [3.0, 3.0, 0.0]]), np.zeros(2), np.zeros(2)
    found = PostProcess(0.1, 1.0, scoring=independent, score_fusion=0.5).detect(*logits, listed)
    assert found.class_idx.tolist() == [0, 1] and found.segment_snip.tolist() == [[0, 4], [8, 12]]
    assert len(PostProcess(0.1, 1.0, scoring=independent).detect(*logits, listed).score) == 4
    listed.class_idx[:] = 1  # then no detection of the other class is possible, so it is not reported
    found = PostProcess(0.1, 1.0, scoring=independent, score_fusion=0.5).detect(*logits, listed)
    assert found.reported.tolist() == [False, True] and found.class_idx.tolist() == [1, 1]


# -------------------------------------------------------------------------------------- how long to train


def lengths(losses, **settings):
    """The epochs that are trained, when the loss of each is as given; ten steps an epoch."""
    settling = Settling(window=20, **settings)
    rates = []
    while len(rates) < (settling.last_epoch or 1000):
        rates.append(settling.rate(len(rates) + 1))
        settling.end_epoch(len(rates), losses(len(rates)), 10)
    return rates


def test_training_ends_when_the_loss_has_settled():
    rates = lengths(lambda epoch: max(1.0, 3 - epoch / 4))  # falls until epoch 8
    constant = rates.count(1.0)
    assert 8 < constant <= 12 and len(rates) == constant + -(-constant // 2)
    falling = rates[constant:]
    assert falling == sorted(falling, reverse=True) and 0 < falling[-1] < 0.2
    longer = lengths(lambda epoch: max(1.0, 3 - epoch / 8))
    assert len(longer) > len(rates)
    assert len(lengths(lambda epoch: 0.9**epoch, most=300)) == 45  # never settles


def test_the_end_of_an_epoch_may_be_repeated():
    once, twice = Settling(window=20), Settling(window=20)
    for epoch in range(1, 9):
        once.end_epoch(epoch, 0.9**epoch, 10)
        for _ in range(2):
            twice.end_epoch(epoch, 0.9**epoch, 10)
    assert once.state_dict() == twice.state_dict() and once.settled is None


@pytest.mark.parametrize("length", [1, 2, 3, 7, 282])
def test_a_known_length(length):
    settling = Settling(length=length)
    assert length <= settling.last_epoch <= length + 2
    assert 0 < settling.rate(length) <= settling.rate(1) == 1 and (length < 8 or settling.rate(length) < 0.1)


def test_settling_goes_on_from_its_state():
    first = Settling(window=20)
    for epoch, loss in enumerate((3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0), 1):
        first.end_epoch(epoch, loss, 10)
    second = Settling(window=20)
    second.load_state_dict(first.state_dict())
    assert first.last_epoch == second.last_epoch is not None
    assert [first.rate(e) for e in (8, 9)] == [second.rate(e) for e in (8, 9)]
    with pytest.raises((TypeError, ValueError)):
        second.load_state_dict({"losses": [None], "settled": None})


# ------------------------------------------------------------------------------------------- whole runs


def test_own_videos_from_features_to_detections(run_in, tmp_path, monkeypatch):
    """The commands of docs/own-videos.md: training ends by itself, a stopped run ends alike, test gives its figures."""
    monkeypatch.setattr(main, "Settling", partial(Settling, window=4, most=16))  # two steps an epoch
    own_dataset(tmp_path / "data" / "Own")
    run = run_in(tmp_path)
    train = ("--run_type", "train", "--interval", 20, *OWN)
    for words in (
        ("--run_type", "proposals", "--proposal_epochs", 20, *OWN),
        ("--run_type", "descriptors", *OWN),
        (*train, "--exp_dir", "whole"),
        (*train, "--exp_dir", "stopped", "--max_epoch", 10),  # while the learning rate falls
        (*train, "--exp_dir", "stopped", "--max_epoch", 1000, "--resume"),
        ("--run_type", "test", "--exp_dir", "test", "--pretrained_ckpt", "whole/ckpt/last_model.pkl", *OWN),
    ):
        status, out, err = run(*words)
        assert status == 0, (words, out, err)
        assert ("recipe own" in out) == (words[1] != "descriptors")
    assert len(read_metrics(tmp_path / "whole/metrics.jsonl").losses) == 12
    whole, stopped = (torch.load(tmp_path / name / "ckpt/last_model.pkl") for name in ("whole", "stopped"))
    assert whole.keys() == stopped.keys() and all(torch.equal(whole[name], stopped[name]) for name in whole)
    detections = [(tmp_path / name / "detections.json").read_text() for name in ("whole", "test")]
    assert detections[0] == detections[1]

    status, _, err = run(*train, "--exp_dir", "held", "--holdout", 0.4, "--interval", 4)
    assert status == 0, err
    results = json.loads((tmp_path / "held/results.json").read_text())
    assert results["holdout"]["epoch"] == results["epoch"]  # not where the loss of the second phase settles

    status, out, err = run("--run_type", "check", "--pretrained_ckpt", "whole/ckpt/last_model.pkl", *OWN)
    assert status == 0, (out, err)
    status, _, err = run(
        "--run_type", "test", "--pretrained_ckpt", "whole/ckpt/last_model.pkl", "--recipe", "paper", *OWN
    )
    assert status == 2 and "--recipe" in err
