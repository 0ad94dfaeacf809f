"""The network over test videos: detections, their figures, and the files of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dataset import Batch, Video, evaluation_batches
from eval.baselines import as_detections, whole_videos
from eval.classification import classification_figures
from eval.evaluation import detection_results, evaluate
from eval.metrics import EvaluationInput
from eval.postprocess import LOGITS, PostProcess, VideoDetections
from eval.protocols import TiouProtocol
from eval.results import PROPOSALS, WHOLE_VIDEOS, Results, classification_summary
from eval.tables import detection_table, without_ambiguous
from model import scores
from proposals import Proposals
from runs.inputs import Data
from runs.results import RunResults, write_evaluation, write_found
from utils import InputError, keep_previous, log, shorten_list

NOT_FINITE = "outputs of the network are not finite"
CHECK_FEATURES = "check their features, and the weights"


def logits_of(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The outputs of a network that detections are made of, see `eval.postprocess`."""
    outputs = scores(network, batch)
    return {name: outputs[name] for name in LOGITS}


def are_finite(logits: Mapping[str, Tensor], videos: Sequence[Video]) -> list[bool]:
    """For each video, whether the outputs for its proposals are finite; `logits` are of all videos, see `logits_of`."""
    finite = torch.stack([values.view(len(values), -1).sum(1) for values in logits.values()]).isfinite().all(0)
    return [bool(of_video.all()) for of_video in finite.cpu().split([len(video.proposals) for video in videos])]


class Evaluation(NamedTuple):
    """An evaluation of the network on the test videos."""

    results: Results
    inputs: EvaluationInput
    detections: pd.DataFrame  # see `eval.tables.detection_table`
    videos: list[VideoDetections]  # of each test video


@dataclass(frozen=True)
class Evaluator:
    """Detects in the test videos, evaluates the detections, and writes both."""

    data: Data
    post_process: PostProcess
    tiou_protocol: TiouProtocol
    precision: torch.dtype  # of the rows that the network is given
    folder: Path  # for the files
    dataset_name: str
    resumed: bool = False  # files that already hold the same are then left alone

    def __call__(self, network: nn.Module) -> Evaluation:
        """The figures of a network, and what they are made from."""
        videos, detections = self.detect(network)
        inputs = self._input_of(without_ambiguous(detections))
        inputs = replace(inputs, videos=videos, labels=self.data.test_labels(), left_out=self.data.left_out)
        results = evaluate(inputs)
        if not self.data.held_out:  # held-out videos compare epochs alone
            whole = whole_videos(self.data.lengths(inputs.rate), videos, inputs.rate)
            results = replace(results, baselines=self._proposals_alone | {WHOLE_VIDEOS: self._baseline(whole)})
        return Evaluation(results, inputs, detections, videos)

    def _input_of(self, detections: pd.DataFrame) -> EvaluationInput:
        return EvaluationInput(
            detections,
            self.data.truth,
            self.data.annotations.class_names,
            self.tiou_protocol,
            self.post_process.rate,
        )

    @cached_property
    def _proposals_alone(self) -> dict[str, Results]:
        """The mAP of the test proposals by themselves, the same in every epoch; empty where none is a detection."""
        listed = {video.name: video.listed for video in self.data.test}
        has_any = any(proposals.are_detections.any() for proposals in listed.values())
        return {PROPOSALS: self._baseline(listed)} if has_any else {}

    def _baseline(self, proposals: Mapping[str, Proposals]) -> Results:
        detections = as_detections(proposals, self.data.annotations.ambiguous, self.post_process.rate)
        return detection_results(self._input_of(detections))

    def detect(self, network: nn.Module) -> tuple[list[VideoDetections], pd.DataFrame]:
        """The detections in each test video, and the table of all of them.

        Raises:
            InputError: outputs of the network are not finite; the message names the videos.
        """
        videos, parts = self.data.test, []
        with tqdm(total=len(videos), desc="testing", unit="video", leave=False) as progress:
            for batch in evaluation_batches(videos, dtype=self.precision):
                parts.append(logits_of(network, batch))
                progress.update(len(batch.videos))
        logits = {name: torch.cat([part[name] for part in parts]) for name in LOGITS}
        if bad := [video.name for video, ok in zip(videos, are_finite(logits, videos), strict=True) if not ok]:
            raise InputError(f"{NOT_FINITE} on {shorten_list(bad)}; {CHECK_FEATURES}")
        ambiguous = [self.data.annotations.ambiguous.get(video.name) for video in videos]
        detected = self.post_process(logits, [video.listed for video in videos], ambiguous)
        return detected, detection_table([video.name for video in videos], detected, self.post_process.rate)

    def write(self, evaluation: Evaluation, results: RunResults) -> None:
        """Write `results.json` with the error analysis, and the detections."""
        write_evaluation(
            self.folder,
            results,
            evaluation.inputs,
            evaluation.detections,
            self.data,
            self.dataset_name,
            unless_same=self.resumed,
        )

    def write_detections_alone(self, network: nn.Module) -> None:
        """Write the detections in test videos that have no ground truth."""
        videos, detections = self.detect(network)
        keep_previous(self.folder / "results.json")  # which would be taken for that of these detections
        rate = self.post_process.rate
        write_found(self.folder, detections, self.data, self.dataset_name, rate, unless_same=self.resumed)
        if (labels := self.data.test_labels()).any():
            log.info(classification_summary(classification_figures(videos, labels)))
        log.info(
            "mAP not computed: the annotations have no instances for the test videos; detections in "
            f"{self.folder / 'detections.json'}"
        )
