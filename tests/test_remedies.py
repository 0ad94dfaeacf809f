"""Every message that names an option or a command as its remedy: the error is made, and its remedy carried out."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from building import own_dataset

import main
from report.page import Page

TRAIN = "--run_type train --max_epoch 1 --interval 0"
BASE = ("--dataset_name", "T", "--batch_size", 2, "--feature_fps", 32)
PATHS = {
    "annotations": "data/T/annotations.json",
    "proposals": "proposals4Thumos14/Proposals_T_test.json",
    "detections": "out/detections.json",
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A small dataset with proposals, descriptors, and a finished run in `out`. Tests must not change it."""
    home = tmp_path_factory.mktemp("remedies")
    own_dataset(home / "data/T")
    (home / "proposals4Thumos14").mkdir()
    for part, videos in (("train", "a"), ("test", "b")):
        entries = {f"{videos}{i}": [{"segment": [float(s), s + 4.0]} for s in range(0, 12, 2)] for i in range(6)}
        (home / f"proposals4Thumos14/Proposals_T_{part}.json").write_text(json.dumps({"results": entries}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for argv in (("--run_type", "descriptors"), ("--max_epoch", 2, "--exp_dir", "out")):
            assert main.main([*map(str, BASE), *map(str, argv)]) == 0
    return home


def edit(name: str, change: Callable) -> Callable[[Path], None]:
    """Changes the content of a JSON file."""

    def apply(home: Path) -> None:
        path = home / PATHS.get(name, name)
        content = json.loads(path.read_text())
        change(content["database" if name == "annotations" else "results"] if name in PATHS else content)
        path.write_text(json.dumps(content))

    return apply


def write(name: str, content: object) -> Callable[[Path], None]:
    """Writes a file: an array, or text."""

    def apply(home: Path) -> None:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            (home / name).write_text(content)
        else:
            np.save(home / name, content)

    return apply


def unlink(name: str) -> Callable[[Path], None]:
    return lambda home: (home / name).unlink()


class Case:
    """A mistake, and what its message advises.

    Args:
        make: the mistake in the files, if there is one.
        command: that fails.
        message: of it.
        remedies: commands, the last of which must succeed; `+` stands for the first command.
    """

    def __init__(self, make: Callable[[Path], None] | None, command: str, message: str, *remedies: str) -> None:
        self.make, self.command, self.message, self.remedies = make, command, message, remedies


EVAL, REPORT = "--run_type eval --detections out/detections.json --exp_dir ev", "--run_type report --exp_dir out"
TEST = "--run_type test --exp_dir te --pretrained_ckpt out/ckpt/last_model.pkl"
CASES = {
    # files of the dataset
    "no descriptors": Case(
        lambda home: shutil.rmtree(home / "descriptors"),
        f"{TRAIN} --exp_dir new",
        "--run_type descriptors",
        "--run_type descriptors",
        "+",
    ),
    "other descriptors": Case(
        write("descriptors/T/general_motion_descriptors.npy", np.ones((3, 3))),
        f"{TRAIN} --exp_dir new",
        "--run_type descriptors --overwrite",
        "--run_type descriptors --overwrite",
        "+",
    ),
    "no proposals": Case(
        unlink(PATHS["proposals"]),
        f"{TRAIN} --exp_dir new",
        "--run_type proposals",
        "--run_type proposals --overwrite --proposal_epochs 1",
        "+",
    ),
    "a video without proposals": Case(
        edit("proposals", lambda results: results.pop("b0")),
        TEST,
        "--missing_proposals empty",
        "+ --missing_proposals empty",
    ),
    "a video without proposals, made again": Case(
        edit("proposals", lambda results: results.pop("b0")),
        TEST,
        "--run_type proposals --overwrite, or",
        "--run_type proposals --overwrite --proposal_epochs 1",
        "+",
    ),
    "a video without features": Case(
        unlink("data/T/features/b0.npy"), TEST, "--missing_features skip", "+ --missing_features skip"
    ),
    "descriptors there": Case(None, "--run_type descriptors", "pass --overwrite", "+ --overwrite"),
    "proposals there": Case(None, "--run_type proposals --proposal_epochs 1", "pass --overwrite", "+ --overwrite"),
    "damaged proposals": Case(
        write(PATHS["proposals"], "{"),
        "--run_type proposals --proposal_epochs 1",
        "pass --overwrite",
        "+ --overwrite",
    ),
    # options against the data
    "batch": Case(None, f"{TRAIN} --exp_dir new --batch_size 7", "only 6 training .*smaller", "+ --batch_size 6"),
    "classes": Case(None, f"{EVAL} --num_class 3", "has 2 classes; leave it out", EVAL),
    "subset": Case(None, f"{EVAL} --test_subset x", "'validation'.*--test_subset", "+ --test_subset validation"),
    "width": Case(None, f"{TEST} --feature_size 8", "--feature_size is 8; leave it out", TEST),
    "class list": Case(
        write("list.txt", "Jump\n"), f"{EVAL} --class_list list.txt", "not in list.txt: Dive; add it there", EVAL
    ),
    "device": Case(None, f"{TEST} --device cuda:99", "try --device cpu", "+ --device cpu"),
    "held out": Case(None, f"{TRAIN} --exp_dir new --holdout 0.2", "--interval of 1 or more", "+ --interval 1"),
    "float16": Case(
        write("data/T/features/b0.npy", np.full((30, 6), 6e4, np.float32)),
        f"{TEST} --pooled_dtype float16",
        "choose float32",
        "+ --pooled_dtype float32",
    ),
    # detections
    "no detections": Case(None, "--run_type eval", "--detections FILE", EVAL),
    "an unknown class": Case(
        write(PATHS["detections"], json.dumps({"results": {"b0": [{"label": "Fly", "score": 1, "segment": [0, 1]}]}})),
        EVAL,
        "unknown classes, 1 .*--class_list",
        "+ --class_list all.txt",
    ),
    "no instances": Case(
        edit("annotations", lambda videos: [one.update(annotations=[]) for v, one in videos.items() if v > "b"]),
        EVAL,
        "--run_type report shows",
        "--run_type report --detections out/detections.json --exp_dir ev",
    ),
    # weights
    "record for weights": Case(
        None,
        "--run_type test --exp_dir te --pretrained_ckpt out/ckpt/last_model.json",
        r"a JSON file, and the weights are in last_model\.pkl",
        TEST,
    ),
    "text for weights": Case(
        write("notes.txt", "trained on Monday"),
        "--run_type test --exp_dir te --pretrained_ckpt notes.txt",
        r"notes\.txt: not a readable checkpoint \(it is a text file\); expected a file of torch\.save",
        TEST,
    ),
    # runs
    "a run there": Case(None, f"{TRAIN} --exp_dir out", "--resume continues", "+ --resume --max_epoch 2"),
    "a run there, replaced": Case(None, f"{TRAIN} --exp_dir out", "--overwrite replaces", "+ --overwrite"),
    "a shorter run": Case(None, f"{TRAIN} --exp_dir out --resume", "give 2 at least", "+ --max_epoch 2"),
    "nothing to resume": Case(None, f"{TRAIN} --exp_dir new --resume", "--resume auto starts one", "+ --resume auto"),
    "no seeds to resume": Case(
        None, f"{TRAIN} --exp_dir new --seeds 1 --resume", "--resume auto starts them", "+ --resume auto"
    ),
    "another option": Case(
        None,
        f"{TRAIN} --exp_dir out --resume --lr 1",
        "--lr 1.0 .*Leave them out, or .*another --exp_dir",
        f"{TRAIN} --exp_dir new --lr 1",
    ),
    "a damaged resume.pt": Case(
        write("out/ckpt/resume.pt", "x"),
        f"{TRAIN} --exp_dir out --resume",
        "another --exp_dir, with --pretrained_ckpt and the last_model.pkl",
        f"{TRAIN} --exp_dir new --pretrained_ckpt out/ckpt/last_model.pkl",
    ),
    "overwritten weights": Case(
        None,
        f"{TRAIN} --exp_dir out --overwrite --pretrained_ckpt out/ckpt/last_model.pkl",
        "choose another --exp_dir",
        "+ --exp_dir new",
    ),
    # reports
    "an evaluation": Case(
        edit("out/results.json", lambda results: results.update(detections="out/detections.json")),
        REPORT,
        "report on its file with --detections out/detections.json",
        "--run_type report --exp_dir ev --detections out/detections.json",
    ),
    "no run": Case(None, "--run_type report --exp_dir new", "with --exp_dir", REPORT),
    "not finished": Case(
        lambda home: [(home / "out" / name).unlink() for name in ("results.json", "detections.json")],
        REPORT,
        "--run_type test --pretrained_ckpt out/ckpt/last_model.pkl --exp_dir out",
        "--run_type test --pretrained_ckpt out/ckpt/last_model.pkl --exp_dir out",
        REPORT,
    ),
    "damaged metrics": Case(
        write("out/metrics.jsonl", "x\n"), REPORT, "remove the file to continue", "rm out/metrics.jsonl", "+"
    ),
    "damaged options": Case(write("out/options.json", "[]"), REPORT, "remove the file", "rm out/options.json", "+"),
    "another dataset": Case(
        edit("out/options.json", lambda options: options.update(dataset_name="U")),
        REPORT,
        "on --dataset_name 'U', not T",
        "rm out/options.json",
        "+",
    ),
    "another tIoU": Case(None, f"{REPORT} --tiou activitynet", "give the options of the run", REPORT),
    # the command line
    "mistyped": Case(None, f"{EVAL} --features_size 6", r"did you mean --feature_size\?", f"{EVAL} --feature_size 6"),
    "compared": Case(None, f"{EVAL} --compare out out", "goes with --run_type report", f"{REPORT} --compare out out"),
    "one folder": Case(None, f"{REPORT} --compare out", "two folders or more", f"{REPORT} --compare out out"),
    "seeds twice": Case(None, f"{TRAIN} --exp_dir new --seeds 1 1", "give each once", "+ --seeds 1"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_remedy_works(name, prepared, tmp_path, run_in, monkeypatch):
    monkeypatch.setattr("report.command.build_report", lambda data: Page("", simulated=False))
    monkeypatch.setattr("report.command.build_comparison", lambda *_: (Page("", simulated=False), ""))
    case, home = CASES[name], tmp_path / "home"
    shutil.copytree(prepared, home)
    if case.make is not None:
        case.make(home)
    (home / "all.txt").write_text("Dive\nFly\nJump\n")
    run = run_in(home)
    status, _, err = run(*BASE, *case.command.split())
    assert status == 2 and "Traceback" not in err and re.search(case.message, err), err
    for remedy in case.remedies:
        if remedy.startswith("rm "):
            Path(remedy.removeprefix("rm ")).unlink()
            continue
        status, _, err = run(*BASE, *re.sub(r"^\+", case.command, remedy).split())
        assert status == 0, f"{remedy}: {err}"
