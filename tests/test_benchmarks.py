"""The benchmarks run, and what they compare is the same computation, on datasets that main.py can read."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from building import batch_of, criterion, network, own_dataset

from benchmarks import real, run, topk_mil, workload
from benchmarks.padded import padded_step, plain_roi_align
from descriptors import PseudoLabels
from main import main
from proposals import roi_align, roi_pool
from readers.annotations import read_annotations
from utils import InputError


def test_the_padded_step_is_the_same_step():
    rng = torch.Generator().manual_seed(0)
    features = [torch.rand(n, 8, generator=rng) for n in (30, 9, 50)]
    segments = [torch.rand(m, 2, generator=rng).double().sort(1).values * 20 for m in (7, 1, 12)]
    labels = torch.eye(3)
    pseudo = PseudoLabels(torch.arange(3), torch.tensor([True, False, True]), torch.tensor([False, True, False]))
    model = network(8, dropout_ratio=0.0)
    rows = torch.cat([roi_pool(f, s) for f, s in zip(features, segments, strict=True)])
    sizes = [len(s) for s in segments]
    with torch.no_grad():
        batch = batch_of(rows, sizes, torch.cat(segments).float(), labels)
        expected = criterion()(model(batch), batch, pseudo, 1)["loss_total"]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    assert float(padded_step(model, criterion(), optimizer, features, segments, labels, pseudo)) == pytest.approx(
        float(expected), rel=1e-5
    )


def test_plain_pooling_is_the_same_pooling():
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    segments = torch.tensor([[0.0, 0.0], [3.0, 3.5], [-9.0, 4.0], [5.0, 39.0], [35.0, 90.0], [100.0, 120.0]]).double()
    torch.testing.assert_close(plain_roi_align(features, segments), roi_align(features, segments))


def test_the_invented_dataset_has_the_size_of_the_real_one():
    clips = workload.invented_clips()
    for part, (num_videos, num_proposals) in workload.SIZES.items():
        own = [clip for clip in clips if clip.subset == workload.SUBSETS[part]]
        assert len(own) == num_videos
        assert sum(len(clip.segments_sec) for clip in own) == pytest.approx(num_proposals, abs=5)


def test_main_trains_on_the_invented_dataset_and_on_more_of_it(tmp_path, monkeypatch):
    clips = workload.repeated(workload.some_of_each(workload.invented_clips(), 25), 2)
    workload.write_dataset(tmp_path, clips, 8)
    monkeypatch.chdir(tmp_path)
    assert main(["--dataset_name", workload.NAME, "--max_epoch", "1", "--cache", "none"]) == 0


def test_the_real_sizes(thumos):
    clips = workload.real_clips(thumos / "Thumos14reduced-Annotations", thumos)
    annotations = read_annotations(thumos / "Thumos14reduced-Annotations")
    assert [clip.name for clip in clips] == annotations.videos_of("validation") + annotations.videos_of("test")
    assert sum(len(clip.segments_sec) for clip in clips) == 33_895 + 31_587


def test_every_part_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "WIDTH", 8)
    run.main(["--quick", "--json", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    parts = ["pooling", "training epoch", "test pass", "post-processing", "THUMOS14's size", "ActivityNet 1.3's size"]
    assert all(any(part in row["what"] for row in rows) for part in [*parts, "resume.pt"])
    assert all(row["measured"] > 0 for row in rows)


# ------------------------------------------------------------------------------------------ real recordings


def test_padding_changes_nothing_of_the_baseline():
    torch.manual_seed(0)
    model = topk_mil.SnippetClassifier(4, 3).eval()
    videos = [torch.randn(n, 4) for n in (20, 5, 9)]
    rows, real_snippets = topk_mil.padded(videos)
    together = model(rows, real_snippets)
    for i, video in enumerate(videos):
        alone = model(*topk_mil.padded([video]))
        torch.testing.assert_close(together[i, :, : len(video)], alone[0])
        best = alone[0].topk(max(1, len(video) // 8), dim=1).values.mean(1)
        torch.testing.assert_close(topk_mil.video_logits(together, real_snippets)[i], best)


def test_detections_of_the_baseline_by_hand():
    prob = np.full((2, 10), 0.1)
    prob[0, 2:6] = 0.9
    classes, segments, scores = topk_mil.detect(prob, np.array([0.5, 0.1]))
    assert classes.tolist() == [0, 0] and segments.tolist() == [[2, 6], [0, 10]]  # the second is above 0.1 * 0.9
    assert scores == pytest.approx([0.9 - 0.1 + 0.1, 0.42 + 0.1])


@pytest.fixture
def short_real(monkeypatch, tmp_path):
    """Runs benchmarks/real.py on made-up sets, in this process and for an epoch; returns its status and JSON."""

    def run_main(argv, output):
        status = main(argv)
        if status:
            raise InputError(f"main.py: exit status {status}")
        return 1.0

    monkeypatch.setattr(real, "run_main", run_main)
    monkeypatch.setattr(real, "baseline_detections", partial(topk_mil.baseline_detections, epochs=20))

    def run_real(*argv):
        passed_on = ["--", "--batch_size", "3", "--max_epoch", "1", "--proposal_epochs", "1"]
        status = real.main([*map(str, argv), "--json", str(tmp_path / "real.json"), *passed_on])
        return status, json.loads((tmp_path / "real.json").read_text())

    return run_real


def test_the_table_of_real_recordings(short_real, tmp_path, capsys):
    """One set fails, another has figures, and the mean is of those that have."""
    own_dataset(tmp_path / "sets" / "Good")
    own_dataset(tmp_path / "sets" / "Bad")
    (tmp_path / "sets" / "Bad" / "annotations.json").write_text("{}")
    status, content = short_real(tmp_path / "sets", "--seeds", 0, 1)
    assert status == 1 and "annotations.json" in content["sets"]["Bad"]["error"]
    good = content["sets"]["Good"]
    assert good["snippets_per_second"] == 2 and good["seeds"].keys() == {"0", "1"}
    assert good["seeds"]["0"]["results"]["epoch"] == 1 and good["seeds"]["0"]["seconds"]["train"] == 1
    assert all(figure["mean"] is not None for figure in good["figures"].values())
    assert content["mean"]["top-k MIL"]["mean"] == pytest.approx(good["figures"]["top-k MIL"]["mean"])
    rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[0] for row in rows if row.startswith("|")] == [
        "| set",
        "| ---",
        "| Bad",
        "| Good",
        "| mean",
    ]


def test_a_failing_command_leaves_the_baseline(short_real, tmp_path):
    own_dataset(tmp_path / "One", num_videos=2)  # fewer than a batch
    status, content = short_real(tmp_path / "One", "--seeds", 0, "--no_supervised", "--rate", 2)
    record = content["sets"]["One"]["seeds"]["0"]
    assert status == 1 and "SEAL" in record["errors"]
    assert record["figures"]["ours, last"] is None and record["figures"]["supervised"] is None
    assert record["figures"]["top-k MIL"] >= 0 and record["figures"]["recall"] >= 0
