"""Makes simulated I3D features: a demo of the whole method, or a full-size dataset to try it without real features.

    python -m prepare.make_demo                    # the dataset that --dataset_name Demo makes on first use
    python -m prepare.make_demo --name Thumos14simulated --feature_size 2048 \\
        --annotations data/Thumos14reduced/Thumos14reduced-Annotations --proposals proposals4Thumos14

The first command also invents annotations and proposals; the second simulates features for given ones. Both write a
complete dataset: features, annotations, proposals and descriptors, in the formats of the real files.

prepare/simulation.py makes the features. Results on them say nothing about real videos.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from tqdm import tqdm

from descriptors import build_descriptors
from prepare.simulation import Scene, World
from proposals import SNIPPETS_PER_SECOND, tiou
from readers.annotations import Annotations, read_annotations, usual_subsets
from readers.descriptor_files import write_descriptors
from readers.facts import Facts
from readers.features import SIMULATED_MARK
from readers.result_files import parse_results
from utils import InputError, is_plain_name, log, printable, whole_file, write_json

CLASSES = ("HighJump", "LongJump", "Throw", "Kick", "Dive", "Spin")
DATASET_ROOT, PROPOSALS_ROOT, DESCRIPTORS_ROOT = Path("data/Demo"), Path("proposals4Thumos14"), Path("descriptors")


# ------------------------------------------------------------------------------- inventing a dataset


def invent_scene(rng: np.random.Generator, name: str, main_class: int) -> Scene:
    """Invent a video of one class or, with probability 1/4, of two; slightly less than half of it is action."""
    classes = [main_class]
    if rng.random() < 0.25:
        classes.append(int(rng.choice([c for c in range(len(CLASSES)) if c != main_class])))
    instances, t = [], rng.uniform(2, 15)
    count = int(rng.integers(2, 8))
    for i in range(count):
        class_idx = classes[i] if i < len(classes) else int(rng.choice(classes))
        length = rng.uniform(4, 10) + 2.0 * class_idx * rng.random()
        instances.append((class_idx, t, t + length))
        t += length + rng.uniform(3, 22)
    return Scene(name, int(np.ceil(t)), sorted(classes), instances)


def invent_proposals(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Invent proposals `[M, 2]` in snippets: good, under- and over-complete ones for each instance, and background."""
    segments: list[tuple[float, float]] = []
    for _, start, end in scene.instances:
        length = end - start
        for _ in range(2):
            segments.append((start + length * rng.normal(0, 0.08), end + length * rng.normal(0, 0.08)))
        for _ in range(3):
            part = length * rng.uniform(0.25, 0.6)
            first = rng.uniform(start, end - part)
            segments.append((first, first + part))
        for _ in range(3):
            segments.append((start - length * rng.uniform(0.1, 0.9), end + length * rng.uniform(0.1, 0.9)))
    for (_, start, _), (_, _, end) in zip(scene.instances, scene.instances[1:], strict=False):
        segments.append((start, end))  # two instances merged into one
    for _ in range(12):
        length = rng.uniform(2, 16)
        start = rng.uniform(0, scene.num_snippets - length)
        segments.append((start, start + length))
    clipped = np.clip(np.array(segments), 0, scene.num_snippets)
    return clipped[rng.permutation(len(clipped))]


def add_distractors(rng: np.random.Generator, scene: Scene, segments: np.ndarray, num_class: int) -> None:
    """Let some proposals that overlap no instance resemble an action, one for every 50 snippets of the video."""
    if scene.instances:
        actions = np.array([(start, end) for _, start, end in scene.instances])
        segments = segments[(tiou(segments[:, None], actions[None]) == 0).all(1)]
    segments = segments[segments[:, 1] > segments[:, 0]]
    count = min(len(segments), round(scene.num_snippets / 50))
    for start, end in segments[rng.permutation(len(segments))[:count]]:
        same_class = scene.classes and rng.random() < 0.5
        class_idx = int(rng.choice(scene.classes if same_class else num_class))
        scene.distractors.append((class_idx, float(start), float(end)))


# ------------------------------------------------------------------------------------------- writing


def _object_array(items: list) -> np.ndarray:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def _save(path: Path, array: np.ndarray) -> None:
    with whole_file(path, "wb") as file:
        np.save(file, array)


def _write_annotations(folder: Path, scenes: list[Scene], subsets: list[str], rng: np.random.Generator) -> None:
    """Write the files of a THUMOS14 annotation folder, strings as bytes, with some ambiguous test segments."""

    def seconds(snippets: float) -> float:
        return round(snippets / SNIPPETS_PER_SECOND, 1)

    names = [c.encode() for c in CLASSES]
    _save(folder / "classlist.npy", np.array(names))
    _save(folder / "videoname.npy", np.array([scene.name.encode() for scene in scenes]))
    _save(folder / "subset.npy", np.array([subset.encode() for subset in subsets]))
    _save(folder / "duration.npy", np.array([[scene.num_snippets / SNIPPETS_PER_SECOND] for scene in scenes]))
    _save(folder / "labels_all.npy", _object_array([[names[c] for c in scene.classes] for scene in scenes]))
    _save(folder / "labels.npy", _object_array([[names[c] for c, _, _ in scene.instances] for scene in scenes]))
    segments = [[[seconds(start), seconds(end)] for _, start, end in scene.instances] for scene in scenes]
    _save(folder / "segments.npy", _object_array(segments))
    with whole_file(folder / "Ambiguous_test.txt") as file:
        for scene, subset in zip(scenes, subsets, strict=True):
            if subset == "test" and scene.distractors and rng.random() < 0.3:
                _, start, end = scene.distractors[0]
                file.write(f"{scene.name}  {seconds(start)} {seconds(end)}\n")


def facts_of(class_names: Sequence[str]) -> Facts:
    """What simulated files depend on."""
    return Facts(tuple(class_names), feature_fps=25.0, snippet_frames=16.0)


def _film_and_write(
    scenes: list[Scene],
    labels: np.ndarray,
    training: np.ndarray,
    world: World,
    feature_path: Path,
    descriptor_folder: Path,
    class_names: Sequence[str],
) -> None:
    """Make the features of all scenes; write the descriptors of the training videos, then the features."""
    progress = tqdm(list(enumerate(scenes)), desc="simulating features", unit="video", leave=False)
    # Threads suffice, and copy nothing: numpy releases the interpreter lock while it draws and multiplies.
    features = Parallel(n_jobs=-1, prefer="threads")(delayed(world.film)(scene, i) for i, scene in progress)
    means = torch.from_numpy(np.stack([video.mean(0) for video in features]))
    descriptors = build_descriptors(means[training], torch.from_numpy(labels[training]))
    write_descriptors(descriptor_folder, descriptors, facts_of(class_names))
    with whole_file(feature_path.parent / SIMULATED_MARK) as file:
        file.write(
            "The features here are simulated (prepare/make_demo.py): results on them say nothing about real videos.\n"
        )
    _save(feature_path, _object_array(features))


def make_demo_once() -> None:
    """Make the demo where `--dataset_name Demo` looks for it by default, unless it exists."""
    features = (DATASET_ROOT / "features", DATASET_ROOT / "Demo-I3D-JOINTFeatures.npy")  # as one file or as many
    if not any(path.exists() for path in features):
        log.info(f"making the demo dataset (simulated) in {DATASET_ROOT}")
        make_demo()


def make_demo(
    dataset_root: Path = DATASET_ROOT,
    proposals_root: Path = PROPOSALS_ROOT,
    descriptors_root: Path = DESCRIPTORS_ROOT,
    *,
    feature_size: int = 256,
    seed: int = 0,
) -> None:
    """Make the Demo dataset: 140 short invented videos of six classes, 80 to train and 60 to test on."""
    rng = np.random.default_rng(seed)
    scenes, subsets = [], []
    for part, subset, count in (("train", "validation", 80), ("test", "test", 60)):
        results = {}
        for i in range(count):
            scene = invent_scene(rng, f"demo_{part}_{i + 1:04d}", i % len(CLASSES))
            segments = invent_proposals(rng, scene)
            add_distractors(rng, scene, segments, len(CLASSES))
            seconds = (segments / SNIPPETS_PER_SECOND).round(2).tolist()
            results[scene.name] = [{"segment": segment} for segment in seconds]
            scenes.append(scene)
            subsets.append(subset)
        content = {"version": "Demo (simulated)", "results": results, "external_data": facts_of(CLASSES).to_json()}
        write_json(proposals_root / f"Proposals_Demo_{part}.json", content)
    _write_annotations(dataset_root / "Demo-Annotations", scenes, subsets, rng)
    labels = np.zeros((len(scenes), len(CLASSES)), dtype=np.float32)
    for row, scene in zip(labels, scenes, strict=True):
        row[scene.classes] = 1
    training = np.array([subset == "validation" for subset in subsets])
    world = World(len(CLASSES), feature_size, seed)
    feature_path = dataset_root / "Demo-I3D-JOINTFeatures.npy"  # written last: the demo is complete when it exists
    _film_and_write(scenes, labels, training, world, feature_path, descriptors_root / "Demo", CLASSES)


def simulate(name: str, annotation_folder: Path, proposal_folder: Path | None, *, feature_size: int, seed: int) -> None:
    """Simulate features for given annotations: a new dataset in the standard folders.

    Args:
        name: of the new dataset.
        annotation_folder: `<source>-Annotations`.
        proposal_folder: with the two proposal files of the source, which are copied; None if it has none.
        feature_size: D.
        seed: of everything random.

    Raises:
        InputError: the input cannot be read, or a dataset of that name exists already.
    """
    source = annotation_folder.name.removesuffix("-Annotations")
    root, descriptor_folder = Path("data") / name, DESCRIPTORS_ROOT / name
    files = [path for path in sorted(annotation_folder.glob("*.*")) if path.is_file()]
    copies = {path: root / f"{name}-Annotations" / path.name for path in files}
    proposal_files = {}
    if proposal_folder is not None:
        for part in ("train", "test"):
            target = PROPOSALS_ROOT / f"Proposals_{name}_{part}.json"
            proposal_files[proposal_folder / f"Proposals_{source}_{part}.json"] = target
    copies |= proposal_files
    for target in (root, descriptor_folder, *copies.values()):
        if target.exists():
            raise InputError(f"{target} exists, and simulated data do not replace files; choose another --name")

    annotations = read_annotations(annotation_folder)
    proposals = None
    if proposal_files:
        proposals = {
            video: entries for path in proposal_files for video, entries in parse_results(path).results.items()
        }
    scenes = _scenes_of(annotations, proposals, annotation_folder / "duration.npy", seed)

    for path, target in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    train_subset = usual_subsets(annotations.subsets)["train"]
    training = np.array([subset == train_subset for subset in annotations.subsets])
    world = World(len(annotations.class_names), feature_size, seed)
    feature_path = root / f"{name}-I3D-JOINTFeatures.npy"
    names = annotations.class_names
    _film_and_write(scenes, annotations.labels, training, world, feature_path, descriptor_folder, names)


def _scenes_of(
    annotations: Annotations, proposals: dict[str, list[dict[str, Any]]] | None, duration_file: Path, seed: int
) -> list[Scene]:
    """The scenes of annotated videos; distractors are chosen from the proposals, or at random without them."""
    if np.isnan(annotations.durations).any():
        raise InputError(f"{duration_file}: missing or incomplete; the durations of all videos are needed")
    longest = annotations.durations.max(initial=0)
    if longest > 100_000:
        raise InputError(f"{duration_file}: a video of {longest:g} s is too long to simulate")
    rng = np.random.default_rng(seed)
    instances: dict[str, list[tuple[int, float, float]]] = {video: [] for video in annotations.videos}
    for video, class_idx, *times in annotations.instances.itertuples(index=False):
        start, end = (time * SNIPPETS_PER_SECOND for time in times)
        instances[video].append((class_idx, start, end))
    scenes = []
    for video, label, duration in zip(annotations.videos, annotations.labels, annotations.durations, strict=True):
        num_snippets = max(1, round(duration * SNIPPETS_PER_SECOND))
        scene = Scene(video, num_snippets, np.flatnonzero(label).tolist(), instances[video])
        segments: np.ndarray
        if proposals is None:
            segments = np.sort(rng.uniform(0, num_snippets, (20, 2)), axis=1)
        else:
            seconds = np.array([entry["segment"] for entry in proposals.get(video, [])]).reshape(-1, 2)
            segments = seconds * SNIPPETS_PER_SECOND
        add_distractors(rng, scene, segments, label.size)
        scenes.append(scene)
    return scenes


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m prepare.make_demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", help="name of the dataset to write; without --annotations it is Demo")
    parser.add_argument("--annotations", type=Path, help="annotation folder to simulate features for")
    parser.add_argument("--proposals", type=Path, help="folder of that dataset's two proposal files, if it has any")
    parser.add_argument("--feature_size", type=int, default=256, help="feature width, RGB and flow together")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        if (args.name is None) != (args.annotations is None) or (args.proposals and not args.annotations):
            raise InputError("--name and --annotations go together, and --proposals needs both")
        if args.feature_size < 2 or args.feature_size % 2 or args.seed < 0:
            raise InputError("--feature_size must be even and at least 2, and --seed not negative")
        if args.name is None:
            if DATASET_ROOT.exists():
                raise InputError(f"{DATASET_ROOT} exists, and simulated data do not replace files; remove it first")
            make_demo(feature_size=args.feature_size, seed=args.seed)
        elif not is_plain_name(args.name):
            raise InputError(f"--name {args.name!r}: expected a plain name, since it names folders and files")
        else:
            simulate(args.name, args.annotations, args.proposals, feature_size=args.feature_size, seed=args.seed)
    except InputError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 2
    print(f"done; next: python main.py --run_type train --dataset_name {args.name or 'Demo'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
