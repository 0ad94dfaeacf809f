"""What TensorBoard shows of a training run beside the scalars that SPEC section 10 names.

Every epoch: learning rate, weights of the loss terms, gradient norm, speed, quality of the pseudo-labels. Every
evaluation: precision-recall curves, histograms, and timelines of a few test videos. Once: the options as text and as
hyper-parameters, so that the HPARAMS tab compares runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from eval.curves import pooled_counts
from eval.detection import Matched
from eval.protocols import TiouProtocol
from eval.segments import rounding, to_segments
from eval.tables import without_ambiguous
from proposals import snippets_to_seconds
from report.requirements import INSTALL, matplotlib_error
from runs.inputs import Data
from utils import log

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from eval.postprocess import VideoDetections
    from report.fonts import Fonts

BEST = {  # by `Data.part`
    "test": "test_mAP/best average so far, chosen on the test set",
    "held_out": "held_out_mAP/best figure so far, by which the epoch is chosen",
}
NUM_VIDEOS = 4  # that have a timeline
NUM_SCORES = 501  # thresholds of the score; points of a precision-recall curve


@dataclass(frozen=True)
class DashboardSettings:
    """What the dashboard needs to know of a run's options."""

    options: Mapping[str, Any]  # every option by name, as plain values, see `options.plain_values`
    options_text: Sequence[str]  # a line an option, see `options.describe`
    batch_size: int
    evaluates: bool  # whether the run is evaluated while it trains
    tiou_protocol: TiouProtocol
    curve_tiou: Sequence[float]  # of the precision-recall curves
    rate: float  # snippets per second


class Dashboard:
    """Writes what TensorBoard shows of a training run.

    Without matplotlib, timelines are left out; a notice says so when the dashboard is made.

    Args:
        settings: of the run.
        data: of the run, with pseudo-labels.
        weights: of an epoch, the weight of each loss term, see `losses.Criterion.weights`.
    """

    def __init__(self, settings: DashboardSettings, data: Data, weights: Callable[[int], Mapping[str, float]]) -> None:
        self._settings, self._data, self._weights = settings, data, weights
        self._evaluates, self._part = settings.evaluates and data.is_evaluated, data.part
        self._pseudo = self._pseudo_label_quality()
        self._protocol = rounding(data.truth, settings.rate).chosen_by
        self._videos = self._choose_videos() if self._evaluates else []
        if self._videos and (error := matplotlib_error()):
            log.info(
                f"notice: TensorBoard gets no timelines, since matplotlib is missing ({error}); install it: {INSTALL}"
            )
            self._videos = []

    # ------------------------------------------------------------------------------------- while it trains

    def begin(self, board: SummaryWriter, epoch: int) -> None:
        """Write the options when TensorBoard's file has been opened; `epoch` is the last epoch before."""
        lines = [f"    {line}" for line in self._settings.options_text]
        if self._data.simulated:
            lines.insert(0, "**simulated data: no figure says anything about real videos**\n")
        if self._protocol != "snippet":
            lines.insert(0, f"**the best epoch is chosen by the {self._protocol} protocol, see docs/results.md**\n")
        board.add_text("options", "\n".join(lines), epoch)
        for summary in self._hyper_parameters()[:2]:
            _add_summary(board, summary)

    def end(self, board: SummaryWriter) -> None:
        """Write that the run is complete."""
        _add_summary(board, self._hyper_parameters()[2])

    def _hyper_parameters(self) -> tuple[Any, Any, Any]:
        """The summaries of the HPARAMS tab: names of all values and metrics, values of this run, end of the run."""
        from torch.utils.tensorboard.summary import hparams  # takes seconds to import; only training needs it

        scalars = {name: v for name, v in self._settings.options.items() if isinstance(v, (bool, int, float, str))}
        if self._data.simulated:
            scalars["dataset_name"] = f"{scalars['dataset_name']} (simulated)"
        metrics = []
        if self._evaluates:
            protocol = self._settings.tiou_protocol
            names = [protocol.headline, *(f"{t:g}" for t in protocol.reported if t == 0.5)]
            metrics += [f"{self._part}_mAP/Detection mAP @ IoU = {name}" for name in names]
            metrics += [BEST[self._part], f"{self._part}_mAP/Classification mAP"]
        metrics.append("loss/loss_total")  # TensorBoard shows the first metric unless told otherwise
        return hparams(scalars, dict.fromkeys(metrics, 0.0))

    def of_epoch(
        self, epoch: int, lr: float, means: Mapping[str, float], steps: int, seconds: float
    ) -> dict[str, float]:
        """The scalars of an epoch.

        Args:
            epoch: from 1.
            lr: the learning rate.
            means: over the steps: `gradient` norm, `proposals` of a batch, `agreement` with the pseudo-labels.
            steps: number of optimizer steps.
            seconds: duration of the epoch.
        """
        scalars = {"train/learning_rate": lr, "train/gradient_norm": means["gradient"]}
        scalars |= {f"weight/{name}": weight for name, weight in self._weights(epoch).items()}
        scalars["speed/videos_per_second"] = steps * self._settings.batch_size / seconds
        scalars["speed/proposals_per_second"] = steps * means["proposals"] / seconds
        return scalars | {"pseudo_labels/network_agrees": means["agreement"]} | self._pseudo

    def _pseudo_label_quality(self) -> dict[str, float]:
        """Shares of the training videos, which do not change during training: true, consistent, partially so."""
        pseudo, labels = self._data.pseudo, torch.stack([video.labels for video in self._data.train]).cpu()
        assert pseudo is not None, "training data have pseudo-labels"
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
            best: the best `Results.score` so far, percent.
            detections: see `eval.tables.detection_table`.
            found: in each test video.
        """
        board.add_scalar(BEST[self._part], best, epoch)
        for name in ("attention", "completeness"):
            values = np.concatenate([getattr(video, name) for video in found])
            board.add_histogram(f"{self._part}/{name}", values, epoch, bins=50)
        evaluated = without_ambiguous(detections)
        if self._data.truth.empty:
            return
        self._show_curves(board, epoch, evaluated)
        if self._videos:
            pixels = self._draw_timelines(evaluated[evaluated["video"].isin(self._videos)])
            board.add_image(f"{self._part}/timelines", pixels, epoch, dataformats="HWC")

    def _show_curves(self, board: SummaryWriter, epoch: int, detections: pd.DataFrame) -> None:
        """Precision and recall of all classes together, over thresholds of the score."""
        settings, names = self._settings, self._data.annotations.class_names
        arrays = to_segments(detections, self._data.truth, self._protocol, settings.rate)
        matched = Matched(*arrays, len(names), np.array(settings.curve_tiou))
        for k, tiou in enumerate(settings.curve_tiou):
            true, false, missed = pooled_counts(matched, k, NUM_SCORES)
            board.add_pr_curve_raw(
                f"{self._part}_PR/all classes together, tIoU {tiou:g}",
                true,
                false,
                np.zeros_like(true),  # detection has no true negatives
                missed,
                true / (true + false).clip(min=1),
                true / (true + missed),
                epoch,
                num_thresholds=len(true),
            )

    def _choose_videos(self) -> list[str]:
        """A few test videos that have instances: always the same ones, spread over the list."""
        videos = self._data.truth["video"].unique()
        return videos[np.linspace(0, len(videos) - 1, min(NUM_VIDEOS, len(videos))).astype(int)].tolist()

    @cached_property
    def _fonts(self) -> Fonts:
        from report.fonts import find_fonts

        return find_fonts([*self._data.annotations.class_names, *self._videos])

    def _draw_timelines(self, detections: pd.DataFrame) -> np.ndarray:
        """`[height, width, 3]` uint8."""
        from report.pictures import as_pixels, styled  # these import matplotlib, which may be missing
        from report.timelines import Timeline, timeline_detections, timeline_truth, timelines

        data, rate, names = self._data, self._settings.rate, self._data.annotations.class_names
        instances = data.truth[data.truth["video"].isin(self._videos)]
        detected, truth = timeline_detections(detections, instances, names), timeline_truth(instances, names)
        lengths = data.lengths(rate)
        shown = [video for video in data.test if video.name in self._videos]
        proposals = {video.name: snippets_to_seconds(video.segments_snip, rate) for video in shown}
        lines = [
            Timeline(video, lengths[video], truth[video], detected.get(video, {}), proposals[video])
            for video in self._videos
        ]
        with styled(self._fonts):
            return as_pixels(timelines(lines, simulated=data.simulated))


def _add_summary(board: SummaryWriter, summary: Any) -> None:
    """Write a protocol buffer that `SummaryWriter` has no method for."""
    assert board.file_writer is not None, "the board is open"
    board.file_writer.add_summary(summary)
