"""Detections and ground truth to the reported figures, under both protocols (SPEC section 7).

Every figure of detections is made here, whoever made the detections. The rules, and where each stands; docs/results.md
has them beside those of the release, of OpenTAD and of ActionFormer:

    instances of no length, or listed twice, are left out   readers.annotations.Annotations
    detections in ambiguous segments are left out           eval.tables.marked_ambiguous, eval.postprocess
    ground truth is rounded to snippets, or not             eval.segments.whole_snippets
    which protocol compares epochs                          eval.segments.Rounding.chosen_by
    thresholds, and which means are reported                eval.protocols
    tIoU                                                    proposals.tiou
    equal scores: the detection listed first                eval.segments.Detections.ranked
    matching: each instance once; equal tIoU                eval.detection.match_detections
    average precision, interpolated                         eval.detection.average_precision
    the mean leaves out classes without ground truth        this module
    what a file of detections must be                       runs.detections.read_detections
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from eval.classification import classification_figures
from eval.detection import detection_map
from eval.errors import ErrorAnalysis, analyse_errors
from eval.metrics import EvaluationInput, LeftOut, further_metrics
from eval.results import PROTOCOLS, LeftOutResults, ProtocolResult, Results
from eval.segments import rounding
from utils import log


def evaluate(inputs: EvaluationInput) -> Results:
    """All figures; a notice names the classes that are left out because they have no ground truth.

    Without any ground truth there are those of video classification alone.
    """
    classification = None
    if inputs.labels is not None:
        classification = classification_figures(inputs.videos, inputs.labels)
    without = np.setdiff1d(np.arange(len(inputs.class_names)), inputs.ground_truth["class_idx"])
    if len(without) and not inputs.ground_truth.empty:
        names = ", ".join(inputs.class_names[i] for i in without)
        log.info(f"notice: left out of the mAP, since they have no ground truth in this subset: {names}")
    extra = {} if inputs.ground_truth.empty else further_metrics(inputs)
    left_out = None if inputs.left_out is None else with_left_out(inputs, inputs.left_out)
    return replace(detection_results(inputs), classification=classification, extra=extra, left_out=left_out)


def with_left_out(inputs: EvaluationInput, left_out: LeftOut) -> LeftOutResults:
    """The mAP over all test videos, if all instances in those that are left out count as missed."""
    truth = pd.concat([inputs.ground_truth, left_out.ground_truth], ignore_index=True)
    as_missed = detection_results(replace(inputs, ground_truth=truth))
    return LeftOutResults(left_out.videos, left_out.num_videos, as_missed)


def detection_results(inputs: EvaluationInput) -> Results:
    """The mAP alone, under both protocols; without any ground truth it is unknown."""
    if inputs.ground_truth.empty:
        unknown = ProtocolResult.unknown(inputs.tiou_protocol.reported)
        return Results(unknown, unknown)
    snippet, seconds = (_detection_map(inputs, protocol) for protocol in PROTOCOLS)
    return Results(snippet, seconds, chosen_by=rounding(inputs.ground_truth, inputs.rate).chosen_by)


def _detection_map(inputs: EvaluationInput, protocol: str) -> ProtocolResult:
    detections, ground_truth = inputs.segments(protocol)
    precision = detection_map(detections, ground_truth, len(inputs.class_names), inputs.tiou_protocol.thresholds)
    mean = 100 * precision[~np.isnan(precision[:, 0])].mean(0)  # [K]
    return ProtocolResult(tuple(inputs.tiou_protocol.reported), tuple(mean.tolist()), float(mean.mean()))


def diagnose(inputs: EvaluationInput, lengths: Mapping[str, float]) -> ErrorAnalysis:
    """The error analysis in seconds, see `eval.errors.analyse_errors`.

    Args:
        inputs: what is evaluated.
        lengths: seconds of each video; nan, or no entry, where unknown.
    """
    durations = inputs.ground_truth["video"].map(lengths).to_numpy(np.float64)
    protocol = inputs.tiou_protocol
    return analyse_errors(
        *inputs.segments("seconds"), durations, len(inputs.class_names), protocol.thresholds, protocol.buckets
    )
