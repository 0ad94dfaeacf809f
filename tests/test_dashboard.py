"""What TensorBoard shows of a run."""

import json
import runpy
import sys
from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util.tensor_util import make_ndarray

from benchmarks.kill import left
from losses import mean_prediction
from options import parse_options, plain_values
from report import dashboard
from runs.log import RunLog
from utils import CannotWrite

ARGV = ("--dataset_name", "Demo", "--max_epoch", 3, "--interval", 2, "--lr", 0.002, "--curve_tiou", 0.45)
pytestmark = pytest.mark.usefixtures("event_files_in_order")
TIMELINES = "test/timelines"
PR = "test_PR/all classes together, tIoU "


@pytest.fixture(scope="module")
def trained(run_once, tmp_path_factory):
    """The lines of metrics.jsonl of a run of three epochs, and its TensorBoard."""
    out = tmp_path_factory.mktemp("dashboard") / "run"
    run_once(*ARGV, "--exp_dir", out, draw=True)
    board = EventAccumulator(str(out / "logs"), size_guidance={"tensors": 0, "images": 0, "histograms": 0})
    board.Reload()
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()], board


def values(board, tag):
    return {event.step: event.value for event in board.Scalars(tag)}


@pytest.fixture
def without_matplotlib(monkeypatch):
    """As if it were not installed."""
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("report.dashboard.NUM_VIDEOS", 1)
    runpy.run_path(dashboard.__file__)  # what every training run imports can still be imported


def test_scalars_of_every_epoch(trained):
    lines, board = trained
    names = ["train/learning_rate", "train/gradient_norm", "speed/videos_per_second", "speed/proposals_per_second"]
    names += [f"weight/{name}" for name in ("loss_prop_mil_orig", "SME_loss", "PC_loss", "SC_loss")]
    names += [f"pseudo_labels/{name}" for name in ("network_agrees", "true", "consistent", "partially_consistent")]
    for name in names:
        assert list(values(board, name)) == [1, 2, 3], name
    assert values(board, "train/learning_rate")[1] == pytest.approx(0.002)
    assert values(board, "weight/PC_loss")[3] == pytest.approx(3.4)
    assert values(board, "weight/SC_loss")[2] == pytest.approx(np.exp(-2 / 4.0))
    assert min(values(board, "train/gradient_norm").values()) > 0
    seconds = lines[0]["seconds"]
    assert values(board, "speed/videos_per_second")[1] == pytest.approx(80 / seconds, rel=0.02)
    assert values(board, "speed/proposals_per_second")[1] == pytest.approx(4012 / seconds, rel=0.02)


def test_pseudo_labels(trained):
    _, board = trained
    agrees = values(board, "pseudo_labels/network_agrees")
    assert all(0 < share <= 1 and share * 80 == pytest.approx(round(share * 80)) for share in agrees.values())
    assert 0.5 < values(board, "pseudo_labels/true")[1] <= 1
    assert values(board, "pseudo_labels/consistent")[1] + values(board, "pseudo_labels/partially_consistent")[1] <= 1


def test_mean_prediction_by_hand():
    logits = torch.tensor([[0.0, 0.0, 9.0], [100.0, 0.0, 9.0], [0.0, 100.0, 9.0]])  # the background does not count
    np.testing.assert_allclose(mean_prediction(logits, [2, 1]), [[0.75, 0.25], [0.0, 1.0]], atol=1e-6)


def test_what_an_evaluation_shows(trained):
    lines, board = trained
    averages = [line["evaluation"]["snippet"]["average"] for line in lines if "evaluation" in line]
    best = values(board, "test_mAP/best average so far, chosen on the test set")
    assert best[2] == pytest.approx(averages[0]) and best[3] == pytest.approx(max(averages))
    for name in ("attention", "completeness"):
        events = board.Histograms(f"test/{name}")
        assert [event.step for event in events] == [2, 3]
        histogram = events[0].histogram_value
        assert histogram.num == 3099 and 0 <= histogram.min <= histogram.max <= 1  # every proposal of a test video
    images = board.Images(TIMELINES)
    assert [event.step for event in images] == [2, 3]
    picture = imread(BytesIO(images[1].encoded_image_string))
    assert picture.shape[1] == 576 and len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 10


def test_precision_recall_is_of_the_chosen_tiou(trained):
    _, board = trained
    events = board.Tensors(f"{PR}0.45")
    assert [tag for tag in board.Tags()["tensors"] if tag.startswith(PR)] == [f"{PR}0.45"]
    true, false, _, missed, precision, recall = make_ndarray(events[-1].tensor_proto)
    assert (true + missed == 271).all() and (np.diff(true) <= 0).all() and (np.diff(false) <= 0).all()
    assert recall == pytest.approx(true / 271)
    assert precision[:10] == pytest.approx((true / (true + false).clip(min=1))[:10])


def test_options_as_text_and_as_hyper_parameters(trained):
    _, board = trained
    event = board.Tensors("options/text_summary")
    text = make_ndarray(event[0].tensor_proto).ravel()[0].decode()
    assert event[0].step == 0 and "lr: 0.002    [default: 5e-05]" in text and "simulated data" in text

    def content(kind):
        metadata = board.SummaryMetadata(f"_hparams_/{kind}")
        return HParamsPluginData.FromString(metadata.plugin_data.content)

    metrics = [info.name.tag for info in content("experiment").experiment.metric_infos]
    assert metrics[0] == "test_mAP/Detection mAP @ IoU = 0.1 : 0.7"
    assert set(metrics) <= set(board.Tags()["scalars"])  # each has a last value
    given = content("session_start_info").session_start_info.hparams
    assert given["lr"].number_value == 0.002 and given["dataset_name"].string_value == "Demo (simulated)"
    options = plain_values(parse_options([str(word) for word in ARGV]))
    assert set(given) == {name for name, value in options.items() if isinstance(value, (bool, int, float, str))}
    assert content("session_end_info").session_end_info.status == 1  # success


def test_a_finished_run_writes_no_more(run, tmp_path):
    out = tmp_path / "run"
    run.train(out, "--max_epoch", 1)
    files, logs = left(out), sorted((out / "logs").iterdir())
    run.train(out, "--max_epoch", 1, "--resume")
    assert left(out) == files and sorted((out / "logs").iterdir()) == logs


def test_options_are_noted_where_a_run_goes_on(run, tmp_path):
    out = tmp_path / "run"
    run.train(out, "--max_epoch", 1, "--interval", 0)
    run.train(out, "--max_epoch", 2, "--interval", 0, "--resume")
    board = EventAccumulator(str(out / "logs"))
    board.Reload()
    assert sorted(event.step for event in board.Tensors("options/text_summary")) == [0, 1]
    assert list(values(board, "loss/loss_total")) == [1, 2]


def test_the_board_says_when_it_cannot_be_written(tmp_path):
    (tmp_path / "logs").write_text("a file")
    log = RunLog(tmp_path)
    with pytest.raises(CannotWrite, match="logs"):
        log.epoch(1, {"loss_total": 1.0}, 1.0, {})


def test_training_without_matplotlib_has_no_timelines_and_says_so_first(run, tmp_path, without_matplotlib):
    """Once, before the first epoch, with the command that installs it; everything else is as always."""
    status, out, err = run(*ARGV[:2], "--max_epoch", 2, "--interval", 1, "--exp_dir", tmp_path)
    assert status == 0, err
    notices = [line for line in out.splitlines() if "matplotlib" in line]
    assert len(notices) == 1 and "pip install matplotlib" in notices[0]
    assert out.index(notices[0]) < out.index("epoch 1")
    board = EventAccumulator(str(tmp_path / "logs"))
    board.Reload()
    assert not board.Tags()["images"] and "test_mAP/Classification mAP" in board.Tags()["scalars"]
    assert (tmp_path / "results.json").exists()


def test_a_run_that_draws_nothing_does_not_ask_for_matplotlib(run, tmp_path, without_matplotlib):
    status, out, _ = run(*ARGV[:2], "--max_epoch", 1, "--interval", 0, "--exp_dir", tmp_path)
    assert status == 0 and "matplotlib" not in out


def test_a_report_without_matplotlib_is_refused(run, tmp_path, without_matplotlib):
    status, _, err = run("--run_type", "report", "--dataset_name", "Demo", "--exp_dir", tmp_path / "run")
    assert status == 2 and len(err.splitlines()) == 1 and "pip install matplotlib" in err
    assert not (tmp_path / "run").exists()
