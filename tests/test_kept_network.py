"""The network that made proposals is kept beside them, and makes those of other videos to the digit."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from building import own_dataset

from prepare.kept_network import keep_network, kept_from_lac, read_kept_network
from prepare.lac import LacNetwork
from readers.facts import Facts, NetworkRecord
from utils import InputError

CPU = torch.device("cpu")
NAME = "Proposals_Mine_network"
MAKING = ("--run_type", "proposals", "--dataset_name", "Mine", "--feature_fps", 32)
KINDS = {
    "own": ("--proposal_epochs", 3),
    "paper": ("--recipe", "paper", "--proposal_epochs", 2, "--proposals_per_video", 7),
    "lac": ("--lac_ckpt", "lac.pkl"),
}


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    """For each kind, a folder with a small dataset and proposals made for it. Tests must not change them."""
    import main

    made = {}
    for kind, argv in KINDS.items():
        made[kind] = home = tmp_path_factory.mktemp(kind)
        own_dataset(home / "data/Mine", num_videos=4)
        torch.manual_seed(0)
        torch.save(LacNetwork(feature_size=6, num_class=2, hidden=8).state_dict(), home / "lac.pkl")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(home)
            assert main.main([str(word) for word in (*MAKING, *argv)]) == 0
    return made


@pytest.fixture
def home(homes, tmp_path):
    """A copy of the folder of `own`, to be changed."""
    return shutil.copytree(homes["own"], tmp_path / "home")


def folder_of(home):
    return home / "proposals4Thumos14"


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def features_of(home, video):
    return torch.from_numpy(np.load(home / f"data/Mine/features/{video}.npy"))


@pytest.mark.parametrize("kind", KINDS)
def test_it_makes_the_proposals_of_the_file(homes, kind):
    folder = folder_of(homes[kind])
    kept = read_kept_network(folder / f"{NAME}.pkl")
    results = json.loads((folder / "Proposals_Mine_test.json").read_text())["results"]
    assert sorted(results) == ["b0", "b1", "b2", "b3"]
    for video, entries in results.items():
        assert kept.propose(features_of(homes[kind], video), CPU) == entries and entries


@pytest.mark.parametrize("kind", KINDS)
def test_its_record_says_what_it_is(homes, kind):
    folder = folder_of(homes[kind])
    record = read_kept_network(folder / f"{NAME}.pkl").record
    assert (record.kind, record.class_names, record.rate) == (kind, ("Dive", "Jump"), 2.0)
    assert (record.feature_size, record.modalities, record.dataset) == (6, 2, "Mine")
    assert record.per_video == {"own": 100, "paper": 7, "lac": None}[kind]
    assert record.hidden_size == {"own": 64, "paper": 128, "lac": 8}[kind]


def test_lac_from_its_checkpoint_makes_the_same(homes):
    home = homes["lac"]
    kept = kept_from_lac(home / "lac.pkl", Facts(("Jump", "Dive"), 32.0, 16.0), 6, 2)
    results = json.loads((folder_of(home) / "Proposals_Mine_test.json").read_text())["results"]
    assert kept.propose(features_of(home, "b1"), CPU) == results["b1"]


def test_it_knows_the_files_that_it_made(homes, home):
    folder = folder_of(home)
    kept = read_kept_network(folder / f"{NAME}.pkl")
    other = folder_of(homes["paper"]) / "Proposals_Mine_test.json"
    assert kept.made(folder / "Proposals_Mine_train.json") and kept.made(folder / "Proposals_Mine_test.json")
    assert not kept.made(other) and not kept.made(folder / "none.json")
    text = (folder / "Proposals_Mine_test.json").read_text()
    (folder / "Proposals_Mine_test.json").write_text(text.replace("Dive", "Five", 1))
    assert not kept.made(folder / "Proposals_Mine_test.json")


def test_a_copy_works_elsewhere(home, tmp_path):
    (tmp_path / "model").mkdir()
    for ending in ("pkl", "json"):
        shutil.copy(folder_of(home) / f"{NAME}.{ending}", tmp_path / f"model/proposals.{ending}")
    kept = read_kept_network(tmp_path / "model/proposals.pkl")
    assert kept.made(folder_of(home) / "Proposals_Mine_test.json")


# ---------------------------------------------------------------------------------- whole or not at all


def test_what_is_there_is_kept_without_overwrite(home, run_in):
    run, folder = run_in(home), folder_of(home)
    for part in ("train", "test"):
        (folder / f"Proposals_Mine_{part}.json").unlink()
    before = (folder / f"{NAME}.pkl").read_bytes()
    for argv in (KINDS["own"], ("--proposals_from", taken(home))):
        status, _, err = run(*MAKING, *argv)
        assert status == 2 and re.search(rf"{NAME}\.pkl, .*{NAME}\.json: already exists; pass --overwrite", err)
    assert names_in(folder) == [f"{NAME}.json", f"{NAME}.pkl"]
    assert (folder / f"{NAME}.pkl").read_bytes() == before
    status, _, err = run(*MAKING, *KINDS["own"], "--overwrite")
    assert status == 0 and read_kept_network(folder / f"{NAME}.pkl").made(folder / "Proposals_Mine_test.json"), err


def taken(home):
    """A result file of another method, with all videos."""
    path = home / "theirs.json"
    videos = [f"{part}{i}" for part in "ab" for i in range(4)]
    path.write_text(json.dumps({"results": {video: [{"segment": [1, 2]}] for video in videos}}))
    return path


def test_proposals_of_another_method_leave_no_network(home, run_in):
    run, folder = run_in(home), folder_of(home)
    own = [folder / f"Proposals_Mine_{part}.json" for part in ("train", "test")]
    status, _, err = run(*MAKING, "--proposals_from", *own)  # the files stay as they are
    assert status == 0 and read_kept_network(folder / f"{NAME}.pkl").made(own[1]), err
    status, _, err = run(*MAKING, "--proposals_from", taken(home), "--overwrite")
    assert status == 0 and names_in(folder) == ["Proposals_Mine_test.json", "Proposals_Mine_train.json"], err


@pytest.mark.parametrize("step", ["prepare.kept_network.torch.save", "prepare.kept_network.write_json"])
def test_a_process_that_ends_while_writing_leaves_no_network_or_a_whole_one(home, monkeypatch, step):
    """Whatever the next step would have been."""
    path = folder_of(home) / f"{NAME}.pkl"
    kept = read_kept_network(path)
    proposals = {"test": folder_of(home) / "Proposals_Mine_test.json"}

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(step, killed)
        keep_network(path, kept, proposals)
    with pytest.raises(InputError, match=rf"{NAME}\.(pkl|json): no such file; .*--run_type proposals --overwrite"):
        read_kept_network(path)
    assert not list(path.parent.glob("*.part"))
    keep_network(path, kept, proposals)
    assert read_kept_network(path).made(proposals["test"])


def test_a_killed_run_leaves_a_network_that_does_not_claim_new_proposals(home, run_in, monkeypatch):
    def killed(*_):
        raise InputError("killed")

    folder = folder_of(home)
    with monkeypatch.context() as patch:
        patch.setattr("prepare.commands.keep_network", killed)
        status, _, err = run_in(home)(*MAKING, *KINDS["own"], "--seed", 1, "--overwrite")
    assert status == 2 and "killed" in err and (folder / "Proposals_Mine_test.json").is_file()
    assert not (folder / f"{NAME}.json").exists()


# ------------------------------------------------------------------------------------ damaged and other


def change_record(path, **values):
    """Change the record beside a network; None leaves a value out."""
    record = path.with_suffix(".json")
    content = json.loads(record.read_text()) | values
    record.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": None}, r"does not say kind"),
        ({"kind": "magic"}, r"kind 'magic'"),
        ({"feature_fps": None, "class_names": None}, r"does not say class_names, feature_fps"),
        ({"feature_size": 8}, r"damaged: .*feature_size 6"),
        ({"hidden_size": 10**9}, r"damaged: .*hidden_size 64"),
        ({"members": 10**9}, r"damaged: .*members 3"),
        ({"kind": "paper"}, r"damaged: .*feature_size None"),
        ({"proposals": [1]}, r"damaged: proposals"),
        ({"checksum": "00000000"}, r"of another network .*00000000"),
        ({"checksum": None}, r"of another network"),
    ],
)
def test_records_that_cannot_be_used(home, values, message):
    path = folder_of(home) / f"{NAME}.pkl"
    change_record(path, **values)
    with pytest.raises(InputError, match=rf"{NAME}\.json: .*{message}.*--run_type proposals --overwrite"):
        read_kept_network(path)


def test_classes_that_are_not_those_of_the_weights(home):
    path = folder_of(home) / f"{NAME}.pkl"
    change_record(path, class_names=["Dive", "Jump", "Throw"])
    with pytest.raises(InputError, match=rf"{NAME}\.pkl: classifier"):
        read_kept_network(path)


def test_missing_and_damaged_files(home):
    path = folder_of(home) / f"{NAME}.pkl"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=rf"{NAME}\.json: of another network .*damaged"):
        read_kept_network(path)
    path.unlink()
    with pytest.raises(InputError, match=rf"{NAME}\.pkl: no such file; .*--run_type proposals"):
        read_kept_network(path)
    path.write_bytes(content)
    path.with_suffix(".json").write_text("{")
    with pytest.raises(InputError, match=rf"{NAME}\.json: not a readable JSON.*--run_type proposals"):
        read_kept_network(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match=rf"{NAME}\.json: no such file; .*--run_type proposals"):
        read_kept_network(path)


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_another_width_or_too_large(homes, kind):
    kept = read_kept_network(folder_of(homes[kind]) / f"{NAME}.pkl")
    with pytest.raises(InputError, match=r"4 wide, .* 6 wide"):
        kept.propose(torch.rand(9, 4), CPU)
    if kind != "lac":
        with pytest.raises(InputError, match="not finite"):
            kept.propose(torch.full((9, 6), 3e38), CPU)


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = NetworkRecord(("a",), 25.0, 16.0, kind="lac", members=3, per_video=9, proposals={"test": "00ff"})
    assert NetworkRecord.from_json(json.loads(json.dumps(record.to_json())), tmp_path, "") == record
