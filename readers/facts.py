"""What files depend on: those that this program writes say it, and whoever reads them compares it with the data.

Weights say it in a JSON file beside them, result files under `external_data`, descriptors in `classes.json`. What a
file does not say, as those of other programs, is not held against it.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from readers.names import readable_name
from utils import InputError, has_control_characters, is_finite_number, read_json, short_repr, shorten_list

# The options that a network depends on; each is one of `WeightsRecord`, too.
_OPTIONS = ("recipe", "hidden_size", "roi_size", "modalities")
MAPPED = "classes are in another order than the data's, so they are mapped by name"
SAME_RATE = 1e-5  # relative; 29.97 and 30000/1001 are the same
F = TypeVar("F", bound="Facts")


@dataclass(frozen=True)
class Facts:
    """What proposals, detections and descriptors depend on; None where a file does not say."""

    class_names: tuple[str, ...] | None = None  # C, in order
    feature_fps: float | None = None  # frames per second of the video that features were made of
    snippet_frames: float | None = None  # from one snippet to the next

    @property
    def rate(self) -> float | None:
        """Snippets per second."""
        if self.feature_fps is None or self.snippet_frames is None:
            return None
        return self.feature_fps / self.snippet_frames

    @property
    def rate_options(self) -> str:
        """The options that give this rate."""
        return f"--feature_fps {self.feature_fps:.12g} --snippet_frames {self.snippet_frames:.12g}"

    def to_json(self) -> dict[str, Any]:
        """As plain values, of what is known."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: [*value] if isinstance(value, tuple) else value for name, value in values.items() if value is not None
        }

    @classmethod
    def from_json(cls: type[F], content: Any, where: Path | str, remedy: str) -> F:
        """The inverse of `to_json`; other names in the content are ignored.

        Args:
            content: of a file.
            where: it is from, for messages.
            remedy: what to do if it is damaged, for messages.

        Raises:
            InputError: it is no JSON object, or a value is not of its kind.
        """
        if not isinstance(content, dict):
            raise InputError(f"{where}: expected a JSON object, found {short_repr(content)}; {remedy}")
        values: dict[str, Any] = {}
        for name in (field.name for field in fields(cls)):
            if (value := content.get(name)) is None:
                continue
            if not _IS_VALID[name](value):
                raise InputError(f"{where}: damaged: {name} is {short_repr(value)}; {remedy}")
            values[name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)

    def require(self, path: Path, rate: float | None, class_names: Sequence[str], again: str) -> list[int] | None:
        """Compare with the data at hand.

        Args:
            path: of the file that says this.
            rate: snippets per second of the data; None if unknown.
            class_names: C of the data; empty if unknown.
            again: how the file is made again, for messages.

        Returns:
            See `class_order`.

        Raises:
            InputError: the file is for another rate or other classes.
        """
        if (other := self.other_rate(rate)) is not None:
            raise InputError(f"{path}: {other}; pass {self.rate_options}, or {again}")
        return self.class_order(path, class_names, again)

    def other_rate(self, rate: float | None) -> str | None:
        """Says which rate the file was made at, if it is not that of the data, in snippets per second."""
        if self.rate is None or rate is None or math.isclose(self.rate, rate, rel_tol=SAME_RATE):
            return None
        return f"made at {self.rate:.9g} snippets a second, and this run has {rate:.9g}"

    def class_order(self, path: Path, class_names: Sequence[str], again: str) -> list[int] | None:
        """The place that each class of the data has in the file; None if it is the same, or either is unknown.

        Names are compared as people read them, see `readable_name`; for the arguments, see `require`.

        Raises:
            InputError: the file is for other classes; the message names those that differ.
        """
        theirs, ours = ([readable_name(name) for name in names or ()] for names in (self.class_names, class_names))
        if theirs == ours or not theirs or not ours:
            return None
        gone, new = ([*(Counter(a) - Counter(b))] for a, b in ((theirs, ours), (ours, theirs)))
        if not gone and not new:
            place = {name: i for i, name in enumerate(theirs)}
            return [place[name] for name in ours]
        differing = {"only in the file": gone, "only in the data": new}
        names = "; ".join(f"{where}: {shorten_list(part)}" for where, part in differing.items() if part)
        remedy = again
        if gone and new:
            remedy = (
                f"if classes were renamed, restore the name {shorten_list(gone, 1)} in the annotations; else {again}"
            )
        elif gone:
            remedy = f"name all {len(theirs)} in the data's class list (--class_list, or classlist.npy), or {again}"
        raise InputError(f"{path}: made for other classes than the data's: {names}; {remedy}")


# ------------------------------------------------------------------------------------------------- weights


@dataclass(frozen=True)
class WeightsRecord(Facts):
    """What the JSON file beside weights holds: what they depend on, and what they are; None where it does not say."""

    feature_size: int | None = None  # D, RGB and flow together
    modalities: int | None = None  # of the features
    hidden_size: int | None = None  # H, of the fused features
    roi_size: int | None = None  # R
    recipe: str | None = None
    version: str | None = None  # of this program
    dataset: str | None = None  # its name
    simulated: bool | None = None  # whether the features are
    epoch: int | None = None
    evaluation: Mapping[str, Any] | None = None  # the figures of just these weights, see `eval.results.Results`
    evaluated_on: str | None = None  # `test` or `held_out` videos
    checksum: str | None = None  # of the weights, see `checksum_of`

    @property
    def facts(self) -> Facts:
        """Those that other files have, too."""
        return Facts(*(getattr(self, field.name) for field in fields(Facts)))

    def require_fit(self, path: Path, now: WeightsRecord) -> list[int] | None:
        """Compare with a network and its data.

        Args:
            path: of the file that says this.
            now: what weights trained now would depend on.

        Returns:
            See `class_order`.

        Raises:
            InputError: the weights are for another network, or for other data; the message names the options that fit.
        """
        again = "train again"
        if None not in (self.feature_size, now.feature_size) and self.feature_size != now.feature_size:
            raise InputError(
                f"{path}: the weights are for features {self.feature_size} wide, and these are {now.feature_size} "
                f"wide; take the features that they were trained on (--features), or {again}"
            )
        pairs = {name: (getattr(self, name), getattr(now, name)) for name in _OPTIONS}
        differing = {name: pair for name, pair in pairs.items() if None not in pair and pair[0] != pair[1]}
        options = [f"--{name} {theirs}" for name, (theirs, _) in differing.items()]
        values = [(f"{name} {theirs}", f"{name} {ours}") for name, (theirs, ours) in differing.items()]
        if self.other_rate(now.rate) is not None:
            options.append(self.rate_options)
            values.append((f"{self.rate:.9g} snippets a second", f"{now.rate:.9g}"))
        if values:
            theirs, ours = (", ".join(part) for part in zip(*values, strict=True))
            raise InputError(
                f"{path}: the weights are for {theirs}, and this run has {ours}; pass {' '.join(options)}, or {again}"
            )
        return self.class_order(path, now.class_names or (), again)


@dataclass(frozen=True)
class NetworkRecord(Facts):
    """What the JSON file beside a network that makes proposals holds; None where it does not say."""

    kind: str | None = None  # `own`, `paper` or `lac`
    feature_size: int | None = None  # D, RGB and flow together
    modalities: int | None = None  # of the features
    hidden_size: int | None = None  # width of its hidden layers
    members: int | None = None  # how many networks it is made of
    per_video: int | None = None  # proposals at most
    simulated: bool | None = None  # whether the features are
    version: str | None = None  # of this program
    dataset: str | None = None  # its name
    checksum: str | None = None  # of the weights, see `checksum_of`
    proposals: Mapping[str, str] | None = None  # `content_checksum` of the proposal file of each part made with it


def record_path(weights: Path) -> Path:
    """Where the record of weights is: beside them."""
    return weights.with_suffix(".json")


def read_record(weights: Path, remedy: str = "") -> WeightsRecord | None:
    """Read what the JSON file beside weights says of them; None if there is none.

    Args:
        weights: their file.
        remedy: what to do when it is damaged, where the weights are of no use without.

    Raises:
        InputError: it is damaged, or of other weights.
    """
    path = record_path(weights)
    if path == weights or not path.is_file():
        return None
    remedy = remedy or f"restore it, or remove it to use {weights.name} without"
    try:
        content = read_json(path)
    except InputError as error:
        raise InputError(f"{error}; it says what {weights.name} depends on: {remedy}") from None
    record = WeightsRecord.from_json(content, path, remedy)
    if record.checksum not in (None, checksum_of(weights)):
        raise InputError(
            f"{path}: of other weights than {weights.name} (checksum {record.checksum} against "
            f"{checksum_of(weights)}), or one of both is damaged; {remedy}"
        )
    return record


def require_fitting(weights: Path, now: WeightsRecord) -> None:
    """Check what the JSON file beside weights says, if there is one; raises as `read_record` and `require_fit` do."""
    if (record := read_record(weights)) is not None:
        record.require_fit(record_path(weights), now)


def checksum_of(weights: Path) -> str | None:
    """A checksum of the checksums that an archive has of its parts, which takes no time; None if it is no archive."""
    try:
        with zipfile.ZipFile(weights) as archive:
            return f"{zlib.crc32(repr([part.CRC for part in archive.infolist()]).encode()):08x}"
    except Exception:  # damaged files raise many kinds; `read_checkpoint` says what is wrong with them
        return None


def content_checksum(path: Path) -> str:
    """A checksum of all that is in a file; raises OSError if it cannot be read."""
    checksum = 0
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            checksum = zlib.crc32(part, checksum)
    return f"{checksum:08x}"


def _is_positive(value: Any) -> bool:
    return is_finite_number(value) and 0 < value <= 1e9


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value <= 10**9


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not has_control_characters(value)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_is_text, value))


_IS_VALID: dict[str, Callable[[Any], bool]] = {
    "class_names": _are_names,
    **dict.fromkeys(("feature_fps", "snippet_frames"), _is_positive),
    **dict.fromkeys(
        ("feature_size", "modalities", "hidden_size", "roi_size", "epoch", "members", "per_video"), _is_count
    ),
    **dict.fromkeys(("recipe", "version", "dataset", "evaluated_on", "checksum", "kind"), _is_text),
    "proposals": lambda value: isinstance(value, dict) and all(map(_is_text, value.values())),
    "simulated": lambda value: isinstance(value, bool),
    "evaluation": lambda value: isinstance(value, dict),
}
