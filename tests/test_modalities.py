"""Features of one modality: odd widths, one stream alone, one descriptor per class."""

import re

import numpy as np
import pytest
import torch
from building import own_dataset

from descriptors import build_descriptors, pseudo_label_report, pseudo_labels
from readers.descriptor_files import read_descriptors, write_descriptors
from readers.facts import Facts
from readers.features import Features
from utils import InputError


def test_descriptors_and_pseudo_labels_by_hand():
    means = torch.tensor([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0], [9.0, 0.0, 0.0]])
    labels = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    descriptors = build_descriptors(means, labels, modalities=1)
    assert descriptors.tolist() == [[[2, 3, 4], [9, 0, 0]]]
    found = pseudo_labels(torch.tensor([[4.0, 6.0, 8.0], [2.0, 0.1, 0.1]]), descriptors)
    assert found.label.tolist() == [0, 1]
    assert found.consistent.all() and not found.partial.any()
    report = pseudo_label_report(found, torch.eye(2), ["a", "b"], modalities=1)
    assert re.search(r"100\.0%.*one modality", report) and not re.search("appearance|motion|consistent", report)


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
def test_descriptors_for_another_number(tmp_path, first, second):
    made = {number: torch.rand(number, 5, 8 // number) for number in (1, 2)}
    write_descriptors(tmp_path, made[first], Facts(tuple("abcde")))
    with pytest.raises(InputError, match=rf"{tmp_path}: .*general_.* --modalities.*--overwrite"):
        read_descriptors(tmp_path, 5, 8, modalities=second)
    write_descriptors(tmp_path, made[second], Facts(tuple("abcde")))
    assert torch.equal(read_descriptors(tmp_path, 5, 8, modalities=second), made[second])
    with pytest.raises(InputError, match="--overwrite"):  # the others are gone
        read_descriptors(tmp_path, 5, 8, modalities=first)


@pytest.mark.parametrize(("size", "typed", "taken"), [(6, None, 2), (7, None, 1), (6, 1, 1), (7, 1, 1), (6, 2, 2)])
def test_the_number_follows_from_the_width(tmp_path, caplog, size, typed, taken):
    caplog.set_level("INFO")
    np.save(tmp_path / "v.npy", np.ones((4, size), np.float32))
    features = Features(tmp_path, ["v"], modalities=typed)
    assert features.read(0).shape == (4, size) and features.modalities == taken
    assert ("7 wide, an odd number" in caplog.text) == (size == 7 and typed is None)


@pytest.mark.parametrize(("typed", "said"), [(None, 1), (1, 0), (2, 0)])
def test_one_stream_of_i3d_looks_like_two(tmp_path, caplog, typed, said):
    caplog.set_level("INFO")
    np.save(tmp_path / "v.npy", np.ones((4, 1, 1, 1024), np.float32))
    Features(tmp_path, ["v"], modalities=typed).read(0)
    assert caplog.text.count("RGB and flow of 512 each; ") == said


def test_an_odd_width_is_not_two_modalities(tmp_path):
    np.save(tmp_path / "v.npy", np.ones((4, 7), np.float32))
    with pytest.raises(InputError, match=r"v\.npy: video v: width 7; .*--modalities 1"):
        Features(tmp_path, ["v"], modalities=2).read(0)


def test_one_stream_alone(tmp_path):
    rgb = np.random.default_rng(0).random((5, 4), dtype=np.float32)
    np.savez(tmp_path / "v-rgb.npz", feature=rgb)
    with pytest.raises(InputError, match=r"v-flow\.npz: .*--modalities 1"):
        Features(tmp_path, ["v"]).read(0)
    assert (Features(tmp_path, ["v"], modalities=1).read(0).numpy() == rgb).all()
    np.savez(tmp_path / "v-flow.npz", feature=rgb[:, :3])  # two streams of different width are one kind, if one says so
    assert Features(tmp_path, ["v"], modalities=1).read(0).shape == (5, 7)


def test_whole_runs_at_an_odd_width(run_in, tmp_path):
    """Every command takes the features as one modality, and says so; a resumed run agrees with itself."""
    own_dataset(tmp_path / "data" / "Own", feature_size=7)
    argv = ("--dataset_name", "Own", "--feature_fps", 2, "--snippet_frames", 1, "--batch_size", 3)
    run, train = run_in(tmp_path), ("--run_type", "train", "--exp_dir", "run")
    for words in (
        ("--run_type", "proposals", "--proposal_epochs", 1),
        ("--run_type", "descriptors"),
        ("--run_type", "check"),
        (*train, "--max_epoch", 1),
        ("--run_type", "test", "--exp_dir", "test", "--pretrained_ckpt", "run/ckpt/last_model.pkl"),
    ):
        status, out, err = run(*words, *argv)
        assert status == 0 and out.count("7 wide, an odd number") == 1, (words, out, err)
        assert ("pseudo-labels come from one descriptor" in out) == ("descriptors" in words or "train" in words)
    assert [path.name for path in (tmp_path / "descriptors/Own").glob("*.npy")] == ["general_descriptors.npy"]
    status, _, err = run(*train, "--resume", "--max_epoch", 2)
    assert status == 0, err
    status, _, err = run(*train, "--exp_dir", "other", "--modalities", 2, *argv)
    assert status == 2 and re.search(r"a0\.npy: video a0: width 7; .*--modalities 1", err)


def test_descriptors_are_made_again_for_another_number(run_in, tmp_path):
    own_dataset(tmp_path / "data" / "Own")
    argv = ("--dataset_name", "Own", "--feature_fps", 2, "--snippet_frames", 1, "--batch_size", 3)
    run, one = run_in(tmp_path), ("--modalities", 1)
    assert run("--run_type", "proposals", "--proposal_epochs", 1, *argv)[0] == 0
    status, _, err = run(*argv, *one)
    assert status == 2 and re.search(r"1 file is missing.*general_descriptors\.npy", err, re.DOTALL)
    assert run("--run_type", "descriptors", *argv)[0] == 0
    status, _, err = run(*argv, *one)
    assert status == 2 and re.search(r"descriptors/Own: .*one modality .*--run_type descriptors --overwrite", err)
    status, out, _ = run("--run_type", "check", *argv, *one)
    assert status == 1 and re.search(r"descriptors/Own: .*one modality ", out)
    assert run("--run_type", "descriptors", *argv, *one)[0] == 2
    assert run("--run_type", "descriptors", *argv, *one, "--overwrite")[0] == 0
    assert run("--run_type", "check", *argv, *one)[0] == 0
