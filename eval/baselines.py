"""What detections are worth beside simple ones: the proposals as their file scores them, and whole videos.

Both are evaluated as the network's detections are: the same thresholds, protocols and ambiguous segments (SPEC
section 7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from eval.postprocess import VideoDetections
from eval.results import BASELINES, PROPOSALS, WHOLE_VIDEOS, Results
from eval.tables import marked_ambiguous, proposal_table, without_ambiguous
from proposals import Proposals


def as_detections(
    proposals: Mapping[str, Proposals], ambiguous_sec: Mapping[str, np.ndarray], rate: float
) -> pd.DataFrame:
    """Proposals as detections of their class with their score, without NMS; those that lack either are left out.

    Args:
        proposals: of each video.
        ambiguous_sec: `[A, 2]` of videos that have ambiguous segments; see `eval.tables.marked_ambiguous`.
        rate: snippets per second.

    Returns:
        The detections that are evaluated, see `eval.tables.detection_table`.
    """
    table = proposal_table(proposals, rate)
    detections = table[np.concatenate([one.are_detections for one in proposals.values()])]
    return without_ambiguous(marked_ambiguous(detections, ambiguous_sec, rate))


def whole_videos(
    lengths_sec: Mapping[str, float], videos: Sequence[VideoDetections], rate: float
) -> dict[str, Proposals]:
    """Each video as a whole, once for each of its reported classes, with the video score of the class.

    Args:
        lengths_sec: of each video.
        videos: what the network says of each.
        rate: snippets per second.
    """
    whole = {}
    for (name, length), video in zip(lengths_sec.items(), videos, strict=True):
        classes = np.flatnonzero(video.reported)
        segments = np.tile([0.0, length * rate], (len(classes), 1))
        whole[name] = Proposals(segments, video.video_score[classes], classes)
    return whole


def warnings_of(results: Results) -> list[str]:
    """A line for each baseline whose average mAP (`Results.average`) is higher than that of the detections."""
    remedies = {
        PROPOSALS: "use more of their scores, with a larger --score_fusion, in training or in testing",
        WHOLE_VIDEOS: "the proposals may miss the actions: see their recall with --run_type check",
    }
    found = results.classification
    if found is not None and found.num_reported < 0.8 * found.num_labels:
        few = f"only {found.num_reported} of {found.num_labels} labels are reported"
        remedies[PROPOSALS] = f"{few}, so try a lower --threshold_cls"
    lines = []
    for name, baseline in results.baselines.items():
        ours, theirs = (f"{one.average:.1f}" for one in (results, baseline))
        if float(ours) < float(theirs):
            figures = f"average mAP {ours} against {theirs}"
            lines.append(f"warning: these detections are worse than {BASELINES[name]} ({figures}); {remedies[name]}")
    return lines
