"""The network that proposals were made with, kept beside them to make those of other videos in just the same way.

`--run_type proposals` writes `Proposals_<name>_network.pkl`, a state dict, and a JSON file beside it that says what the
network depends on, and which proposal files it made. Files that were changed since are known by their checksums.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prepare.lac import FIRST, LacNetwork, lac_order, read_lac
from prepare.snippet_network import SnippetEnsemble, SnippetNetwork
from prepare.snippet_proposals import RECIPES, Made, ProposalSettings, options_of, result_entries
from readers.checkpoints import read_checkpoint, use_weights
from readers.facts import Facts, NetworkRecord, checksum_of, content_checksum, record_path
from readers.features import Features
from readers.source import Source
from utils import InputError, __version__, read_json, to_device, whole_file, write_json, writing

AGAIN = "make it again with --run_type proposals --overwrite"
_NEEDED = ("kind", "class_names", "feature_fps", "snippet_frames", "feature_size", "modalities", "hidden_size")


@dataclass(frozen=True, eq=False)
class KeptNetwork:
    """A network that makes proposals, and what it depends on."""

    network: nn.Module  # in evaluation mode
    record: NetworkRecord

    def propose(self, features: Tensor, device: torch.device) -> list[dict[str, Any]]:
        """Make the proposals of a video as `--run_type proposals` makes those of a test video, to the digit.

        Args:
            features: `[T, D]` of the video.
            device: to do it on; the network stays there.

        Returns:
            The entries of a result file: `segment` in seconds, `score` and `label`.

        Raises:
            InputError: the features are of another width, or so large that the network's outputs are not finite.
        """
        record = self.record
        assert record.kind and record.rate and record.class_names and record.feature_size, "as `_NEEDED` says"
        if features.shape[1] != record.feature_size:
            raise InputError(
                f"features {features.shape[1]} wide, and the network that makes proposals is for features "
                f"{record.feature_size} wide; take features of the kind that it was trained on"
            )
        propose, decimals, _ = RECIPES[record.kind]
        options = options_of(record.kind, record.rate, record.per_video)
        proposals = propose(self.network.to(device), to_device(features, device), **options)
        if not np.isfinite(proposals.score).all():
            raise InputError("the snippet network's outputs are not finite; check the size of the features")
        return result_entries(proposals, record.class_names, record.rate, *decimals(record.rate))

    def made(self, proposals: Path) -> bool:
        """Whether a proposal file is, to the byte, one that this network made."""
        return proposals.is_file() and content_checksum(proposals) in (self.record.proposals or {}).values()


def network_files(path: Path) -> list[Path]:
    """The files of a kept network: its weights, and the record beside them."""
    return [path, record_path(path)]


def kept_from(source: Source, features: Features, settings: ProposalSettings, made: Made) -> KeptNetwork:
    """The network that made proposals of a dataset, with what it depends on."""
    facts = replace(source.facts, class_names=made.class_names)
    record = replace(
        _record(made.network, settings.kind, facts, features.modalities),
        per_video=None if settings.kind == "lac" else settings.per_video,
        simulated=source.simulated or None,
        dataset=source.files.name,
    )
    return KeptNetwork(made.network, record)


def kept_from_lac(path: Path, facts: Facts, feature_size: int, modalities: int) -> KeptNetwork:
    """LAC's network, from its checkpoint, to make proposals with.

    Args:
        path: of the checkpoint.
        facts: of the data that proposals are made for; all must be known.
        feature_size: D of the data.
        modalities: of the data.

    Raises:
        InputError: see `read_lac`.
    """
    names = facts.class_names or ()
    network = read_lac(path, names, feature_size)
    facts = replace(facts, class_names=tuple(lac_order(names)))
    return KeptNetwork(network, _record(network, "lac", facts, modalities))


def keep_network(path: Path, kept: KeptNetwork, proposals: Mapping[str, Path]) -> None:
    """Write a network and its record.

    The record appears last and goes first, so that whenever the process ends, there is one only if it is true.

    Args:
        path: of the network.
        kept: what to write.
        proposals: the files of each part that it made.

    Raises:
        CannotWrite: a file cannot be written.
    """
    remove_network(path)
    with whole_file(path, "wb") as file:
        torch.save({name: value.cpu() for name, value in kept.network.state_dict().items()}, file)
    made = {part: content_checksum(file) for part, file in proposals.items()}
    write_json(record_path(path), replace(kept.record, checksum=checksum_of(path), proposals=made).to_json())


def remove_network(path: Path) -> None:
    """Remove a kept network, if there is one; the record first, without which the weights count for nothing.

    Raises:
        CannotWrite: a file cannot be removed.
    """
    for file in reversed(network_files(path)):
        with writing(file):
            file.unlink(missing_ok=True)


def read_kept_network(path: Path, again: str = AGAIN) -> KeptNetwork:
    """Read what `keep_network` wrote.

    Args:
        path: of the network, `DatasetFiles.network` or a copy of it with its record beside it.
        again: what to do when it is damaged, for messages.

    Raises:
        InputError: one of its two files is missing, damaged or of another network.
    """
    record, state = _read_record(path, again), read_checkpoint(path, again)
    sizes = _sizes(state, record.kind or "")
    if any(getattr(record, name) != size for name, size in sizes.items()):  # before it is built, however large
        shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise InputError(f"{record_path(path)}: damaged: the network in {path.name} has {shown}; {again}")
    network = _build(record)
    use_weights(network, state, path)
    return KeptNetwork(network.eval(), record)


def network_that_made(proposals: Path, network: Path) -> KeptNetwork | None:
    """The network kept beside a proposal file, if it made the file and can be used; else None."""
    with suppress(InputError):
        kept = read_kept_network(network)
        return kept if kept.made(proposals) else None
    return None


def _read_record(path: Path, again: str) -> NetworkRecord:
    """The record of a kept network; raises InputError as `read_kept_network`."""
    beside = record_path(path)
    for file, what in ((path, "the network that made the proposals"), (beside, f"it says what {path.name} is")):
        if not file.is_file():
            raise InputError(f"{file}: no such file; {what}; {again}")
    try:
        content = read_json(beside)
    except InputError as error:
        raise InputError(f"{error}; it says what {path.name} is: {again}") from None
    record = NetworkRecord.from_json(content, beside, again)
    if lacking := [name for name in _NEEDED if getattr(record, name) is None]:
        raise InputError(f"{beside}: damaged: it does not say {', '.join(lacking)}; {again}")
    if record.kind not in RECIPES:
        raise InputError(f"{beside}: kind {record.kind!r} is none of {', '.join(RECIPES)}; {again}")
    if record.checksum != checksum_of(path):
        raise InputError(
            f"{beside}: of another network than {path.name} (checksum {record.checksum} against {checksum_of(path)}), "
            f"or one of both is damaged; copy both files again, or {again}"
        )
    return record


# ---------------------------------------------------------------------------------------- what to build


_FIRST = {"own": "first.0.weight", "paper": "embed.weight", "lac": f"{FIRST}.weight"}  # weights of the first layer


def _record(network: nn.Module, kind: str, facts: Facts, modalities: int) -> NetworkRecord:
    """What is known of a network before it has made anything."""
    sizes = _sizes(network.state_dict(), kind)
    return replace(NetworkRecord(**vars(facts), kind=kind, modalities=modalities, version=__version__), **sizes)


def _sizes(state: Any, kind: str) -> dict[str, Any]:
    """What has to be known to build a network, by its weights; None where they are of another network."""
    state = state if isinstance(state, dict) else {}
    first = state.get(_FIRST[kind])
    hidden, width = first.shape[:2] if isinstance(first, Tensor) and first.dim() > 1 else (None, None)
    if kind != "own":
        return {"hidden_size": hidden, "feature_size": width, "members": None}
    members = sum(re.fullmatch(r"first\.\d+\.weight", name) is not None for name in state)
    return {"hidden_size": hidden, "feature_size": width and width // 3, "members": members}


def _build(record: NetworkRecord) -> nn.Module:
    """An untrained network of the kind and size that a record says."""
    width, hidden, num_class = record.feature_size or 0, record.hidden_size or 0, len(record.class_names or ())
    if record.kind == "own":
        members = record.members or 1
        return SnippetEnsemble(np.zeros(width), 1.0, num_class=num_class, members=members, hidden=hidden)
    of_kind = SnippetNetwork if record.kind == "paper" else LacNetwork
    return of_kind(feature_size=width, num_class=num_class, hidden=hidden)
