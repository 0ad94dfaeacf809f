"""What making and checking a dataset needs to know of the options."""

from __future__ import annotations

import torch

from options import Options
from prepare.check import CheckSettings
from prepare.commands import FeatureJob
from prepare.feature_writing import FeatureSettings
from prepare.snippet_proposals import ProposalSettings
from utils import InputError


def check_settings(options: Options) -> CheckSettings:
    """How a run with these options would use the data that `check` looks at."""
    return CheckSettings(
        rate=options.rate,
        batch_size=options.batch_size,
        pooled_dtype=getattr(torch, options.pooled_dtype),
        missing_proposals=options.missing_proposals,
        checkpoint=options.pretrained_ckpt,
        hidden_size=options.hidden_size,
        recipe=options.recipe,
        roi_size=options.roi_size,
        verbose=options.verbose,
    )


def proposal_settings(options: Options) -> ProposalSettings:
    """How proposals are made."""
    return ProposalSettings(
        recipe=options.recipe,
        rate=options.rate,
        epochs=options.proposal_epochs,
        per_video=options.proposals_per_video,
        seed=options.seed,
        lac_ckpt=options.lac_ckpt,
    )


def feature_job(options: Options) -> FeatureJob:
    """Which features are made, and how.

    Raises:
        InputError: snippets cannot begin between frames.
    """
    if options.snippet_frames % 1:
        raise InputError(
            f"--snippet_frames {options.snippet_frames:g}: features are made of whole frames; choose a whole number"
        )
    assert options.videos is not None and options.i3d_weights is not None, "as the command line requires"
    part, parts = map(int, (options.shard or "1/1").split("/"))
    return FeatureJob(
        videos=options.videos,
        target=options.features or options.dataset_root / "features",
        weights=options.i3d_weights,
        settings=FeatureSettings(
            feature_fps=options.feature_fps,
            snippet_frames=int(options.snippet_frames),
            crop=options.crop or "center",
            half=options.half,
            feature_format=options.feature_format,
        ),
        shard=(part, parts),
        workers=options.workers,
        overwrite=options.overwrite,
    )
