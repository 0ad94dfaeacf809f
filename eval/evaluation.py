"""Detections and ground truth to the reported figures, under both protocols (SPEC section 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from eval.classification import classification_figures
from eval.detection import detection_map
from eval.errors import ErrorAnalysis, analyse_errors
from eval.metrics import EvaluationInput, further_metrics
from eval.results import PROTOCOLS, ProtocolResult, Results
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
    return replace(detection_results(inputs), classification=classification, extra=extra)


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
