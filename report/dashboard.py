"""What TensorBoard shows of a training run beside the scalars that SPEC section 10 names.

While it trains: learning rate, weights of the loss terms, gradient norm, speed, and how good the pseudo-labels are. At
each evaluation: precision-recall curves, histograms, and timelines of a few test videos. Besides, the options as text
and as hyper-parameters, with the final figures, so that the HPARAMS tab compares runs.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from eval.curves import pooled_counts
from eval.detection import Matched
from eval.evaluation import as_arrays
from eval.protocols import TIOU_PROTOCOLS
from eval.tables import counted
from options import describe, plain_values
from proposals import snippets_to_seconds
from report.timelines import KINDS_AT, OTHER, Timeline, timeline_detections, timeline_truth
from runs.inputs import Data

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from eval.postprocess import VideoDetections
    from losses import Criterion
    from report.timelines import LiveTimelines

BEST = "test_mAP/best average so far, chosen on the test set"
NUM_VIDEOS = 4  # that have a timeline
NUM_SCORES = 501  # from which a detection is taken; points of a precision-recall curve
HYPER_PARAMETERS = """dataset_name seed batch_size precision lr weight_decay dropout_ratio max_epoch roi_size
    max_proposal weight_pc sc_epochs sme_epochs sc_decay weight_pc_distance weight_pc_penalty topk_divisor
    pseudo_instance_ratio pc_center threshold_cls""".split()  # noqa: SIM905


class Dashboard:
    """See above.

    Args:
        options: of the run.
        data: of the run.
        criterion: of the run.
    """

    def __init__(self, options: Namespace, data: Data, criterion: Criterion) -> None:
        self._options, self._data, self._criterion = options, data, criterion
        self._pseudo = self._pseudo_labels()
        self._timelines: LiveTimelines | None = None  # made at the first evaluation
        self._videos = self._some_videos()

    # ------------------------------------------------------------------------------------- while it trains

    def begin(self, board: SummaryWriter, epoch: int) -> None:
        """Note the options, once TensorBoard's file is there; `epoch` is the last one before."""
        about = describe(self._options)
        if self._data.simulated:
            about.insert(0, "**simulated data: no figure says anything about real videos**\n")
        board.add_text("options", "\n".join(f"    {line}" if i else line for i, line in enumerate(about)), epoch)
        for summary in self._hyper_parameters()[:2]:
            board.file_writer.add_summary(summary)

    def end(self, board: SummaryWriter) -> None:
        """Note that the run is over."""
        board.file_writer.add_summary(self._hyper_parameters()[2])

    def _hyper_parameters(self) -> tuple[Any, Any, Any]:
        """What HPARAMS reads: which there are, those of this run, and that it is over."""
        from torch.utils.tensorboard.summary import hparams  # takes seconds to import; only training needs it

        values = {name: value for name, value in plain_values(self._options).items() if name in HYPER_PARAMETERS}
        values["dataset_name"] += " (simulated)" if self._data.simulated else ""
        metrics = []
        if self._options.interval and not self._data.truth.empty:
            protocol = TIOU_PROTOCOLS[self._options.tiou]
            names = [protocol.headline, *(f"{t:g}" for t in protocol.reported if t == 0.5)]
            metrics += [f"test_mAP/Detection mAP @ IoU = {name}" for name in names]
            metrics += [BEST, "test_mAP/Classification mAP"]
        metrics.append("loss/loss_total")  # the first is the one that TensorBoard shows unasked
        return hparams(values, dict.fromkeys(metrics, 0.0))

    def of_epoch(
        self, epoch: int, lr: float, means: Mapping[str, float], steps: int, seconds: float
    ) -> dict[str, float]:
        """The scalars of an epoch.

        Args:
            epoch: from 1.
            lr: the learning rate.
            means: of what is recorded of each step, see `main.step_terms`.
            steps: of the optimizer.
            seconds: that they took.
        """
        scalars = {"train/learning_rate": lr, "train/gradient_norm": means["gradient"]}
        scalars |= {f"weight/{name}": weight for name, weight in self._criterion.weights(epoch).items()}
        scalars["speed/videos_per_second"] = steps * self._options.batch_size / seconds
        scalars["speed/proposals_per_second"] = steps * means["proposals"] / seconds
        return scalars | {"pseudo_labels/network_agrees": means["agreement"]} | self._pseudo

    def _pseudo_labels(self) -> dict[str, float]:
        """How good the pseudo-labels are, which stays what it is during training; shares of the training videos."""
        pseudo, labels = self._data.pseudo, torch.stack([video.labels for video in self._data.train]).cpu()
        true = labels.gather(1, pseudo.label.cpu()[:, None])
        shares = {"true": true, "consistent": pseudo.consistent, "partially_consistent": pseudo.partial}
        return {f"pseudo_labels/{name}": share.float().mean().item() for name, share in shares.items()}

    # ------------------------------------------------------------------------------------ at an evaluation

    def evaluation(
        self,
        board: SummaryWriter,
        epoch: int,
        best: float,
        detections: pd.DataFrame,
        found: list[VideoDetections],
    ) -> None:
        """Show an evaluation.

        Args:
            board: to write to.
            epoch: from 1.
            best: the best average so far, percent.
            detections: see `eval.tables.detection_table`.
            found: in each test video.
        """
        board.add_scalar(BEST, best, epoch)
        for name in ("attention", "completeness"):
            values = np.concatenate([getattr(video, name) for video in found])
            board.add_histogram(f"test/{name}", values, epoch, bins=50)
        counts = counted(detections)
        self._show_curves(board, epoch, counts)
        if self._videos:
            own = counts[counts["video"].isin(self._videos)]
            board.add_image("test/timelines", self._draw_timelines(own), epoch, dataformats="HWC")

    def _show_curves(self, board: SummaryWriter, epoch: int, detections: pd.DataFrame) -> None:
        """Precision and recall of all classes together, over the score from which a detection is taken."""
        options, names = self._options, self._data.annotations.class_names
        arrays = as_arrays(detections, self._data.truth, "snippet", options.rate)
        matched = Matched(*arrays, len(names), np.array(options.curve_tiou))
        for k, tiou in enumerate(options.curve_tiou):
            true, false, missed = pooled_counts(matched, k, NUM_SCORES)
            board.add_pr_curve_raw(
                f"test_PR/all classes together, tIoU {tiou:g}",
                true,
                false,
                np.zeros_like(true),  # there are no true negatives in detection
                missed,
                true / (true + false).clip(min=1),
                true / (true + missed),
                epoch,
                num_thresholds=len(true),
            )

    def _some_videos(self) -> list[str]:
        """A few test videos that have instances, always the same, spread over the list."""
        videos = self._data.truth["video"].unique()
        return videos[np.linspace(0, len(videos) - 1, min(NUM_VIDEOS, len(videos))).astype(int)].tolist()

    def _draw_timelines(self, detections: pd.DataFrame) -> np.ndarray:
        from report.pictures import styled
        from report.timelines import LiveTimelines

        found = timeline_detections(detections, self._truth(), self._data.annotations.class_names, OTHER)
        with styled():
            if self._timelines is None:
                note = f"detections by their kind at tIoU {KINDS_AT:g}, the best three lanes of a class"
                self._timelines = LiveTimelines(self._blank(), note, simulated=self._data.simulated)
            return self._timelines.image([found.get(video, {}) for video in self._videos])

    def _truth(self) -> pd.DataFrame:
        return self._data.truth[self._data.truth["video"].isin(self._videos)]

    def _blank(self) -> list[Timeline]:
        """The timelines without detections."""
        truth = timeline_truth(self._truth(), self._data.annotations.class_names)
        lengths, rate = self._data.lengths(self._options.rate), self._options.rate
        proposals = {video.name: snippets_to_seconds(video.segments_snip, rate) for video in self._data.test}
        return [Timeline(video, lengths[video], truth[video], {}, proposals[video]) for video in self._videos]
