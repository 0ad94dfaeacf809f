"""Which videos there are in folders: files that FFmpeg reads, and folders of frames."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from prepare.frame_folders import FrameFolder
from prepare.i3d import SNIPPET_FRAMES
from prepare.video_frames import VideoFile
from readers.names import readable_name
from utils import InputError, is_plain_name, short_repr, shorten_list

# Endings of videos; a file with one of these that holds none is an error.
_VIDEO = re.compile(
    r"\.(3g[2p]|amv|asf|av[is]|divx|dv|dvr-ms|f4v|flv|gxf|h?26[45]|hevc|ivf|m[124]v|m2ts?|mjpe?g|mkv|mov|mp[4eg]|mpeg|mpv|"
    r"mts|mxf|nsv|nut|og[mv]|qt|rm|rmvb|ts|vob|webm|wmv|wtv|y4m)"
)
# Endings of what lies beside videos, and is not opened. A file with any other ending is a video if it can be decoded.
_OTHER = re.compile(
    r"\.(7z|aac|ac3|ass|bmp|bz2|cfg|csv|db|docx?|flac|gz|h5|hdf5|html?|idx|ini|ipynb|jpe?g|jsonl?|log|lrc|m3u8?|m4a|mat|"
    r"md|md5|mk[as]|mp3|nfo|np[yz]|ogg|opus|pdf|pickle|pkl|png|pptx?|psd|pth?|py|rar|rtf|sh|sha256|smi|srt|ssa|sub|svg|tar|"
    r"tfrecord|tiff?|torrent|tsv|txt|url|vtt|wav|webp|wma|xlsx?|xml|xz|ya?ml|zip)"
)
_HALF = re.compile(r"(.+)[-_](rgb|flow)", re.DOTALL)  # how names of files with half of a video's features end
_OTHER_HALF = {"rgb": "flow", "flow": "rgb"}
_UNFINISHED = re.compile(r"\.(part|crdownload|(op)?download|filepart|te?mp|aria2|ytdl|!).*")


def has_video_ending(path: Path) -> bool:
    """Whether the ending of a path is one of videos; other files may be videos as well, see `find_videos`."""
    return _VIDEO.fullmatch(path.suffix.lower()) is not None and not path.name.startswith(".")


@dataclass
class FoundVideos:
    """What `find_videos` finds."""

    videos: dict[str, Path] = field(default_factory=dict)  # by the names of their features, in order
    errors: list[str] = field(default_factory=list)  # what cannot have features, a line each
    others: Counter[str] = field(default_factory=Counter)  # files that are no videos, by their ending

    def share(self, part: int, parts: int) -> dict[str, Path]:
        """The videos of one of several parts, from 1; every process must see the same folder."""
        return dict(islice(self.videos.items(), part - 1, None, parts))


def find_videos(paths: Sequence[Path]) -> FoundVideos:
    """Find all videos in folders, and in the folders in these.

    Hidden files, downloads that are not finished and files that are no videos are left out.

    Args:
        paths: folders, folders of frames, or files, which are taken as videos whatever their ending.

    Raises:
        InputError: a path does not exist, or there is no video at all.
    """
    found, by_look = FoundVideos(), dict[str, list[Path]]()
    for path in paths:
        if not _is_there(path):
            raise InputError(f"{path}: no such file or folder of videos")
        is_frames = FrameFolder.is_one(path) and not _holds_videos(path)
        for video in [path] if is_frames else _videos_in(path, found, set()):
            name = _name_of(video)
            if is_plain_name(name):
                by_look.setdefault(readable_name(name), []).append(video)
            else:
                reason = "too long" if len(name.encode(errors="replace")) > 200 else "a name with control characters"
                found.errors.append(f"{video}: {short_repr(name)} cannot name a file of features, {reason}; rename it")
    for videos in by_look.values():
        if len(set(videos)) > 1:
            names = shorten_list([str(video) for video in videos])
            found.errors.append(f"{names}: features of {len(videos)} videos would have one name; rename all but one")
        else:
            found.videos[_name_of(videos[0])] = videos[0]
    for name in [name for name in found.videos if _is_taken_for_half(name, found.videos)]:
        reason = f"the features of {short_repr(name)} would be taken for half of those of another video"
        found.errors.append(f"{found.videos.pop(name)}: {reason}; rename it")
    found.videos = dict(sorted(found.videos.items()))
    if not found.videos and not found.errors:
        raise InputError(_nothing_in(paths, found.others))
    return found


def _is_taken_for_half(name: str, names: Container[str]) -> bool:
    """Whether features with this name, and those with the others, look like the two halves of one video's."""
    half = _HALF.fullmatch(name)
    return half is not None and any(
        other in names for other in (half[1], name.removesuffix(half[2]) + _OTHER_HALF[half[2]])
    )


def _nothing_in(paths: Sequence[Path], others: Counter[str]) -> str:
    kinds = [ending or "no ending" for ending, _ in others.most_common()]
    holds = f"; it holds {others.total()} other files ({shorten_list(kinds)})" if others else "; it is empty"
    return (
        f"{shorten_list([str(path) for path in paths])}: no video found; looked for files such as .mp4, .mkv, .avi, "
        f".webm and .mov, also in its folders, and for folders with img_*.jpg or img.zip{holds}"
    )


def _is_there(path: Path) -> bool:
    """Whether there is something at a path, if only a link, or something that may not be looked at."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True


def _is_folder(path: Path) -> bool:
    """Whether a path is that of a folder that may be looked at; reading says what is wrong with any other."""
    with suppress(OSError):
        return path.is_dir()
    return False


def _name_of(path: Path) -> str:
    return path.absolute().name if _is_folder(path) else path.stem


def _holds_videos(folder: Path) -> bool:
    """Whether a folder has files of videos, even if there are images in it that are named like frames."""
    return any(has_video_ending(one) for one in folder.iterdir())


def _videos_in(path: Path, found: FoundVideos, seen: set[Path]) -> Iterator[Path]:
    """A path if it is a file, or the videos in the folder that it is.

    Args:
        path: of a file or folder.
        found: takes what is none.
        seen: the folders above, since links may lead back to them.
    """
    if not _is_folder(path):
        yield path
        return
    if path.resolve() in seen:
        return
    seen.add(path.resolve())
    try:
        inside = sorted(path.iterdir())
    except OSError as error:
        found.errors.append(f"{path}: cannot be read ({error.strerror})")
        return
    for one in inside:
        ending = one.suffix.lower()
        if one.name.startswith(".") or _UNFINISHED.fullmatch(ending):
            found.others[ending] += 1
        elif has_video_ending(one):
            yield one  # also a folder or a broken link, of which reading it says what it is
        elif FrameFolder.is_one(one):
            yield one
        elif _is_folder(one):
            yield from _videos_in(one, found, seen)
        elif not _OTHER.fullmatch(ending) and _can_be_decoded(one):
            yield one
        else:
            found.others[ending] += 1


def _can_be_decoded(path: Path) -> bool:
    """Whether a file has enough frames for features."""
    frames = VideoFile(path).frames()
    with suppress(InputError):
        return next(islice(frames, SNIPPET_FRAMES, None), None) is not None
    return False
