"""The six changes of docs/EXTENDING.md apply, are as small as it says, and work together."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("*.py", "eval/*.py", "prepare/*.py", "readers/*.py", "report/*.py", "runs/*.py")
FILES = [["losses.py", "options.py"], ["model.py"], ["options.py"], ["eval/protocols.py"], ["eval/nms.py"]]
FILES.append(["eval/metrics.py"])

# Train, stop and resume, test the weights, and report, all in one process.
RUN = """
import json, sys
import main, options
from options import parse_options

demo = ["--dataset_name", "Demo", "--tiou", "loose", "--nms", "hard"]
train = [*demo, "--weight_sparsity", "0.5", "--interval", "1", "--exp_dir", "run"]
assert main.main([*train, "--max_epoch", "1"]) == 0
assert main.main(["--resume", "--exp_dir", "run", "--max_epoch", "2"]) == 0
weights = ["--pretrained_ckpt", "run/ckpt/last_model.pkl"]
assert main.main([*demo, "--run_type", "test", "--exp_dir", "test", *weights]) == 0
assert main.main([*demo, "--run_type", "check", *weights]) == 0
preset = parse_options(["--dataset_name", "FineAction"])
json.dump([preset.tiou, preset.batch_size, preset.feature_fps], open("preset.json", "w"))
"""


def diffs() -> list[str]:
    return re.findall(r"```diff\n(.*?\n)```", (ROOT / "docs" / "EXTENDING.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def changed(tmp_path_factory) -> Path:
    """A copy of the program with all six changes."""
    copy = tmp_path_factory.mktemp("changed") / "program"
    for pattern in PRODUCT:
        for path in ROOT.glob(pattern):
            (copy / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy / path.relative_to(ROOT))
    for diff in diffs():
        subprocess.run(["git", "apply"], input=diff, text=True, cwd=copy, check=True)
    return copy


def test_each_change_is_in_the_files_that_the_page_names():
    assert [re.findall(r"^\+\+\+ b/(\S+)$", diff, re.MULTILINE) for diff in diffs()] == FILES


def test_all_six_work(changed, demo_home, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    home = tmp_path / "home"
    shutil.copytree(demo_home, home)
    script = f"import sys; sys.path.insert(0, {str(changed)!r}); import torch; torch.set_num_threads(1)\n{RUN}"
    done = subprocess.run([sys.executable, "-c", script], cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]

    # (a) the loss term is recorded over the resume, and its weight follows its schedule
    lines = [json.loads(line) for line in (home / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "evaluation" not in line]
    assert [line["epoch"] for line in losses] == [1, 2] and all(line["sparsity_loss"] > 0 for line in losses)
    board = EventAccumulator(str(home / "run" / "logs")).Reload()
    assert [event.value for event in board.Scalars("weight/sparsity_loss")] == pytest.approx([0.05, 0.1])
    assert json.loads((home / "run" / "options.json").read_text())["weight_sparsity"] == 0.5

    # (b) the network is another one, and its checkpoint was read by `test` and `check`
    import torch

    assert "context.weight" in torch.load(home / "run" / "ckpt" / "last_model.pkl", weights_only=True)

    # (c) the preset, (d) the protocol, (f) the metric
    assert json.loads((home / "preset.json").read_text()) == ["activitynet", 32, 30.0]
    trained, tested = (json.loads((home / name / "results.json").read_text()) for name in ("run", "test"))
    assert trained["snippet"]["tiou"] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert trained["extra"] == tested["extra"] and 0 < trained["extra"]["recall at tIoU 0.5"] <= 100
    assert trained["snippet"] == tested["snippet"]

    # (e) fewer detections stay than there are proposals, and none overlaps another of its class by more than 0.4
    for entries in list(json.loads((home / "run" / "detections.json").read_text())["results"].values())[:5]:
        for i, one in enumerate(entries):
            for other in entries[:i]:
                (a, b), (c, d) = one["segment"], other["segment"]
                overlap = max(0.0, min(b, d) - max(a, c))
                if one["label"] == other["label"]:
                    assert overlap <= 0.4 * (max(b, d) - min(a, c)) + 1e-9
