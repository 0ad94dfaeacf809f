"""What reports and the dashboard need to know of the options."""

from __future__ import annotations

from eval.protocols import TIOU_PROTOCOLS
from options import Options, describe, plain_values
from report.dashboard import DashboardSettings
from report.reading import ReportSettings


def report_settings(options: Options) -> ReportSettings:
    """What a report needs to know of the options."""
    return ReportSettings(
        exp_dir=options.exp_dir,
        dataset_name=options.dataset_name,
        tiou_protocol=TIOU_PROTOCOLS[options.tiou],
        curve_tiou=options.curve_tiou,
        rate=options.rate,
        seed=options.seed,
        detections=options.detections,
        compare=options.compare or (),
    )


def dashboard_settings(options: Options) -> DashboardSettings:
    """What TensorBoard shows of the options."""
    return DashboardSettings(
        options=plain_values(options),
        options_text=describe(options),
        batch_size=options.batch_size,
        evaluates=bool(options.interval),
        tiou_protocol=TIOU_PROTOCOLS[options.tiou],
        curve_tiou=options.curve_tiou,
        rate=options.rate,
    )
