"""I3D features of all videos in a folder: made once each, by any number of processes, which may be stopped at any time.

A process locks a video before it makes its features, and writes each file whole. So nothing is made twice, nothing is
half written, and what was begun when a process ended is begun again. The same video always gives the same bytes.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import joblib
import numpy as np
from tqdm import tqdm

from prepare.clips import Extractor
from prepare.feature_writing import KINDS, FeatureFiles, FeatureSettings, VideoFeatures
from prepare.frame_folders import FrameFolder
from prepare.i3d import SNIPPET_FRAMES
from prepare.optical_flow import flow_of
from prepare.video_files import find_videos
from prepare.video_frames import VideoFile
from prepare.video_packages import require_video_packages
from readers.findings import DOUBTFUL, Findings, say_notices
from utils import CannotWrite, InputError, __version__, log, require_writable, writing

_WAIT = 0.5  # seconds, after which another process may have made a video
Pictures = Generator[tuple[np.ndarray | None, np.ndarray | None], None, None]  # of RGB and of optical flow


@dataclass
class FeatureSummary:
    """What became of the videos; mostly the names of their features."""

    made: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)  # already, as they would be made, or made by another process
    errors: list[str] = field(default_factory=list)  # a line for each that failed
    others: int = 0  # files that are no videos
    seconds: float = 0.0  # of video, in those made

    @property
    def status(self) -> int:
        """The exit status."""
        return 1 if self.errors else 0

    def fail(self, message: str) -> None:
        """Say why a video has no features, and go on."""
        line = message.replace("\n", "\\n")  # of a name
        log.info(f"error: {line}")
        self.errors.append(line)

    def text(self, target: Path, took: float) -> str:
        """What to say at the end, after so many seconds."""
        speed = f" ({self.seconds:.0f} s of video in {took:.0f} s)" if self.made else ""
        parts = [f"{len(self.made)} made{speed}", f"{len(self.there)} already there", f"{len(self.errors)} failed"]
        parts += [f"{self.others} files that are no videos left out"] if self.others else []
        return f"features in {target}: {', '.join(parts)}"


# ------------------------------------------------------------------------------------------------- one video


class VideoSource:
    """The pictures of a video file.

    Args:
        path: of the file.
        fps: frames per second to take.

    Attributes:
        size: of the file, in bytes.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.video = path, VideoFile(path, fps)
        self.size: int | None = 0
        with suppress(OSError):  # reading it says why
            self.size = path.stat().st_size

    def share(self, count: int) -> float:
        """The share of the video that so many frames are, as far as one knows."""
        stated = self.video.stated_seconds
        return min(1.0, count / (stated * self.video.fps)) if stated else 0.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is odd about the video, once it was read: a kind, and this video's case of it."""
        if self.video.damage:
            yield "damaged videos, used as far as they go", f"{self.path} ({self.video.damage})"
        if self.video.is_plain:
            yield "videos that show plain colours and nothing else", str(self.path)

    @property
    def damage(self) -> str | None:
        """What is damaged, once the video was read; None if nothing is."""
        return self.video.damage

    def pictures(self, workers: int) -> Pictures:
        """Decode once."""
        return _with_flow(self.video.frames(), workers)


class FolderSource:
    """The same of a folder of frames, as the usual extractor takes it, with flow images or without."""

    size = None  # it would take long to find out

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, FrameFolder(path)

    def share(self, count: int) -> float:
        """The share of the video that so many frames are."""
        return min(1.0, count / self.folder.count)

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is odd about the folder: a kind, and this folder's case of it."""
        if self.folder.damage:
            yield "folders of frames with gaps, which were closed", f"{self.path} ({self.folder.damage})"

    @property
    def damage(self) -> str | None:
        """What is damaged; None if nothing is."""
        return self.folder.damage

    def pictures(self, workers: int) -> Pictures:
        """Read the images; flow is computed where there is none."""
        if self.folder.has_flow:
            yield from itertools.zip_longest(self.folder.rgb(), self.folder.flow())
        else:
            yield from _with_flow(self.folder.rgb(), workers)


Source = VideoSource | FolderSource


def source_of(path: Path, fps: float) -> Source:
    """The pictures of a video: a file, or a folder of frames."""
    return FolderSource(path) if FrameFolder.is_one(path) else VideoSource(path, fps)


def _with_flow(frames: Iterable[np.ndarray], workers: int) -> Pictures:
    """Each frame with the flow to the next one, and the last alone. Few are in memory at a time."""
    kept: deque[np.ndarray] = deque()

    def remembered() -> Iterator[np.ndarray]:
        for frame in frames:
            kept.append(frame)
            yield frame

    for flow in flow_of(remembered(), workers):
        yield kept.popleft(), flow
    for frame in kept:
        yield frame, None


def extract_features(
    source: Source,
    settings: FeatureSettings,
    networks: Extractor,
    workers: int,
    on_frame: Callable[[int], None] = lambda _: None,
) -> VideoFeatures:
    """Make the features of a video. What is in memory does not depend on its length, but for the features themselves.

    Args:
        source: its pictures.
        settings: of the features.
        networks: of RGB and flow.
        workers: threads for optical flow.
        on_frame: called after each frame, with the number of frames so far.

    Raises:
        InputError: the video cannot be read, or is too short.
    """
    rgb, flow = (networks.stream(kind, settings.snippet_frames) for kind in KINDS)
    with closing(source.pictures(workers)) as pictures:
        for picture, image in pictures:
            if picture is not None:
                rgb.add_frame(picture)
            if image is not None:
                flow.add_frame(image)
            on_frame(rgb.count)
    if rgb.count <= SNIPPET_FRAMES or flow.count < SNIPPET_FRAMES:
        length = f"{rgb.count} frames at {settings.feature_fps:g} a second, {flow.count} of optical flow"
        needed = f"features need {SNIPPET_FRAMES + 1} and {SNIPPET_FRAMES}"
        raise InputError(f"{source.path}: too short: {length}; {needed}; leave it out")
    try:
        features = {kind: stream.features() for kind, stream in zip(KINDS, (rgb, flow), strict=True)}
    except InputError as error:
        raise InputError(f"{source.path}: {error}") from None
    return VideoFeatures(features, {"rgb": rgb.count, "flow": flow.count})


# ------------------------------------------------------------------------------------------------- all videos


class _Progress:
    """A bar: how many videos, seconds of video in a second, and the time left, by the sizes of the files."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes, self._began = sizes, time.monotonic()
        self._videos, self._passed, self._seconds = 0, 0, 0.0
        form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        total = max(1, sum(sizes.values()))
        self._bar = tqdm(total=total, bar_format=form, mininterval=1, smoothing=0, leave=False)

    def at(self, video: str, share: float, seconds: float) -> None:
        """A share of a video, and its seconds, are done."""
        speed = (self._seconds + seconds) / max(time.monotonic() - self._began, 1e-9)
        self._bar.set_description_str(f"features: {self._videos} of {len(self._sizes)} videos", refresh=False)
        self._bar.set_postfix_str(f"{speed:.1f} s of video a second", refresh=False)
        self._bar.update(self._passed + share * self._sizes[video] - self._bar.n)

    def end(self, video: str, seconds: float) -> None:
        """A video is done, or left alone."""
        self._videos, self._passed = self._videos + 1, self._passed + self._sizes[video]
        self._seconds += seconds
        self.at(video, 0.0, 0.0)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


class _Making:
    """Makes features of videos, one after another.

    Args:
        sources: the pictures of the videos, by name.
        files: of the features.
        networks: of RGB and flow.
        workers: threads for optical flow.
        overwrite: whether files that were made in another way are replaced.
        summary: takes what becomes of each.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        files: FeatureFiles,
        networks: Extractor,
        *,
        workers: int,
        overwrite: bool,
        summary: FeatureSummary,
    ) -> None:
        self.sources, self.files, self.networks = sources, files, networks
        self.workers, self.overwrite, self.summary = workers, overwrite, summary
        self.findings = Findings()
        self.progress = _Progress({name: source.size or 1 for name, source in sources.items()})

    def run(self) -> None:
        """Make all. Those that other processes have are waited for at the end: one that is killed leaves its video."""
        try:
            held = self._left(self._left(self.sources))
            if held:
                details = [f"{name} ({holder})" for name, holder in held.items()]
                say_notices({"waiting for other processes, which are making videos": details})
            while held := self._left(held):
                time.sleep(_WAIT)
        finally:
            self.progress.close()
        self.findings.say()

    def _left(self, names: Iterable[str]) -> dict[str, str]:
        """Make the features of videos, but for those that other processes are making; returns these, and by whom."""
        return {name: holder for name in names if (holder := self._try(name)) is not None}

    def _try(self, name: str) -> str | None:
        """Make the features of a video; returns who else is making them, None if nobody."""
        lock = self.files.lock(name)
        with writing(lock.path):
            taken = lock.take()
        if not taken:
            return lock.holder
        if lock.failure:
            self.findings.warn(f"videos that cannot be locked ({lock.failure})", name, "start no second process here")
        seconds = 0.0
        try:
            if self.files.complete({name: self.sources[name].size}, overwrite=self.overwrite):
                self.summary.there.append(name)
            else:
                seconds = self._make(name)
        except CannotWrite:
            raise
        except InputError as error:
            self.summary.fail(str(error))
        finally:
            lock.release()
        self.progress.end(name, seconds)
        return None

    def _make(self, name: str) -> float:
        """Make the features of a video that is locked; returns its seconds."""
        source, settings = self.sources[name], self.files.settings

        def on_frame(count: int) -> None:
            self.progress.at(name, source.share(count), count / settings.feature_fps)

        features = extract_features(source, settings, self.networks, self.workers, on_frame)
        frames = features.frames["rgb"]
        seconds = frames / settings.feature_fps
        what = {"version": __version__, "video": source.path.name, "bytes": source.size}
        result = {"frames": frames, "seconds": seconds, "damage": source.damage}
        self.files.write(name, features, what | settings.to_json() | result)
        self.summary.made.append(name)
        self.summary.seconds += seconds
        for kind, case in source.problems():
            self.findings.warn(kind, case, weight=DOUBTFUL)
        return seconds


def make_features(
    videos: Sequence[Path],
    target: Path,
    settings: FeatureSettings,
    networks: Extractor,
    *,
    shard: tuple[int, int] = (1, 1),
    workers: int | None = None,
    overwrite: bool = False,
) -> FeatureSummary:
    """Make the features of videos that have none yet. It may be stopped at any time; started again, it goes on.

    Args:
        videos: folders of videos, which are found in folders of these as well, folders of frames, or files.
        target: the folder of the features.
        settings: of the features.
        networks: with the crop of the settings.
        shard: (i, n) takes the i-th of n parts of the videos, from 1.
        workers: threads for optical flow; one a core when not given.
        overwrite: whether features that were made in another way are replaced.

    Returns:
        What became of each video. A video that cannot be used is an error there, and the others go on.

    Raises:
        InputError: there is no video; features are there that were made in another way; a package is missing.
        CannotWrite: the target cannot be written to, or the disk is full.
    """
    require_video_packages()
    require_writable(target, "--features")
    began, found = time.monotonic(), find_videos(videos)
    summary = FeatureSummary(others=found.others.total())
    for message in found.errors:
        summary.fail(message)
    sources = {name: source_of(path, settings.feature_fps) for name, path in found.share(*shard).items()}
    files = FeatureFiles(target, settings)
    there = files.complete({name: source.size for name, source in sources.items()}, overwrite=overwrite)
    summary.there += [name for name in sources if name in there]
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
    files.sweep()
    left = {name: source for name, source in sources.items() if name not in there}
    workers = workers or joblib.cpu_count()
    making = _Making(left, files, networks, workers=workers, overwrite=overwrite, summary=summary)
    making.run()
    files.sweep()
    log.info(summary.text(target, time.monotonic() - began))
    return summary
