"""`--run_type proposals`: from result files of other methods, and from features and video labels."""

import json
import re

import pytest

from options import build_parser
from readers.result_files import MAX_PER_VIDEO


@pytest.fixture
def proposals(run, tmp_path):
    """Runs `--run_type proposals` on the demo, writing into a folder of its own."""

    def call(*argv):
        status, out, err = run(
            "--run_type", "proposals", "--dataset_name", "Demo", "--proposals_root", tmp_path / "made", *argv
        )
        return status, re.sub(r"(?s)^.*?\n\n", "", out), err

    return call


def read(folder, part):
    return json.loads((folder / f"Proposals_Demo_{part}.json").read_text())["results"]


def test_made_from_video_labels_alone(demo_home, proposals, run, tmp_path):
    status, out, err = proposals("--proposal_epochs", 4, "--proposals_per_video", 30)
    assert status == 0, err
    assert re.search(r"train .*validation.*\b80 videos", out) and out.count("recall @ tIoU") == 2
    train, test = (read(tmp_path / "made", part) for part in ("train", "test"))
    assert len(train) == 80 and len(test) == 60
    assert all(0 < len(entries) <= 30 for entries in (train | test).values())
    assert set(test["demo_test_0001"][0]) == {"segment", "score", "label"}

    status, _, err = proposals()  # what is there is kept
    assert status == 2 and re.search(r"Proposals_Demo_test\.json: .*--overwrite", err)
    status, _, err = proposals("--overwrite", "--proposal_epochs", 4, "--proposals_per_video", 30)
    assert status == 0 and (train, test) == tuple(read(tmp_path / "made", part) for part in ("train", "test")), err

    argv = ("--run_type", "train", "--dataset_name", "Demo", "--proposals_root", tmp_path / "made", "--max_epoch", 1)
    status, _, err = run(*argv, "--exp_dir", tmp_path / "run")
    assert status == 0, err


def test_taken_from_one_result_file_of_both_parts(demo_home, proposals, tmp_path):
    """As LAC, P-MIL and others write them: a label and a score, in any order; one file, or one for each part."""
    given = {part: read(demo_home / "proposals4Thumos14", part) for part in ("train", "test")}
    for entries in given["test"].values():
        for rank, entry in enumerate(entries):
            entry |= {"label": "Dive", "score": 1 / (rank + 1)}
    both = tmp_path / "temp_result.json"
    both.write_text(json.dumps({"version": "x", "results": given["train"] | given["test"] | {"other": []}}))
    status, out, err = proposals("--proposals_from", both)
    assert status == 0, err
    assert (given["train"], given["test"]) == tuple(read(tmp_path / "made", part) for part in ("train", "test"))
    table = re.findall(r"^all .*", out, re.MULTILINE)
    assert len(table) == 2

    (tmp_path / "data/Demo").mkdir(parents=True)  # and it takes no features to do so
    (tmp_path / "data/Demo/Demo-Annotations").symlink_to(demo_home / "data/Demo/Demo-Annotations")
    status, _, err = proposals("--proposals_from", both, "--overwrite", "--dataset_root", tmp_path / "data/Demo")
    assert status == 0, err

    apart = [demo_home / f"proposals4Thumos14/Proposals_Demo_{part}.json" for part in ("train", "test")]
    status, again, _ = proposals("--proposals_from", *apart, "--overwrite")
    assert status == 0 and re.findall(r"^all .*", again, re.MULTILINE) == table

    status, _, err = proposals("--proposals_from", apart[0], both, "--overwrite")
    assert status == 2 and "temp_result.json: demo_train_0001" in err


def test_the_best_are_kept_of_more_entries_than_a_run_may_read(demo_home, run, tmp_path, monkeypatch):
    """The remedy that `parse_results` names for a file with more."""
    assert build_parser().parse_args(["--proposals_per_video", str(MAX_PER_VIDEO)])
    given = {part: read(demo_home / "proposals4Thumos14", part) for part in ("train", "test")}
    scored = [{"segment": [0.0, float(i)], "score": i / 10} for i in range(1, 6)]
    given["test"] = dict.fromkeys(given["test"], scored)
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps({"results": given["train"] | given["test"]}))
    monkeypatch.setattr("prepare.commands.MAX_PER_VIDEO", 3)
    argv = ("--run_type", "proposals", "--dataset_name", "Demo", "--proposals_root", tmp_path / "made")
    status, out, err = run(*argv, "--proposals_from", path)
    assert status == 0 and "notice: of 140 videos with more than 3 entries, the best are kept: demo_" in out, err
    assert {str(entries) for entries in read(tmp_path / "made", "test").values()} == {str(scored[:1:-1])}


def test_existing_files_are_reported_and_not_changed(demo_home, run):
    paths = [demo_home / f"proposals4Thumos14/Proposals_Demo_{part}.json" for part in ("train", "test")]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in paths]
    argv = ("--run_type", "proposals", "--dataset_name", "Demo", "--proposals_from")
    status, out, err = run(*argv, *paths)
    assert status == 0 and out.count("recall @ tIoU") == 2, err
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in paths] == before


def test_videos_that_a_result_file_lacks(demo_home, proposals, tmp_path):
    part = demo_home / "proposals4Thumos14" / "Proposals_Demo_test.json"
    status, _, err = proposals("--proposals_from", part)
    assert status == 2 and re.search("80 of 140 .*: demo_train_0001, demo_train_0002", err)
    assert all(f"demo_train_{i:04d}" in err for i in range(1, 81))
    assert not (tmp_path / "made").exists()
    status, out, err = proposals("--proposals_from", part, "--missing_proposals", "empty")
    assert status == 0 and read(tmp_path / "made", "train")["demo_train_0001"] == [], err
    assert "0.0" in re.search(r"^all .*", out, re.MULTILINE).group()


def test_a_source_among_the_targets_is_rewritten_if_it_lacks_videos(demo_home, proposals, tmp_path):
    """Only with --overwrite, since the file exists."""
    given = {part: read(demo_home / "proposals4Thumos14", part) for part in ("train", "test")}
    moved = {"demo_train_0001": given["train"].pop("demo_train_0001")}
    (tmp_path / "made").mkdir()
    paths = [tmp_path / "made" / f"Proposals_Demo_{part}.json" for part in given] + [tmp_path / "other.json"]
    for path, results in zip(paths, (*given.values(), moved), strict=True):
        path.write_text(json.dumps({"results": results}))
    status, _, err = proposals("--proposals_from", *paths)
    assert status == 2 and re.search(r"Proposals_Demo_train\.json: .*--overwrite", err)
    status, _, err = proposals("--proposals_from", *paths, "--overwrite")
    assert status == 0 and len(read(tmp_path / "made", "train")) == 80, err


def test_a_target_that_cannot_be_written_is_found_before_any_work(run, tmp_path):
    (tmp_path / "file").write_text("")
    for run_type, option in (("proposals", "--proposals_root"), ("descriptors", "--descriptors_root")):
        status, out, err = run("--run_type", run_type, "--dataset_name", "Demo", option, tmp_path / "file" / "made")
        assert status == 2 and re.search(f"error: {option} .*file/made.* folder", err)
        assert "pseudo-labels" not in out and "recall" not in out


def test_bad_command_lines(proposals, run, tmp_path):
    status, _, err = proposals("--proposals_from", "none.json")
    assert status == 2 and re.search(r"none\.json: .*proposals", err)
    status, _, err = run("--dataset_name", "Demo", "--proposals_from", "x.json", "--exp_dir", tmp_path / "run")
    assert status == 2 and re.search("--proposals_from .*--run_type proposals", err)
