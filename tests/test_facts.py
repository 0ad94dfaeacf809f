"""Files say which classes, rate and network they depend on, and their readers check it."""

import json
import os
import re
import shutil
from dataclasses import replace

import pytest
import torch
from building import batch_of, network, own_dataset

from dataset import read_proposals
from model import scores
from options import parse_options
from prepare.commands import take_proposals
from readers.checkpoints import load_weights
from readers.descriptor_files import CLASSES, read_descriptors, write_descriptors
from readers.facts import Facts, WeightsRecord, read_record
from readers.source import DatasetFiles, ReadingSettings, Source
from runs.detections import read_detections
from runs.weights import save_weights
from utils import InputError

NAMES = ("Dive", "Jump", "Throw")
FACTS = Facts(NAMES, 29.97, 8.0)
RATE = 29.97 / 8
NOW = WeightsRecord(NAMES, 29.97, 8.0, feature_size=16, modalities=2, hidden_size=16, roi_size=12, recipe="paper")
OTHER_ORDER = ("Throw", "Dive", "Jump")


# ------------------------------------------------------------------------------------------ what files say


@pytest.mark.parametrize("record", [Facts(), FACTS, WeightsRecord(), replace(NOW, epoch=3, simulated=True)])
def test_what_is_written_is_read(record, tmp_path):
    content = json.loads(json.dumps(record.to_json() | {"of a later version": [1]}))
    assert type(record).from_json(content, tmp_path, "") == record
    assert None not in content.values()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("class_names", "Jump"), ("class_names", []), ("class_names", ["a\nb"]), ("class_names", [1]),
        ("feature_fps", 0), ("feature_fps", "25"), ("snippet_frames", float("nan")), ("snippet_frames", True),
        ("roi_size", 12.0), ("hidden_size", 0), ("recipe", 1), ("simulated", 1), ("evaluation", []), ("epoch", "3"),
    ],
)  # fmt: skip
def test_damaged_values_are_named(name, value):
    with pytest.raises(InputError, match=rf"x\.json: .*{name}.*; restore it"):
        WeightsRecord.from_json({name: value}, "x.json", "restore it")


def test_what_a_file_does_not_say_is_not_held_against_it(tmp_path):
    assert Facts().require(tmp_path, 2.0, NAMES, "") is None
    assert Facts(NAMES, 25.0).require(tmp_path, None, (), "") is None
    assert WeightsRecord().require_fit(tmp_path, NOW) is NOW.require_fit(tmp_path, WeightsRecord()) is None


def test_another_rate_is_refused_with_the_options_that_fit(tmp_path):
    with pytest.raises(InputError, match=r"x\.json: .*3\.74625 .* 1\.5625; .*--feature_fps 29\.97 --snippet_frames 8,"):
        FACTS.require(tmp_path / "x.json", 25 / 16, NAMES, "again")
    assert FACTS.require(tmp_path, parse_options(FACTS.rate_options.split()).rate, NAMES, "") is None
    assert Facts(None, 50.0, 32.0).require(tmp_path, 25 / 16, NAMES, "") is None
    assert FACTS.require(tmp_path, 30 / 1.001 / 8, NAMES, "") is None  # 29.97 frames a second to more digits


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        (("Dive", "Throw", "Vault"), r"only in the file: Jump; only in the data: Vault; .* restore the name Jump"),
        (("Dive", "Throw"), r"only in the file: Jump; .*all 3 .*--class_list"),
        ((*NAMES, "Vault"), r"only in the data: Vault; again"),
        (("Dive", "Jump", "throw"), r"file: Throw; only in the data: throw"),
    ],
)
def test_other_classes_are_named(tmp_path, ours, message):
    with pytest.raises(InputError, match=rf"x\.json: .*{message}"):
        FACTS.class_order(tmp_path / "x.json", ours, "again")


def test_classes_in_another_order_are_found_by_name(tmp_path):
    assert FACTS.class_order(tmp_path, OTHER_ORDER, "") == [2, 0, 1]
    assert FACTS.class_order(tmp_path, NAMES, "") is None
    spelled = Facts(("Dive ", "Ju\u200bmp", "Cafe\u0301"))  # as an earlier version may have written them
    assert spelled.class_order(tmp_path, ("Dive", "Jump", "Caf\xe9"), "") is None
    assert spelled.class_order(tmp_path, ("Caf\xe9", "Jump", "Dive"), "") == [2, 1, 0]


# ------------------------------------------------------------------------------------------------- weights


def weights_of(value):
    """A network that differs from those of other values."""
    model = network()
    torch.nn.init.constant_(model.prop_fused_backbone.prop_classifier[-1].bias, value)
    return model


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"roi_size": 16}, r"--roi_size 16"),
        ({"recipe": "own", "hidden_size": 256}, r"--recipe own --hidden_size 256"),
        ({"modalities": 1}, r"--modalities 1"),
        ({"feature_fps": 25.0}, r"3\.125 .*3\.74625; pass --feature_fps 25 --snippet_frames 8"),
        ({"feature_size": 32, "hidden_size": 32}, r"32 wide, .* 16 wide; .*--features"),
        ({"class_names": ("Dive", "Jump", "Vault")}, r"Vault.*Throw"),
    ],
)
def test_weights_for_something_else(tmp_path, changed, message):
    save_weights(network().state_dict(), tmp_path / "w.pkl", replace(NOW, **changed))
    with pytest.raises(InputError, match=rf"w\.json: .*{message}") as refused:
        load_weights(network(), tmp_path / "w.pkl", NOW)
    if remedy := re.search(r"pass (--.*), or", str(refused.value)):
        options = parse_options(remedy[1].split())
        load_weights(network(), tmp_path / "w.pkl", replace(NOW, **{name: getattr(options, name) for name in changed}))


def test_weights_with_classes_in_another_order_are_mapped(tmp_path, caplog):
    caplog.set_level("INFO")
    trained, other = network(), network()
    save_weights(trained.state_dict(), tmp_path / "w.pkl", NOW)
    shutil.move(tmp_path / "w.pkl", tmp_path / "mine.pkl")
    shutil.move(tmp_path / "w.json", tmp_path / "mine.json")  # renamed together
    order = load_weights(other, tmp_path / "mine.pkl", replace(NOW, class_names=OTHER_ORDER))
    other.reorder_classes(order)
    assert "notice: " in caplog.text and "mine.pkl" in caplog.text
    batch = batch_of(torch.rand(5, 3, 16))
    before, after = (scores(model, batch) for model in (trained, other))
    assert torch.allclose(after["class_logits"], before["class_logits"][:, [2, 0, 1, 3]], atol=1e-6)
    assert torch.equal(after["fused"], before["fused"])


def test_a_record_of_other_weights_is_refused(tmp_path):
    """As where a file is copied over another and the JSON stays, which could map its classes wrongly."""
    for name, record in (("a", NOW), ("b", replace(NOW, class_names=OTHER_ORDER))):
        save_weights(weights_of(ord(name)).state_dict(), tmp_path / f"{name}.pkl", record)
    shutil.copy(tmp_path / "b.pkl", tmp_path / "a.pkl")
    with pytest.raises(InputError, match=r"a\.json: .*other weights than a\.pkl .*remove"):
        load_weights(network(), tmp_path / "a.pkl", NOW)
    (tmp_path / "a.json").unlink()
    assert load_weights(network(), tmp_path / "a.pkl", NOW) is None


@pytest.mark.parametrize("text", ["", "[1]", '{"class_names": 3}', '{"a": 1, "a": 2}'])
def test_a_damaged_record(tmp_path, text):
    save_weights(network().state_dict(), tmp_path / "w.pkl", NOW)
    (tmp_path / "w.json").write_text(text)
    with pytest.raises(InputError, match=r"w\.json: .*restore it, or remove it .*w\.pkl"):
        load_weights(network(), tmp_path / "w.pkl", NOW)


def test_released_weights_have_no_record(tmp_path):
    torch.save(network().state_dict(), tmp_path / "best_model.pkl")
    (tmp_path / "best_model.json").write_text('{"made by": "another program"}')
    told = []
    assert load_weights(network(), tmp_path / "best_model.pkl", NOW, lambda *notice: told.append(notice)) is None
    assert len(told) == 1 and "classes" in told[0][0] and told[0][1].endswith("best_model.pkl")
    torch.save(network().state_dict(), tmp_path / "w.json")  # a checkpoint of this name is no record of itself
    assert load_weights(network(), tmp_path / "w.json", NOW) is None


def test_a_resume_file_says_it_itself(tmp_path):
    content = {"format": 3, "weights": network().state_dict(), "options": {"roi_size": 12, "hidden_size": None}}
    for record in ({}, {"record": NOW.to_json()}):  # earlier versions had the options alone
        torch.save(content | record, tmp_path / "resume.pt")
        order = load_weights(network(), tmp_path / "resume.pt", replace(NOW, class_names=OTHER_ORDER))
        assert order == ([2, 0, 1] if record else None)
        with pytest.raises(InputError, match=r"resume\.pt: .*--roi_size 12"):
            load_weights(network(), tmp_path / "resume.pt", replace(NOW, roi_size=16))


def test_the_record_is_true_whenever_the_process_ends(tmp_path, monkeypatch):
    """Also with the weights of another epoch that were there before."""
    path, states, fsync = tmp_path / "w.pkl", [], os.fsync

    def copying(descriptor):
        fsync(descriptor)
        states.append(shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}_{len(states)}")) / "w.pkl")

    monkeypatch.setattr("os.fsync", copying)
    kept = {}
    for epoch in (1, 2):
        model = weights_of(epoch)
        save_weights(model.state_dict(), path, replace(NOW, epoch=epoch, evaluation={"epoch": epoch}))
        kept[path.read_bytes()] = epoch
    assert len(states) >= 12
    for state in filter(os.path.exists, states):
        record = read_record(state)
        assert replace(record, epoch=None, evaluation=None, checksum=None) == NOW
        assert record.epoch in (None, kept[state.read_bytes()])
        assert (record.epoch is None) == (record.evaluation is None)
    before = (tmp_path / "w.json").stat().st_ino
    save_weights(model.state_dict(), path, replace(NOW, epoch=2, evaluation={"epoch": 2}))
    assert (tmp_path / "w.json").stat().st_ino == before  # which is left alone if it stays the same


# -------------------------------------------------------------------------------- result files, descriptors


def result_file(path, facts=FACTS, label="Jump"):
    entries = [{"segment": [1.0, 2.0], "score": 0.5, "label": label}]
    path.write_text(json.dumps({"results": {"v": entries}, "external_data": facts.to_json()}))
    return path


READERS = {
    "proposals": lambda path, rate, names: read_proposals(path, ["v"], rate, class_names=names),
    "detections": lambda path, rate, names: read_detections(path, ["v"], names, rate),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_result_files(tmp_path, read):
    path = result_file(tmp_path / "r.json")
    read(path, RATE, OTHER_ORDER)
    with pytest.raises(InputError, match=r"r\.json: .*--feature_fps 29\.97 --snippet_frames 8, or .*--run_type"):
        read(path, 25 / 16, NAMES)
    with pytest.raises(InputError, match=r"r\.json: .*Jump.*Vault"):
        read(path, RATE, ("Dive", "Vault", "Throw"))
    read(result_file(path, Facts()), 25 / 16, NAMES)
    with pytest.raises(InputError, match=r"r\.json: external_data: .*feature_fps.*remove"):
        read(result_file(path, Facts(feature_fps="x")), RATE, NAMES)


def test_descriptors(tmp_path, caplog):
    caplog.set_level("INFO")
    made = torch.rand(2, 3, 4)
    write_descriptors(tmp_path, made, FACTS)
    assert torch.equal(read_descriptors(tmp_path, 3, 8, NAMES, rate=RATE), made)
    assert "notice" not in caplog.text
    assert torch.equal(read_descriptors(tmp_path, 3, 8, OTHER_ORDER, rate=RATE), made[:, [2, 0, 1]])
    assert "notice: " in caplog.text and CLASSES in caplog.text
    with pytest.raises(InputError, match=rf"{CLASSES}: .*--snippet_frames 8, .*--run_type descriptors --overwrite"):
        read_descriptors(tmp_path, 3, 8, NAMES, rate=1.0)
    (tmp_path / CLASSES).write_text(json.dumps(NAMES))  # as earlier versions wrote it
    assert torch.equal(read_descriptors(tmp_path, 3, 8, OTHER_ORDER, rate=1.0), made[:, [2, 0, 1]])
    with pytest.raises(InputError, match=rf"{CLASSES}: .*Throw.*Vault"):
        read_descriptors(tmp_path, 3, 8, ("Dive", "Jump", "Vault"))
    (tmp_path / CLASSES).write_text('{"class_names": 1}')
    with pytest.raises(InputError, match=rf"{CLASSES}: .*class_names.*--run_type descriptors --overwrite"):
        read_descriptors(tmp_path, 3, 8, NAMES)


def test_proposals_of_another_rate_are_taken_since_they_are_in_seconds(tmp_path, caplog):
    folder = own_dataset(tmp_path / "Own")
    targets = {part: tmp_path / f"{part}.json" for part in ("train", "test")}
    files = DatasetFiles("Own", folder / "features", folder / "annotations.json", tmp_path, targets)
    source = Source.read(files, ReadingSettings(feature_fps=2.0, snippet_frames=1.0))
    path = result_file(tmp_path / "r.json", label="Vault")
    content = json.loads(path.read_text())
    content["results"] = dict.fromkeys(source.annotations.videos, content["results"]["v"])
    path.write_text(json.dumps(content))
    caplog.set_level("INFO")
    take_proposals(source, [path], rate=2.0, missing="error", overwrite=False)
    assert "notice: " in caplog.text and "3.74625" in caplog.text and "Vault" in caplog.text
    for target in targets.values():
        written = json.loads(target.read_text())
        assert written["external_data"] == {"class_names": ["Dive", "Jump"], "feature_fps": 2.0, "snippet_frames": 1.0}
        assert read_proposals(target, [*written["results"]], 2.0, class_names=["Jump", "Dive"])
    take_proposals(source, [*targets.values()], rate=2.0, missing="error", overwrite=False)  # they stay as they are
    other = replace(source, settings=ReadingSettings())
    with pytest.raises(InputError, match="--overwrite"):
        take_proposals(other, [*targets.values()], rate=2.0, missing="error", overwrite=False)


# ---------------------------------------------------------------------------------------------- whole runs


def test_commands_hold_to_what_their_files_say(run_in, tmp_path):
    own_dataset(tmp_path / "data" / "Own")
    for name, lines in {"a.txt": "Jump\nDive\n", "b.txt": "Dive\nJump\n"}.items():
        (tmp_path / name).write_text(lines)
    run, own = run_in(tmp_path), ("--dataset_name", "Own", "--batch_size", 3, "--feature_fps", 2)
    rate, weights = ("--snippet_frames", 1), ("--pretrained_ckpt", "run/ckpt/last_model.pkl")
    for words in (
        ("proposals", "--proposal_epochs", 1),
        ("descriptors",),
        ("train", "--max_epoch", 2, "--exp_dir", "run"),
    ):
        status, _, err = run("--run_type", *words, *own, *rate, "--class_list", "a.txt")
        assert status == 0, err

    results = json.loads((tmp_path / "run/results.json").read_text())
    records = {name: json.loads((tmp_path / f"run/ckpt/{name}_model.json").read_text()) for name in ("last", "best")}
    assert records["last"]["class_names"] == ["Jump", "Dive"] and records["last"]["evaluated_on"] == "test"
    assert records["last"]["evaluation"].items() <= results.items() and records["last"]["epoch"] == results["epoch"]
    assert records["best"]["evaluation"].items() <= results["best"].items()
    facts = {name: records["last"][name] for name in ("class_names", "feature_fps", "snippet_frames")}
    for path in ("run/detections.json", "proposals4Thumos14/Proposals_Own_test.json"):
        assert facts.items() <= json.loads((tmp_path / path).read_text())["external_data"].items()
    assert json.loads((tmp_path / "descriptors/Own/classes.json").read_text()) == facts

    test = ("--run_type", "test", "--exp_dir", "test", *own, *weights)
    status, out, err = run(*test, *rate, "--class_list", "b.txt")
    assert status == 0 and len(re.findall("notice: .* run/ckpt/last_model.pkl", out)) == 1, err
    tested = json.loads((tmp_path / "test/results.json").read_text())
    for protocol in ("snippet", "seconds"):
        assert tested[protocol]["mAP"] == pytest.approx(results[protocol]["mAP"], abs=1e-9)
    for words in (test, ("--run_type", "eval", "--detections", "run/detections.json", "--exp_dir", "eval", *own)):
        status, _, err = run(*words, "--snippet_frames", 2)
        assert status == 2 and "--feature_fps 2 --snippet_frames 1" in err and not (tmp_path / "eval").exists()
    status, out, _ = run("--run_type", "check", *own, *rate, *weights, "--roi_size", 16)
    assert status == 1 and "--roi_size 12" in out
    status, out, _ = run("--run_type", "check", *own, *rate, *weights, "--class_list", "b.txt")
    assert status == 0 and all(
        re.search(rf"warning: .*\(2\):(\n  .*)*{name}", out) for name in ("classes.json", "model.pkl")
    )
    status, _, err = run("--resume", "--exp_dir", "run", "--class_list", "b.txt")
    assert status == 2 and "resume.pt: " in err and "were Jump, Dive, and are Dive, Jump" in err
