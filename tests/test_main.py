"""The command line, end to end, on a narrow demo dataset."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from options import PRESETS, build_parser, describe, parse_options
from prepare import make_demo as demo
from prepare.split_features import split_features
from readers.arrays import read_array
from utils import InputError


def without_times(lines):
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def weights(folder, name="last"):
    return torch.load(folder / "ckpt" / f"{name}_model.pkl", weights_only=True)


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_and_its_files(run, tmp_path):
    out = tmp_path / "run"
    lines = run.train(out, "--max_epoch", 3, "--interval", 2, "--alpha_1", 2.5)

    epochs = [line for line in lines if "evaluation" not in line]
    assert [line["epoch"] for line in epochs] == [1, 2, 3]
    names = ["loss_total", "loss_prop_mil_orig", "loss_prop_mil_supp", "SME_loss", "PC_loss", "SC_loss"]
    assert all(list(line) == ["epoch", *names, "seconds"] for line in epochs)
    evaluations = [line for line in lines if "evaluation" in line]
    assert [line["epoch"] for line in evaluations] == [2, 3]  # every second, and the last

    rows = np.loadtxt(out / "mAP-results.log")
    assert rows.shape == (2, 1 + 7 + 3 + 2) and rows[:, 0].tolist() == [2, 3]
    snippet = evaluations[1]["evaluation"]["snippet"]
    assert rows[1, 1:8] == pytest.approx(snippet["mAP"], abs=1e-3)
    assert rows[1, 8:11] == pytest.approx(
        [np.mean(snippet["mAP"][:5]), np.mean(snippet["mAP"][2:]), snippet["average"]], abs=1e-3
    )

    results = json.loads((out / "results.json").read_text())
    assert results["epoch"] == 3 and results["checkpoint"].endswith("last_model.pkl")
    assert results["best"]["checkpoint"].endswith("best_model.pkl")
    assert results["best"]["snippet"]["average"] == max(
        line["evaluation"]["snippet"]["average"] for line in evaluations
    )
    assert len(results["snippet"]["tiou"]) == 7 and 0 <= results["classification_accuracy"] <= 100
    assert 0 < results["classification_labels_reported"] <= results["classification_labels"] == 72
    assert [*results["baselines"]] == ["whole_videos"]  # the proposals of the demo have no labels

    detections = json.loads((out / "detections.json").read_text())
    entry = next(iter(detections["results"].values()))[0]
    assert set(entry) == {"label", "score", "segment"} and entry["label"] in demo.CLASSES

    options = (out / "opt.txt").read_text()
    assert "weight_pc (--alpha_1): 2.5    [default: 3.4]" in options and "\nk" not in options
    assert "\nbatch_size: 10\n" in options

    board = EventAccumulator(str(out / "logs"))
    board.Reload()
    tags = {f"loss/{name}" for name in names}
    ranges = ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.1 : 0.5", "0.1 : 0.7", "0.3 : 0.7"]
    tags |= {f"test_mAP/Detection mAP @ IoU = {name}" for name in ranges}
    tags |= {"test_mAP/Classification mAP", "test_mAP/Classification acc"}
    tags |= {"test/labels reported, %", "test/average mAP of whole videos with the reported classes"}
    assert tags < set(board.Tags()["scalars"])  # the others: tests/test_dashboard.py
    assert [event.step for event in board.Scalars("loss/PC_loss")] == [1, 2, 3]


def test_testing_a_checkpoint_gives_the_table_of_its_training(run, tmp_path):
    run.train(tmp_path / "train", "--max_epoch", 2, "--interval", 2)
    checkpoint = tmp_path / "train" / "ckpt" / "last_model.pkl"
    argv = ("--run_type", "test", "--dataset_name", "Demo", "--pretrained_ckpt", checkpoint)
    status, out, err = run(*argv, "--exp_dir", tmp_path / "test")
    assert status == 0, err
    trained, tested = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("train", "test"))
    for name in ("snippet", "seconds", "classification_mAP", "classification_accuracy"):
        assert trained[name] == tested[name]
    assert tested["checkpoint"] == str(checkpoint)
    files = [(tmp_path / name / "detections.json").read_bytes() for name in ("train", "test")]
    assert files[0] == files[1]

    # and so does evaluating the detections it wrote, without features or proposals
    status, printed, err = run(
        "--run_type", "eval", "--dataset_name", "Demo", "--exp_dir", tmp_path / "eval",
        "--detections", tmp_path / "test" / "detections.json",
    )  # fmt: skip
    assert status == 0, err
    evaluated = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert evaluated["snippet"] == tested["snippet"] and evaluated["seconds"] == tested["seconds"]
    table = re.compile(r"^(snippet|seconds) .*$", re.MULTILINE)
    assert table.findall(printed) and table.search(printed).group() == table.search(out).group()


def test_same_seed_same_numbers_and_evaluation_changes_nothing(run, tmp_path):
    argv = ("--max_epoch", 4, "--max_proposal", 20)
    first = run.train(tmp_path / "a", *argv, "--interval", 1)
    again = run.train(tmp_path / "b", *argv, "--interval", 1)
    twice = run.train(tmp_path / "c", *argv, "--interval", 2)
    never = run.train(tmp_path / "d", *argv, "--interval", 0)
    other = run.train(tmp_path / "e", *argv, "--interval", 0, "--seed", 1)

    assert without_times(first) == without_times(again)
    assert len(never) == 4 and not (tmp_path / "d" / "results.json").exists()
    epochs = [without_times([line for line in lines if "evaluation" not in line]) for lines in (first, twice, never)]
    assert epochs[0] == epochs[1] == epochs[2] != without_times(other)
    assert all(same_weights(weights(tmp_path / "a"), weights(tmp_path / name)) for name in "bcd")
    assert not same_weights(weights(tmp_path / "a"), weights(tmp_path / "e"))


def test_training_learns_and_an_untrained_network_does_not(run, tmp_path):
    lines = run.train(tmp_path / "run", "--max_epoch", 15, "--interval", 15, "--lr", 5e-3)
    learned = lines[-1]["evaluation"]["snippet"]["average"]
    run.train(tmp_path / "none", "--max_epoch", 1, "--lr", 1e-12)
    untrained = json.loads((tmp_path / "none" / "results.json").read_text())["snippet"]["average"]
    assert untrained < 10 and learned > 40


def test_training_starts_from_given_weights(run, tmp_path):
    run.train(tmp_path / "a", "--max_epoch", 2, "--interval", 0)
    checkpoint = tmp_path / "a" / "ckpt" / "last_model.pkl"
    run.train(tmp_path / "b", "--max_epoch", 1, "--interval", 0, "--lr", 1e-12, "--pretrained_ckpt", checkpoint)
    before, after = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.allclose(before[name], after[name], atol=1e-8) for name in before)


def test_testing_in_a_trained_folder_keeps_its_results(run, tmp_path):
    out = tmp_path / "run"
    run.train(out, "--max_epoch", 1)
    before = {name: (out / f"{name}.json").read_text() for name in ("results", "detections")}
    checkpoint = out / "ckpt" / "best_model.pkl"
    argv = ("--run_type", "test", "--dataset_name", "Demo", "--exp_dir", out, "--pretrained_ckpt", checkpoint)
    status, printed, _ = run(*argv)
    assert status == 0 and "results.1.json" in printed
    assert {name: (out / f"{name}.1.json").read_text() for name in before} == before
    assert (out / "opt.txt").read_text().count("\nrun_type: ") == 2


def test_a_run_does_not_remove_the_weights_it_starts_from(run, tmp_path):
    out = tmp_path / "run"
    run.train(out, "--max_epoch", 1)
    checkpoint = out / "ckpt" / "last_model.pkl"
    status, _, err = run("--dataset_name", "Demo", "--exp_dir", out, "--overwrite", "--pretrained_ckpt", checkpoint)
    assert status == 2 and re.search(f"--overwrite .*{checkpoint}", err) and checkpoint.exists()


def test_exp_dir_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("mine")
    for run_type in ("train", "test"):
        status, _, err = run("--run_type", run_type, "--dataset_name", "Demo", "--exp_dir", tmp_path / "file" / "run")
        assert status == 2 and re.search("--exp_dir .*file/run.* folder", err)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_finished_run_is_not_overwritten_unasked(run, tmp_path):
    out = tmp_path / "run"
    run.train(out, "--max_epoch", 2)
    before = (out / "metrics.jsonl").read_text()
    status, _, err = run("--dataset_name", "Demo", "--exp_dir", out, "--max_epoch", 1)
    assert status == 2 and "--overwrite" in err and (out / "metrics.jsonl").read_text() == before
    # input that turns out bad must not cost the earlier run either
    status, _, err = run("--dataset_name", "Demo", "--exp_dir", out, "--overwrite", "--num_class", 7)
    assert status == 2 and (out / "metrics.jsonl").read_text() == before
    (out / "ckpt" / "mine.txt").write_text("not of the run")
    assert len(run.train(out, "--max_epoch", 1, "--overwrite", "--interval", 0)) == 1
    assert (out / "ckpt" / "mine.txt").exists() and len(list((out / "logs").iterdir())) == 1
    assert not (out / "results.json").exists() and not list((out / "ckpt").glob("best_model.*"))
    assert "evaluation" not in json.loads((out / "ckpt" / "last_model.json").read_text())


# --------------------------------------------------------------------------------------------- bad input


def test_missing_input_lists_every_file_and_the_demo_command(run_in, tmp_path):
    run = run_in(tmp_path)
    status, _, err = run("--run_type", "train")
    assert status == 2 and "Traceback" not in err
    for name in (
        "data/Thumos14reduced/Thumos14reduced-I3D-JOINTFeatures.npy",
        "data/Thumos14reduced/Thumos14reduced-Annotations",
        "proposals4Thumos14/Proposals_Thumos14reduced_train.json",
        "proposals4Thumos14/Proposals_Thumos14reduced_test.json",
        "descriptors/Thumos14reduced/general_motion_descriptors.npy",
    ):
        assert f"  {name}: " in err
    assert "python main.py --run_type train --dataset_name Demo" in err
    assert not (tmp_path / "outputs").exists()


FEATURES = ("--run_type", "features", "--videos", "v", "--i3d_weights", "random")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--num_class", 7], r"--num_class 7: .*Demo-Annotations .*6 classes"),
        (["--feature_size", 2048], r"features .*32 .*--feature_size .*2048"),
        (["--batch_size", 500], r"--batch_size 500: .*80 training"),
        (["--train_subset", "training"], r"subset 'training'"),
        (["--pretrained_ckpt", "none.pkl"], r"none.pkl: .*weights"),
        (["--run_type", "test"], r"checkpoints/best_model.pkl: .*weights"),
        (["--lr", "fast"], r"--lr: .*'fast'"),
        (["--lr", 0], r"--lr: 0 .*\(0, "),
        (["--max_epoch", 0], r"--max_epoch: 0 .*\[1, "),
        (["--pretrained_ckpt", ""], r"--pretrained_ckpt: .*empty"),
        (["--roi_size", 5], r"--roi_size: 5 .*\[6, "),
        (["--dataset_name"], r"^error: .*--dataset_name: .*one argument"),
        (["--lrr", 1], r"--lrr 1"),
        (["--run_type", "eval"], r"--run_type eval .*--detections"),
        (["--run_type", "eval", "--detections", "none.json"], r"none.json: .*detections"),
        (["--device", "cuda:77"], r"--device cuda:77"),
        (["--run_type", "features", "--videos", "v"], r"--run_type features .*--videos .*--i3d_weights"),
        ([*FEATURES, "--shard", "5/4"], r"--shard: '5/4' .*1/4, 2/4"),
        ([*FEATURES, "--crop", 3], r"--crop 3: .*center, resize, ten"),
        ([*FEATURES, "--snippet_frames", 2.5], r"--snippet_frames 2.5: .*whole number"),
        (["--crop", "ten"], r"--crop ten: .*number"),
        (["--lac_ckpt", "lac.pkl"], r"--lac_ckpt .*--run_type proposals or detect"),
    ],
)
def test_bad_command_lines(run, tmp_path, argv, message):
    status, _, err = run("--dataset_name", "Demo", "--exp_dir", tmp_path / "run", *argv)
    assert status == 2 and re.search(message, err) and "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_dataset_name_cannot_leave_its_folder(run):
    for name in ("../Demo", "..", "", "a/b"):
        status, _, err = run("--dataset_name", name)
        assert status == 2 and re.search("--dataset_name.*name", err)


def test_the_demo_is_made_on_first_use(run_in, tmp_path, monkeypatch):
    """Also after a first time that was cut short: the features are written last."""
    made = count_demos(monkeypatch)
    run = run_in(tmp_path)
    (tmp_path / "data" / "Demo").mkdir(parents=True)
    run.train(tmp_path / "a", "--max_epoch", 1, "--interval", 0)
    run.train(tmp_path / "b", "--max_epoch", 1, "--interval", 0)
    assert len(made) == 1


def test_the_demo_is_made_at_its_own_place_whatever_the_first_command(run_in, tmp_path, monkeypatch):
    made = count_demos(monkeypatch)
    run = run_in(tmp_path)
    argv = ("--run_type", "proposals", "--dataset_name", "Demo", "--proposals_root", "made", "--proposal_epochs", 1)
    status, _, err = run(*argv)
    assert status == 0, err
    names = ("train.json", "test.json", "network.pkl", "network.json")
    assert {path.name for path in (tmp_path / "made").iterdir()} == {f"Proposals_Demo_{name}" for name in names}
    assert (tmp_path / "proposals4Thumos14" / "Proposals_Demo_test.json").is_file()
    run.train(tmp_path / "run", "--max_epoch", 1, "--interval", 0)
    assert len(made) == 1


def count_demos(monkeypatch):
    """Have small demos made; returns a list that has an entry for each."""
    made, make_demo = [], demo.make_demo
    monkeypatch.setattr(demo, "make_demo", lambda: made.append(make_demo(feature_size=16)))
    return made


def copy_home(demo_home, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(demo_home, home)
    return home


def test_bad_descriptors(demo_home, run_in, tmp_path):
    home = copy_home(demo_home, tmp_path)
    path = home / "descriptors" / "Demo" / "general_motion_descriptors.npy"
    good = read_array(path)
    bad = good.copy()
    bad[3, 1] = np.nan
    run = run_in(home)
    for array, message in ((good[:, :8], r"\[6, 16\]"), (bad, "class 3 .*finite")):
        np.save(path, array)
        status, _, err = run("--dataset_name", "Demo")
        assert status == 2 and "general_motion_descriptors.npy" in err and re.search(message, err)


def test_missing_proposals(demo_home, run_in, tmp_path):
    home = copy_home(demo_home, tmp_path)
    path = home / "proposals4Thumos14" / "Proposals_Demo_train.json"
    content = json.loads(path.read_text())
    del content["results"]["demo_train_0002"]
    path.write_text(json.dumps(content))
    run = run_in(home)
    status, _, err = run("--dataset_name", "Demo")
    assert status == 2 and re.search(r"Proposals_Demo_train\.json: 1 of 80 .*: demo_train_0002", err)
    run.train(tmp_path / "run", "--max_epoch", 1, "--missing_proposals", "empty")


def test_video_without_label(demo_home, run_in, tmp_path):
    """Training and test videos without a video-level label, such as video_test_0000270, are no obstacle."""
    home = copy_home(demo_home, tmp_path)
    path = home / "data" / "Demo" / "Demo-Annotations" / "labels_all.npy"
    labels = read_array(path)
    labels[0] = labels[-1] = []
    np.save(path, labels)
    lines = run_in(home).train(tmp_path / "run", "--max_epoch", 2)
    assert all(np.isfinite(line["loss_total"]) for line in lines if "loss_total" in line)


def test_without_any_test_label_there_is_no_classification_map(demo_home, run_in, tmp_path):
    home = copy_home(demo_home, tmp_path)
    path = home / "data" / "Demo" / "Demo-Annotations" / "labels_all.npy"
    labels = read_array(path)
    labels[80:] = [[] for _ in labels[80:]]
    np.save(path, labels)
    lines = run_in(home).train(tmp_path / "run", "--max_epoch", 1)
    assert lines[-1]["evaluation"]["classification_mAP"] is None
    assert json.loads((tmp_path / "run" / "results.json").read_text())["classification_mAP"] is None


def test_without_ground_truth_there_are_detections_alone(demo_home, run_in, tmp_path):
    home = copy_home(demo_home, tmp_path)
    folder = home / "data" / "Demo" / "Demo-Annotations"
    for name in ("labels", "segments"):
        array = read_array(folder / f"{name}.npy")
        array[80:] = [[] for _ in array[80:]]
        np.save(folder / f"{name}.npy", array)
    run, argv = run_in(home), ("--dataset_name", "Demo", "--exp_dir")
    status, out, err = run(*argv, tmp_path / "train", "--max_epoch", 1)
    assert status == 0, err
    assert re.search("subset 'test' .*instances", out) and "mAP not computed" in out and "detections.json" in out
    checkpoint = tmp_path / "train" / "ckpt" / "last_model.pkl"
    status, out, err = run(*argv, tmp_path / "test", "--run_type", "test", "--pretrained_ckpt", checkpoint)
    assert status == 0 and "mAP not computed" in out, err
    assert "video classification: mAP" in out  # the test videos have labels
    found = [(tmp_path / part / "detections.json").read_bytes() for part in ("train", "test")]
    assert found[0] == found[1] and len(json.loads(found[0])["results"]) == 60
    assert not any((tmp_path / part / "results.json").exists() for part in ("train", "test"))
    argv = (*argv, tmp_path / "eval", "--run_type", "eval", "--detections", tmp_path / "test" / "detections.json")
    status, _, err = run(*argv)
    assert status == 2 and re.search("instance.* subset 'test'", err)


def test_class_without_ground_truth(demo_home, run_in, tmp_path):
    home = copy_home(demo_home, tmp_path)
    path = home / "data" / "Demo" / "Demo-Annotations" / "classlist.npy"
    np.save(path, np.append(read_array(path), b"Nothing"))
    (home / "descriptors" / "Demo" / "classes.json").unlink()  # as with descriptors from elsewhere
    for path in (home / "proposals4Thumos14").iterdir():  # and proposals
        path.write_text(json.dumps(json.loads(path.read_text()) | {"external_data": {}}))
    for name in ("appearance", "motion"):
        path = home / "descriptors" / "Demo" / f"general_{name}_descriptors.npy"
        np.save(path, np.vstack([read_array(path), np.ones((1, 16), np.float32)]))
    run = run_in(home)
    status, out, err = run("--dataset_name", "Demo", "--max_epoch", 1, "--exp_dir", tmp_path / "run")
    assert status == 0, err
    assert re.search("ground truth .*: Nothing", out)


def test_loss_that_is_not_finite_stops_the_run(demo_home, run_in, tmp_path):
    home = copy_home(demo_home, tmp_path)
    path = home / "data" / "Demo" / "Demo-I3D-JOINTFeatures.npy"
    features = read_array(path)
    features[6] = features[6] * np.float32(1e30)  # finite, but its square is not
    np.save(path, features)
    status, _, err = run_in(home)("--dataset_name", "Demo", "--exp_dir", tmp_path / "run", "--max_epoch", 5)
    assert status == 2 and re.search(r"epoch 1, step \d: \w+ .*finite.* videos .*demo_train_0007", err)
    assert not (tmp_path / "run" / "ckpt" / "last_model.pkl").exists()


def test_an_internal_fault_keeps_its_traceback(run, monkeypatch):
    monkeypatch.setattr("main.load_data", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("--dataset_name", "Demo", "--exp_dir", "unused")


# ------------------------------------------------------------------------------- caches, files per video, precision


def test_no_cache_and_a_file_per_video_change_no_number(demo_home, run_in, tmp_path):
    home = copy_home(demo_home, tmp_path)
    run = run_in(home)
    expected = without_times(run.train(tmp_path / "kept", "--max_epoch", 2, "--cache", "host"))
    for i, prepare in enumerate((None, lambda: split_features("Demo", home / "data" / "Demo", np.dtype("float32")))):
        if prepare:
            prepare()
            (home / "data" / "Demo" / "Demo-I3D-JOINTFeatures.npy").unlink()
        out = tmp_path / f"none{i}"
        assert without_times(run.train(out, "--max_epoch", 2, "--cache", "none")) == expected
        assert same_weights(weights(out), weights(tmp_path / "kept"))
        assert (out / "detections.json").read_bytes() == (tmp_path / "kept" / "detections.json").read_bytes()


def test_a_video_whose_file_is_gone_stops_the_run(demo_home, run_in, tmp_path):
    home = copy_home(demo_home, tmp_path)
    split_features("Demo", home / "data" / "Demo", np.dtype("float16"))
    (home / "data" / "Demo" / "features" / "demo_train_0003.npy").unlink()
    status, _, err = run_in(home)("--dataset_name", "Demo", "--exp_dir", tmp_path / "run")
    assert status == 2 and re.search("features: 1 of 140 .*: demo_train_0003", err)
    assert not (tmp_path / "run").exists()


def test_splitting_features(demo_home, tmp_path):
    home = copy_home(demo_home, tmp_path)
    root = home / "data" / "Demo"
    array = root / "Demo-I3D-JOINTFeatures.npy"
    before = read_array(array)
    before[5] = before[5] * np.float32(1e5)
    np.save(array, before)
    with pytest.raises(InputError, match=r"video demo_train_0006: features .*float16"):
        split_features("Demo", root, np.dtype("float16"))
    assert not (root / "features").exists()
    folder = split_features("Demo", root, np.dtype("float32"))
    assert len(list(folder.iterdir())) == 140 and not (root / "features.part").exists()
    assert (np.load(folder / "demo_train_0006.npy") == before[5]).all()
    with pytest.raises(InputError, match="features exists"):
        split_features("Demo", root, np.dtype("float32"))


def test_bfloat16_is_near_and_loses_nothing_by_keeping_its_input_in_bfloat16(run, tmp_path):
    total = {}
    for name, argv in (
        ("float32", []),
        ("bfloat16", ["--precision", "bfloat16"]),
        ("wide", ["--precision", "bfloat16", "--pooled_dtype", "float32"]),
    ):
        total[name] = [line["loss_total"] for line in run.train(tmp_path / name, "--max_epoch", 3, *argv)[:3]]
    assert same_weights(weights(tmp_path / "bfloat16"), weights(tmp_path / "wide"))
    assert total["bfloat16"] == total["wide"] == pytest.approx(total["float32"], rel=0.02)
    assert not same_weights(weights(tmp_path / "bfloat16"), weights(tmp_path / "float32"))
    assert "pooled_dtype: bfloat16\n" in (tmp_path / "bfloat16" / "opt.txt").read_text()  # not marked as changed


# ------------------------------------------------------------------------------------------------ options


def test_precedence_of_options():
    assert parse_options([]).lr == 5e-5
    assert parse_options(["--dataset_name", "Demo"]).lr == PRESETS["Demo"]["lr"]
    assert parse_options(["--lr", "0.5", "--dataset_name", "Demo"]).lr == 0.5
    assert parse_options(["--dataset_name=ActivityNet1.3"]).tiou == "activitynet"
    assert parse_options([]).rate == 25 / 16 and parse_options(["--feature_fps", "30"]).rate == 30 / 16


def test_presets_name_options():
    known = {action.dest for action in build_parser()._actions}
    assert all(set(preset) <= known for preset in PRESETS.values())


RELEASED = """exp_dir run_type dataset_name dataset_root descriptors_root num_class feature_size roi_size max_proposal
pretrained_ckpt batch_size lr weight_decay dropout_ratio seed max_epoch alpha_1 alpha_2 alpha_3 alpha_4 alpha_5 alpha_6
interval k gamma threshold_cls"""


def test_released_names_still_work():
    flags = {flag for action in build_parser()._actions for flag in action.option_strings}
    assert {f"--{name}" for name in RELEASED.split()} <= flags


def test_help_names_every_default(capsys):
    with pytest.raises(SystemExit):
        parse_options(["--help"])
    text = "".join(capsys.readouterr().out.split())  # argparse breaks lines at hyphens, too
    assert "(default:None)" not in text
    for action in build_parser()._actions:
        if action.default not in (None, "==SUPPRESS==") and action.default is not False:
            assert f"{action.help}(default:{action.default})".replace(" ", "") in text


@pytest.mark.parametrize(("argv", "status"), [(["--help"], 0), (["--epochs", "3"], 2)])
def test_the_command_line_is_read_before_what_takes_long_to_import(argv, status, tmp_path):
    for package in ("torch", "pandas", "matplotlib", "joblib"):
        (tmp_path / f"{package}.py").write_text("raise RuntimeError('imported')")
    main = Path(__file__).resolve().parents[1] / "main.py"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, main, *argv], env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "--max_epoch" in done.stdout if status == 0 else "--epochs 3" in done.stderr


def test_describe_marks_what_differs():
    assert describe(parse_options([]), changed_only=True) == []
    options = parse_options(["--gamma", "0.5", "--dataset_name", "Mine", "--recipe", "paper"])
    assert describe(options, changed_only=True) == [
        "recipe: paper    [default: own]",
        "dataset_name: Mine    [default: Thumos14reduced]",
        "pseudo_instance_ratio (--gamma): 0.5    [default: 0.8]",
    ]


# ------------------------------------------------------------------------------------------- the real files


def test_reference_figures_on_the_real_annotations(thumos, run_in, tmp_path):
    """SPEC section 7's table, the rows with ties decided as it says."""
    status, _, err = run_in(tmp_path)(
        "--run_type", "eval", "--dataset_name", "Thumos14reduced", "--dataset_root", thumos,
        "--detections", thumos / "Proposals_Thumos14reduced_test.json",
    )  # fmt: skip
    assert status == 0, err
    results = json.loads((tmp_path / "outputs" / "results.json").read_text())
    expected = {
        "snippet": [68.058, 62.841, 53.986, 45.509, 36.342, 24.694, 12.326, 43.394],
        "seconds": [68.339, 62.401, 53.600, 44.028, 33.481, 22.918, 12.233, 42.428],
    }
    for protocol, values in expected.items():
        found = [*results[protocol]["mAP"], results[protocol]["average"]]
        assert [round(value, 3) for value in found] == values
