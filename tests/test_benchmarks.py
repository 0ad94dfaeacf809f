"""The benchmarks run, and what they compare is the same computation, on datasets that main.py can read."""

import json

import pytest
import torch
from building import batch_of, criterion, network

from benchmarks import run, workload
from benchmarks.padded import padded_step, plain_roi_align
from descriptors import PseudoLabels
from main import main
from proposals import roi_align, roi_pool
from readers.annotations import read_annotations


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
