"""ActivityNet from annotations to mAP: the real annotation files of some classes, with simulated features."""

import json
import re

import numpy as np
import pytest

from options import PRESETS
from prepare.make_demo import simulate
from readers.arrays import read_array


def some_classes(source, target, num_class):
    """Copy the annotations of a few classes, at most 12 training and 6 validation videos each, as they are stored."""
    arrays = {path.stem: read_array(path) for path in source.glob("*.npy")}
    decode = np.vectorize(lambda text: text.decode() if isinstance(text, bytes) else str(text))
    empty = [any(end <= start for start, end in own) for own in arrays["segments"]]
    first = decode(np.array([names[0] for names in arrays["labels_all"]], dtype=object))
    of_empty = list(dict.fromkeys(first[empty]))[:2]  # two classes with instances of no length
    names = [*of_empty, *(name for name in decode(arrays["classlist"]) if name not in of_empty)][:num_class]
    chosen = []
    for name in names:
        for subset, count in (("training", 12), ("validation", 6)):
            own = np.flatnonzero((first == name) & (decode(arrays["subset"]) == subset))
            own = sorted(own, key=lambda i: not empty[i])[:count]  # those with an instance of no length first
            chosen += [i for i in own if len(set(map(str, arrays["labels_all"][i]))) == 1]
    target.mkdir(parents=True)
    for field, array in arrays.items():
        kept = np.isin(decode(array), names) if field == "classlist" else chosen
        np.save(target / f"{field}.npy", array[kept])
    (target / "Ambiguous_test.txt").write_text("")


@pytest.mark.parametrize("year", ["1.2", "1.3"])
def test_from_annotations_to_map(activitynet, run_in, tmp_path, monkeypatch, year):
    name = f"ActivityNet{year}"
    some_classes(activitynet / f"{name}-Annotations", tmp_path / "real" / f"{name}-Annotations", num_class=5)
    monkeypatch.chdir(tmp_path)
    simulate(name, tmp_path / "real" / f"{name}-Annotations", None, feature_size=16, seed=0)
    run = run_in(tmp_path)
    argv = ("--dataset_name", name)
    status, out, err = run("--run_type", "proposals", *argv, "--proposal_epochs", 1)
    assert status == 0 and out.count("recall @ tIoU") == 2, err
    assert "of zero or negative length" in out
    status, out, err = run("--run_type", "descriptors", *argv, "--overwrite")
    assert status == 0 and "descriptors of 5 classes" in out, err
    status, out, err = run("--run_type", "check", *argv)
    assert status == 0 and "instances of length <= 0" in out and "errors: 0" in out, out
    status, out, err = run(*argv, "--max_epoch", 2, "--interval", 1)
    assert status == 0, err
    results = json.loads((tmp_path / "outputs" / "results.json").read_text())
    assert results["snippet"]["tiou"] == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    assert np.loadtxt(tmp_path / "outputs" / "mAP-results.log").shape == (2, 1 + 10 + 1 + 2)
    assert re.search(r"\n +0.5 +0.55 .* 0.95 +0.5 : 0.95\n", out)
    options = (tmp_path / "outputs" / "opt.txt").read_text()
    assert f"batch_size: {PRESETS[name]['batch_size']}    [default: 10]" in options
