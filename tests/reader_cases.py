"""All readers of the program with valid files, for tests that damage these."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from building import batch_of, network

from dataset import read_proposals
from eval.results import Results
from options import parse_options, plain_values, resume_options
from readers.annotations import read_annotations
from readers.arrays import read_array
from readers.checkpoints import load_weights
from readers.descriptor_files import CLASSES, FILES, read_descriptors
from readers.facts import WeightsRecord
from readers.features import Features
from runs.detections import read_detections
from runs.log import read_metrics
from runs.results import RunResults, read_results
from runs.seeds import read_seeds, seeds_table, summarise
from runs.state import TrainingState, read_resume

SHARED = Path(__file__).resolve().parents[2] / "shared"  # real files, where they are at hand
VIDEOS = ["clip 1", "clip é", "v3"]
CLASS_NAMES = ["Jump", "Throw"]
RATE = 25 / 16


class Reader:
    """A function that reads files in a folder; `others` are needed too, but are not damaged."""

    def __init__(self, read: Callable[[Path], Any], files: dict[str, bytes], others: dict[str, bytes] | None = None):
        self.read, self.files, self.others = read, files, others or {}

    def lay_out(self, folder: Path, changed: dict[str, bytes] | None = None) -> None:
        """Write all files anew; a new file each, since one that is mapped must not change."""
        for name, content in (self.others | self.files | (changed or {})).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.write_bytes(content)


def objects(*items: Any) -> np.ndarray:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def features(folder: Path, name: str) -> None:
    found = Features(folder / name, VIDEOS[:2])
    for i in found.require(range(2)):
        found.read(i)
        found.read_again(i)


def training_state(path: Path) -> TrainingState:
    model = network(4, 2)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    return TrainingState(
        path,
        options=plain_values(parse_options([])),
        data="digest",
        terms=["loss", "gradient"],
        model=model,
        optimizer=optimizer,
        generator=torch.Generator(),
        others={"scheduler": scheduler},
    )


def a_step(state: TrainingState) -> None:
    state.model(batch_of(torch.ones(3, 3, 4)))["class_logits"].sum().backward()
    for parameter in state.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()


def resume(folder: Path) -> None:
    state = training_state(folder / "resume.pt")
    saved = read_resume(folder / "resume.pt")
    resume_options(parse_options(["--resume"]), saved.options)
    state.restore(saved)
    a_step(state)
    state.finish_epoch(state.best and state.best.results)


PROTOCOL = {"tiou": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], "mAP": [40.0] * 7, "average": 40.0}
EVALUATION = {
    "snippet": PROTOCOL,
    "seconds": PROTOCOL,
    "classification_mAP": 10.0,
    "classification_accuracy": 20.0,
}


def resume_file(folder: Path) -> bytes:
    state = training_state(folder / "made.pt")
    a_step(state)
    state.finish_epoch(Results.from_json(EVALUATION))
    state.steps = [torch.ones(2)] * 3
    state.save()
    return state.path.read_bytes()


def all_readers(folder: Path, shared: Path) -> dict[str, Reader]:
    """The readers; their valid files are made here, and some are real ones if these are available."""
    database = {
        VIDEOS[0]: {"subset": "training", "duration": 10.5, "annotations": [{"label": "Jump", "segment": [1.0, 2.5]}]},
        VIDEOS[1]: {"subset": "training", "annotations": [{"label": "Throw"}, {"label": "Jump", "segment": []}]},
        VIDEOS[2]: {"subset": "validation", "duration": 3, "annotations": [{"label": "Jump", "segment": [0, 1]}]},
    }
    entries = [
        {"segment": [0.64, 12.8], "score": 0.5, "label": "Jump"},
        {"segment": [1, 2], "score": 1, "label": "Throw"},
    ]
    record = WeightsRecord(tuple(CLASS_NAMES), 25.0, 16.0, feature_size=16, roi_size=12, recipe="paper", epoch=3)
    external = record.facts.to_json()
    results = json.dumps(
        {"version": "x", "results": dict.fromkeys(VIDEOS, entries), "external_data": external}
    ).encode()
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    halves = {"feature": np.ones((2, 5, 2), np.float32)}
    annotations = {
        "videoname": np.array([name.encode() for name in VIDEOS]),
        "subset": np.array([b"validation", b"validation", b"test"]),
        "classlist": np.array([name.encode() for name in CLASS_NAMES]),
        "labels_all": objects([b"Jump"], [b"Throw", b"Jump"], []),
        "labels": objects([b"Jump"], [], [b"Jump", b"Throw"]),
        "segments": objects([[1.0, 2.5]], [], [[0.0, 1.0], [3.25, 4.5]]),
        "duration": np.array([[10.5], [20.0], [3.0]]),
    }
    evaluation = EVALUATION | {"checkpoint": "x.pkl", "epoch": 2, "best": EVALUATION | {"epoch": 1}}
    metrics = json.dumps({"epoch": 1, "loss_total": 2.5, "PC_loss": 0.5, "seconds": 1.5}) + "\n"
    metrics += json.dumps({"epoch": 1, "evaluation": EVALUATION}) + "\n"
    seeds = summarise([0, 1], [RunResults.from_json(evaluation)] * 2).to_json()
    texts = {"a/Ambiguous_test.txt": b"v3  0.5 1.5\nv3 2 3\n"}
    readers = {
        "annotation folder": Reader(
            lambda f: read_annotations(f / "a"), {f"a/{n}.npy": npy(a) for n, a in annotations.items()} | texts
        ),
        "annotation file": Reader(
            lambda f: read_annotations(f / "a" / "a.json"), {"a/a.json": json.dumps({"database": database}).encode()}
        ),
        "class list": Reader(
            lambda f: read_annotations(f / "a.json", f / "classes.txt"),
            {"classes.txt": "Jump\nThrow\nÜbung\n".encode()},
            {"a.json": json.dumps({"database": database}).encode()},
        ),
        "features in one array": Reader(lambda f: features(f, "f.npy"), {"f.npy": npy(objects(rows, rows[:2]))}),
        "features of a video": Reader(
            lambda f: features(f, "f"), {f"f/{VIDEOS[0]}.npy": npy(rows), f"f/{VIDEOS[1]}.npy": npy(rows[:2] * 0.1)}
        ),
        "features of an extractor": Reader(
            lambda f: features(f, "f"),
            {f"f/{video}-{part}.npz": npz(**halves) for video in VIDEOS[:2] for part in ("rgb", "flow")},
        ),
        "proposals": Reader(
            lambda f: read_proposals(f / "p.json", VIDEOS, RATE, class_names=CLASS_NAMES), {"p.json": results}
        ),
        "detections": Reader(lambda f: read_detections(f / "d.json", VIDEOS, CLASS_NAMES, RATE), {"d.json": results}),
        "descriptors": Reader(
            lambda f: read_descriptors(f / "d", 2, 4, CLASS_NAMES),
            {f"d/{name}": npy(rows[:2, :2]) for name in FILES[2]} | {f"d/{CLASSES}": json.dumps(external).encode()},
        ),
        "weights": Reader(lambda f: load_weights(network(), f / "w.pkl"), {"w.pkl": saved(network().state_dict())}),
        "record of weights": Reader(
            lambda f: load_weights(network(), f / "w.pkl", record),
            {"w.json": json.dumps(record.to_json()).encode()},
            {"w.pkl": saved(network().state_dict())},
        ),
        "resume file": Reader(resume, {"resume.pt": resume_file(folder)}),
        "results": Reader(lambda f: read_results(f / "r.json"), {"r.json": json.dumps(evaluation).encode()}),
        "metrics": Reader(lambda f: read_metrics(f / "m.jsonl"), {"m.jsonl": metrics.encode()}),
        "seeds": Reader(lambda f: seeds_table(read_seeds(f / "s.json")), {"s.json": json.dumps(seeds).encode()}),
    }
    if shared.is_dir():
        real = [path for name in ("thumos14", "activitynet") for path in sorted((shared / name).rglob("*.npy"))]
        small = {path.name: path.read_bytes() for path in real if path.stat().st_size < 12_000}
        readers["real arrays"] = Reader(lambda f: [read_array(path) for path in f.iterdir()], small)
        proposals = json.loads((shared / "thumos14" / "Proposals_Thumos14reduced_test.json").read_text())
        some = dict(list(proposals["results"].items())[:2])
        some = {video: entries[:20] for video, entries in some.items()}
        names = sorted({entry["label"] for entries in some.values() for entry in entries})
        readers["real detections"] = Reader(
            lambda f: read_detections(f / "d.json", list(some), names, RATE),
            {"d.json": json.dumps({"results": some}).encode()},
        )
    return readers


def members(archive: bytes) -> dict[str, bytes]:
    """The members of a ZIP archive."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return {name: file.read(name) for name in file.namelist()}


def archived(content: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A ZIP archive of members, with correct checksums."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return file.getvalue()
