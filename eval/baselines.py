"""What detections are worth beside simple ones: the proposals as their file scores them, and whole videos.

Both are evaluated as the network's detections are: the same thresholds, protocols and ambiguous segments (SPEC
section 7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from eval.postprocess import VideoDetections, overlaps_ambiguous
from eval.results import BASELINES, PROPOSALS, WHOLE_VIDEOS, Results
from eval.tables import rows_as_table, without_ambiguous
from proposals import Proposals, snippets_to_seconds


def as_detections(
    proposals: Mapping[str, Proposals], ambiguous_sec: Mapping[str, np.ndarray], rate: float
) -> pd.DataFrame:
    """Proposals as detections of their class with their score, without NMS; those that lack either are left out.

    Args:
        proposals: of each video.
        ambiguous_sec: `[A, 2]` of videos that have ambiguous segments; see `eval.postprocess.overlaps_ambiguous`.
        rate: snippets per second.

    Returns:
        The detections that are evaluated, see `eval.tables.detection_table`.
    """
    of_videos = proposals.values()
    segment_snip = np.concatenate([one.segments_snip for one in of_videos])
    ambiguous = [
        overlaps_ambiguous(one.segments_snip, ambiguous_sec.get(name), rate) for name, one in proposals.items()
    ]
    table = rows_as_table(
        video=np.repeat(np.array([*proposals], dtype=object), [len(one) for one in of_videos]),
        class_idx=np.concatenate([one.class_idx for one in of_videos]),
        score=np.concatenate([one.score for one in of_videos]),
        segment_snip=segment_snip,
        segment_sec=snippets_to_seconds(segment_snip, rate),
        ambiguous=np.concatenate(ambiguous),
    )
    return without_ambiguous(table[np.concatenate([one.are_detections for one in of_videos])])


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
    """A line for each baseline that has a higher average mAP (snippet protocol) than the detections."""
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
        ours, theirs = (f"{one.snippet.average:.1f}" for one in (results, baseline))
        if float(ours) < float(theirs):
            figures = f"average mAP {ours} against {theirs}"
            lines.append(f"warning: these detections are worse than {BASELINES[name]} ({figures}); {remedies[name]}")
    return lines
