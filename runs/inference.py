"""The network over test videos, and what is found in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from tqdm import tqdm

from dataset import Video, evaluation_batches
from eval.postprocess import LOGITS, PostProcess, VideoDetections
from model import SEAL
from utils import InputError, shorten_list


def detect_all(
    model: SEAL,
    videos: Sequence[Video],
    ambiguous_sec: Mapping[str, np.ndarray],
    post_process: PostProcess,
) -> list[VideoDetections]:
    """Run the network over videos.

    Args:
        model: the network.
        videos: with their proposals.
        ambiguous_sec: `[A, 2]` of the videos that have any, see `eval.postprocess.PostProcess.detect`.
        post_process: maps what the network says to detections.

    Raises:
        InputError: outputs of the network are not finite; the message names the videos.
    """
    parts = []
    with tqdm(total=len(videos), desc="testing", unit="video", leave=False) as progress:
        for batch in evaluation_batches(videos, dtype=model.precision):
            outputs = model.scores(batch.rows)
            parts.append({name: outputs[name] for name in LOGITS})
            progress.update(len(batch.videos))
    logits = {name: torch.cat([part[name] for part in parts]) for name in LOGITS}
    finite = sum(values.view(len(values), -1).sum(1) for values in logits.values()).isfinite()  # [N]
    sizes = [len(video.proposals) for video in videos]
    if bad := [video.name for video, own in zip(videos, finite.split(sizes), strict=True) if not own.all()]:
        raise InputError(
            f"outputs of the network are not finite on {shorten_list(bad)}; check their features, and the weights"
        )
    segments = [video.segments_snip for video in videos]
    return post_process(logits, segments, [ambiguous_sec.get(video.name) for video in videos])
