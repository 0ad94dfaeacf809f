"""The command line: every option with its default, and the presets of the datasets.

Options of the authors' release keep their names; one with an opaque name also has a descriptive one.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from eval.nms import NMS
from eval.protocols import TIOU_PROTOCOLS
from utils import InputError, is_plain_name

# 9,337 training videos are 291 batches of 32, so 14 epochs have the steps of THUMOS14's 200, and the schedules of the
# losses keep their share of them. Three epochs of the snippet network have seven times the steps of THUMOS14's 20.
_ACTIVITYNET = {
    "tiou": "activitynet",
    "batch_size": 32,
    "max_epoch": 14,
    "interval": 2,
    "sc_epochs": 5,
    "sme_epochs": 11,
    "sc_decay": 0.56,
    "proposal_epochs": 3,
}

# Defaults of a dataset where they differ from the general ones, which are those of THUMOS14.
PRESETS: dict[str, dict[str, Any]] = {
    "Demo": {
        "lr": 1e-4,
        "max_epoch": 100,
        "interval": 20,
        "sc_epochs": 35,
        "sme_epochs": 80,
        "sc_decay": 4.0,
    },
    "ActivityNet1.2": _ACTIVITYNET,
    "ActivityNet1.3": _ACTIVITYNET,
}


# The recipe for own data: defaults where they differ from the paper's, whatever the dataset. How each was chosen, and
# what it is worth: docs/own-videos.md.
OWN: dict[str, Any] = {
    "lr": 1e-3,
    "weight_decay": 1e-4,
    "hidden_size": 256,
    "max_epoch": 2250,
    "weight_pc": 0.0,
    "weight_sme": 0.0,
    "weight_sc": 0.0,
    "threshold_cls": 0.2,
    "score_fusion": 0.6,
    "proposals_per_video": 100,
    "proposal_epochs": None,
}


def recipe_of(dataset_name: str) -> str:
    """The default recipe of a dataset: the paper's for the paper's datasets and the demo, ours for all others."""
    return "paper" if dataset_name == "Demo" or dataset_name.startswith(("Thumos14", "ActivityNet")) else "own"


# Options that may differ when a run is resumed: how long, how often and where it trains, where the data lie, and what
# training does not read.
MAY_CHANGE = frozenset({
    "max_epoch", "interval", "save_every", "device", "cache", "exp_dir", "resume", "overwrite",
    "dataset_root", "annotations", "class_list", "features", "proposals_root", "descriptors_root",
    "num_class", "feature_size", "modalities", "missing_features", "seeds", "detections", "compare", "curve_tiou",
    "proposals_from", "proposal_epochs", "proposals_per_video", "descriptor_pooling", "lac_ckpt",
    "videos", "i3d_weights", "feature_format", "shard", "workers", "half", "model", "input",
})  # fmt: skip


# What `--run_type detect` takes; all else is as the model was trained.
OF_DETECT = frozenset({
    "run_type", "model", "input", "exp_dir", "device", "videos", "i3d_weights", "lac_ckpt", "workers", "half",
})  # fmt: skip


CROPS = ("center", "resize", "ten")  # of frames, that features are made of; see prepare/clips.py


class Options(argparse.Namespace):
    """The parsed command line; the options are attributes under their names."""

    argv: Sequence[str]  # as typed

    @property
    def rate(self) -> float:
        """Snippets per second."""
        return self.feature_fps / self.snippet_frames


def _number(kind: type, low: float, high: float, *, open_low: bool = False) -> Callable[[str], float]:
    """An argparse type: a number of `kind` in [low, high], or (low, high] when `open_low`."""

    def parse(text: str) -> float:
        value = kind(text)
        if not (low < value if open_low else low <= value) or not value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not in {'(' if open_low else '['}{low:g}, {high:g}]")
        return value

    parse.__name__ = {int: "whole number", float: "number"}[kind]  # argparse names the type when it cannot read it
    return parse


def _path(text: str) -> Path:
    """An argparse type: a path, and not the empty one that an unset variable of the shell gives."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path")
    return Path(text)


def _crop(text: str) -> int | str:
    """An argparse type: a crop that is taken of features, or that features are made of."""
    return text if text in CROPS else int(_number(int, 0, 1e9)(text))


def _shard(text: str) -> str:
    """An argparse type: a share of the work, as `3/16`."""
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a part of several, such as 1/4, 2/4, 3/4 and 4/4")
    return text


_crop.__name__ = f"number or one of {', '.join(CROPS)}"
_count = _number(int, 1, 1e9)
_weight = _number(float, 0, 1e9)
_positive = _number(float, 0, 1e9, open_low=True)
_share = _number(float, 0, 1)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Names the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    """Reports errors in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        """End the program; for an option that there is not, the message names one that is spelled much alike."""
        if message.startswith("unrecognized arguments:"):
            typed = [word.partition("=")[0] for word in message.split() if word.startswith("--")]
            found = [difflib.get_close_matches(word, self._option_string_actions, n=1) for word in typed]
            if alike := [option for options in found for option in options]:
                message = f"{message}; did you mean {', '.join(alike)}?"
        self.exit(2, f"error: {message} (python main.py --help lists the options)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser with the general defaults; `parse_options` puts a dataset's preset over them."""
    description = "SEAL: weakly-supervised temporal action localisation."
    parser = _Parser(prog="main.py", description=description, formatter_class=_Help, allow_abbrev=False)
    groups = {
        "what to do": _add_run_options,
        "data": _add_data_options,
        "optimisation": _add_optimisation_options,
        "losses (SPEC section 5)": _add_loss_options,
        "making features, proposals and descriptors": _add_making_options,
        "evaluation": _add_evaluation_options,
    }
    for title, add_options in groups.items():
        add_options(parser.add_argument_group(title).add_argument)
    return parser


def _add_run_options(add: Callable[..., argparse.Action]) -> None:
    add(
        "--run_type",
        choices=("train", "test", "eval", "report", "detect", "check", "features", "descriptors", "proposals"),
        default="train",
        help="train, test weights, evaluate detections, report on a run; detect actions in new videos; check a "
        "dataset, make the features of its videos, its descriptors, its proposals",
    )
    add(
        "--recipe",
        choices=("paper", "own"),
        help="the published method, or ours for own data (paper for THUMOS14, ActivityNet and the demo, else own)",
    )
    add("--exp_dir", type=_path, help="folder for what a run writes (outputs; for detect outputs/detect)")
    add("--overwrite", action="store_true", help="replace an earlier training run, features, descriptors or proposals")
    add(
        "--resume",
        nargs="?",
        const="always",
        choices=("always", "auto"),
        help="continue the training run in --exp_dir; auto starts one if there is none",
    )
    add(
        "--save_every",
        type=_number(float, 0, 1e6),
        default=60.0,
        help="seconds of training that a crash or kill -9 costs at most; 0: save after every epoch",
    )
    add("--pretrained_ckpt", type=_path, help="weights to start from (test: checkpoints/best_model.pkl when not given)")
    add("--detections", type=_path, help="for eval and report: detections in ActivityNet result format")
    add("--compare", type=_path, nargs="+", help="for report: folders of runs, each compared with the first")
    add("--model", type=_path, help="for detect: folder of a training run, or a copy of its folder model")
    add("--input", type=_path, nargs="+", help="for detect: videos or their features, files or folders")
    add("--device", default="auto", help="auto (CUDA, else MPS, else CPU), or a PyTorch device")
    add("--verbose", action="store_true", help="for check: every line of a problem, not ten")
    add("--deterministic", action="store_true", help="use only PyTorch's deterministic algorithms, see docs/runs.md")
    add(
        "--seed",
        type=_number(int, 0, 2**32 - 1),
        default=0,
        help="of the initial weights, dropout and the order of the data",
    )
    add(
        "--seeds",
        type=_number(int, 0, 2**32 - 1),
        nargs="+",
        help="train once with each of these, into folders seed_<n> of --exp_dir, and print the mean",
    )


def _add_data_options(add: Callable[..., argparse.Action]) -> None:
    add("--dataset_name", default="Thumos14reduced", help="names folders and files; Demo is made on first use")
    add("--dataset_root", type=_path, help="the dataset's own folder (data/<name> when not given)")
    add("--annotations", type=_path, help="folder of .npy files, or JSON file (see data/README.md when not given)")
    add("--class_list", type=_path, help="class names, one a line (labels of a JSON file, sorted, when not given)")
    add("--features", type=_path, help="file of all videos, or folder (see data/README.md when not given)")
    add(
        "--crop",
        type=_crop,
        help="crop of the features to take (their mean when not given); for features: of frames, center, resize or ten "
        "(center when not given)",
    )
    add(
        "--crop_axis",
        type=int,
        choices=(0, 1),
        help="of features with crops, [crops, T, D] or [T, crops, D]: which axis",
    )
    add(
        "--missing_features", choices=("error", "skip"), default="error", help="skip leaves videos without features out"
    )
    add("--feature_fps", type=_positive, default=25.0, help="frames per second of the video that features were made of")
    add("--snippet_frames", type=_positive, default=16.0, help="frames from one snippet to the next")
    add("--proposals_root", type=_path, default=Path("proposals4Thumos14"), help="folder of the two proposal files")
    add(
        "--descriptors_root", type=_path, default=Path("descriptors"), help="folder that holds <name>/ with descriptors"
    )
    add("--missing_proposals", choices=("error", "empty"), default="error", help="a video without an entry")
    add(
        "--train_subset",
        help="subset of the training videos (training; validation if there is a test and no training subset)",
    )
    add(
        "--test_subset",
        help="subset of the test videos (validation, else testing, else test; test if training is on validation)",
    )
    add("--num_class", type=_count, help="classes without background (what the data says when not given)")
    add("--feature_size", type=_count, help="feature width, RGB and flow together (what the data says when not given)")
    add(
        "--modalities",
        type=int,
        choices=(1, 2),
        help="of the features: 2 for RGB and flow, 1 for one kind (2 when not given, but 1 for an odd width)",
    )
    add("--roi_size", type=_number(int, 6, 1000), default=12, help="RoI bins of a proposal")
    add("--max_proposal", type=_count, default=3000, help="proposals of a video used in a training step")
    add(
        "--cache",
        choices=("auto", "memory", "host", "none"),
        default="auto",
        help="pooled proposals: memory keeps them on the device, host in the machine's memory, none pools them again "
        "for each batch, auto takes the first of these that fits",
    )
    add(
        "--pooled_dtype",
        choices=("float32", "float16", "bfloat16"),
        help="what pooled proposals are kept in (--precision when not given, which loses nothing)",
    )


def _add_optimisation_options(add: Callable[..., argparse.Action]) -> None:
    add("--batch_size", type=_count, default=10, help="videos in a batch")
    add(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the network's matrix products; losses and weights are float32",
    )
    add("--tf32", action="store_true", help="on CUDA, let float32 matrix products round their input to TF32")
    add("--lr", type=_positive, default=5e-5, help="learning rate of Adam")
    add("--weight_decay", type=_weight, default=1e-3, help="L2 penalty")
    add(
        "--hidden_size",
        type=_number(int, 2, 8192),
        help="width of the fused features (that of the features when not given)",
    )
    add("--dropout_ratio", type=_share, default=0.5, help="of the fused features")
    add(
        "--max_epoch", type=_count, default=200, help="epochs to train; recipe own: at most, its loss may settle before"
    )
    add("--interval", type=_number(int, 0, 1e9), default=10, help="epochs between evaluations; 0 never evaluates")
    add(
        "--holdout",
        type=_number(float, 0, 0.9, open_low=True),
        help="share of the training videos on which the number of epochs is chosen, before training on all",
    )


def _add_loss_options(add: Callable[..., argparse.Action]) -> None:
    add("--weight_pc", "--alpha_1", type=_weight, default=3.4, help="weight of process consistency")
    add("--sc_epochs", "--alpha_2", type=_count, default=70, help="last epoch of semantic consistency")
    add("--sme_epochs", "--alpha_3", type=_count, default=160, help="last epoch of similar modality enhancement")
    add("--sc_decay", "--alpha_4", type=_positive, default=8.0, help="epochs in which SC's weight falls to 1/e")
    add("--weight_pc_distance", "--alpha_5", type=_weight, default=0.6, help="weight of PC's distance term")
    add("--weight_pc_penalty", "--alpha_6", type=_weight, default=9.0, help="weight of PC's penalty term")
    add("--topk_divisor", "--k", type=_count, default=8, help="recipe paper: MIL averages the top M / k proposals")
    add(
        "--pseudo_instance_ratio",
        "--gamma",
        type=_share,
        default=0.8,
        help="attention of a pseudo-instance / largest (recipe own: the score in its file / best)",
    )
    add(
        "--pc_center",
        choices=("all_pairs", "matched"),
        default="all_pairs",
        help="PC's centre term: released, or one to one",
    )
    add("--weight_sme", type=_weight, default=1.0, help="weight of similar modality enhancement")
    add("--weight_sc", type=_weight, default=1.0, help="weight of semantic consistency")
    add("--weight_instances", type=_weight, default=1.0, help="recipe own: weight of classifying by pseudo-instances")
    add("--weight_completeness", type=_weight, default=1.0, help="recipe own: weight of completeness")
    add("--weight_suppressed", type=_weight, default=0.0, help="recipe own: weight of MIL on attended proposals")


def _add_making_options(add: Callable[..., argparse.Action]) -> None:
    add("--videos", type=_path, help="for features: folder of videos or of frames; for detect: those to show")
    add("--i3d_weights", type=_path, help="folder of rgb_imagenet.pt and flow_imagenet.pt, or random to try it out")
    add(
        "--feature_format",
        choices=("npz", "npy"),
        default="npz",
        help="npz: <video>-rgb.npz and <video>-flow.npz, npy: one <video>.npy",
    )
    add("--shard", type=_shard, help="for features: a share of the videos; 3/16 is the third of 16")
    add("--workers", type=_count, help="threads for optical flow (one a core when not given)")
    add("--half", action="store_true", help="the I3D network in float16 (CUDA and MPS)")
    add("--proposals_from", type=_path, nargs="+", help="result files to take, instead of making proposals")
    add("--lac_ckpt", type=_path, help="checkpoint of LAC, to make proposals with its network")
    add(
        "--proposal_epochs",
        type=_count,
        default=20,
        help="epochs to train the snippet network (recipe own: until its loss has settled when not given)",
    )
    most = 50_000  # that `readers.result_files` reads
    add("--proposals_per_video", type=_number(int, 1, most), default=200, help="at most")
    add(
        "--descriptor_pooling",
        choices=("video", "snippet"),
        default="video",
        help="for descriptors: a class's videos weigh alike, or its snippets",
    )


def _add_evaluation_options(add: Callable[..., argparse.Action]) -> None:
    add("--threshold_cls", type=_share, default=0.25, help="video score from which a class is reported")
    add(
        "--score_fusion",
        type=_share,
        default=0.0,
        help="share of the proposals' own scores, which must be positive, in those of detections (geometric mean)",
    )
    add("--nms", choices=tuple(NMS), default="soft", help="non-maximum suppression of a video's detections")
    thresholds = "; ".join(
        f"{name} {', '.join(f'{t:g}' for t in protocol.reported)}" for name, protocol in TIOU_PROTOCOLS.items()
    )
    add("--tiou", choices=tuple(TIOU_PROTOCOLS), default="thumos14", help=f"tIoU thresholds: {thresholds}")
    add(
        "--curve_tiou",
        type=_number(float, 0, 1, open_low=True),
        nargs="+",
        help="tIoU of the precision-recall curves (three of --tiou when not given)",
    )


def parse_options(argv: Sequence[str] | None = None) -> Options:
    """Read the command line: what is typed, over the dataset's preset, over the defaults.

    What cannot be used ends the program with one line and status 2, as argparse does.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    named = _Parser(add_help=False, allow_abbrev=False)
    named.add_argument("--dataset_name", default="Thumos14reduced")
    named.add_argument("--recipe")
    known = named.parse_known_args(argv)[0]

    parser = build_parser()
    parser.set_defaults(**_preset(known.dataset_name, known.recipe))
    options = parser.parse_args(argv, Options())
    options.argv = argv
    _refuse_contradictions(parser, options)
    for option, value in _derived_defaults(options).items():
        if getattr(options, option) is None:
            setattr(options, option, value)
    return options


def _preset(dataset_name: str, recipe: str | None) -> dict[str, Any]:
    """The defaults of a recipe for a dataset, whose preset is for the recipe that it has when none is typed."""
    usual = recipe_of(dataset_name)
    recipe = recipe or usual
    preset, own = PRESETS.get(dataset_name, {}), OWN if recipe == "own" else {}
    return (own | preset if recipe == usual else preset | own) | {"recipe": recipe}


def _refuse_contradictions(parser: argparse.ArgumentParser, options: Options) -> None:
    """End the program if options do not go together."""
    if not is_plain_name(options.dataset_name):
        parser.error(
            f"--dataset_name {options.dataset_name!r}: expected a plain name, since it names folders and files"
        )
    if options.run_type == "eval" and options.detections is None:
        parser.error("--run_type eval needs --detections FILE.json")
    if options.run_type != "proposals" and options.proposals_from:
        parser.error("--proposals_from goes with --run_type proposals, which writes the files that other runs read")
    if options.lac_ckpt and (options.run_type not in ("proposals", "detect") or options.proposals_from):
        parser.error("--lac_ckpt goes with --run_type proposals or detect, and not with --proposals_from")
    if options.run_type == "features" and (options.videos is None or options.i3d_weights is None):
        parser.error("--run_type features needs --videos FOLDER and --i3d_weights FOLDER (or random, to try it out)")
    if options.crop is not None and (options.crop in CROPS) != (options.run_type == "features"):
        names = ", ".join(CROPS)
        parser.error(f"--crop {options.crop}: a number takes a crop of features; --run_type features makes {names}")
    if options.run_type == "detect":
        _refuse_of_detect(parser, options)
    if options.compare and (options.run_type != "report" or options.detections):
        parser.error("--compare goes with --run_type report, and without --detections")
    if options.compare and len(options.compare) < 2:
        parser.error("--compare takes two folders or more")
    if options.verbose and options.run_type != "check":
        parser.error("--verbose goes with --run_type check; runs say a line for each problem")
    for name in ("seeds", "holdout"):
        if getattr(options, name) and options.run_type != "train":
            parser.error(f"--{name} goes with --run_type train")
    for name in ("seeds", "curve_tiou"):
        values = getattr(options, name) or []
        if len(set(values)) < len(values):
            parser.error(f"--{name} has a value twice; give each once")
    if options.resume and (options.run_type != "train" or options.overwrite):
        parser.error("--resume goes with --run_type train, and not with --overwrite, which replaces the run")


def _refuse_of_detect(parser: argparse.ArgumentParser, options: Options) -> None:
    """End the program if options do not go with `--run_type detect`."""
    if options.model is None or options.input is None:
        parser.error("--run_type detect needs --model FOLDER of a training run and --input FILE_OR_FOLDER")
    if others := [f"--{name}" for name in _typed_values(options.argv) if name not in OF_DETECT]:
        parser.error(f"{', '.join(others)}: --run_type detect takes this from --model; leave it out")


def _derived_defaults(options: Options) -> dict[str, Any]:
    """The defaults that follow from other options."""
    derived = {
        "exp_dir": Path("outputs/detect" if options.run_type == "detect" else "outputs"),
        "recipe": recipe_of(options.dataset_name),
        "dataset_root": Path("data") / options.dataset_name,
        "pooled_dtype": "float32" if options.recipe == "own" else options.precision,  # own takes the mean off later
    }
    derived["curve_tiou"] = [*TIOU_PROTOCOLS[options.tiou].curve_tiou]
    if options.run_type == "test":
        derived["pretrained_ckpt"] = Path("checkpoints") / "best_model.pkl"
    return derived


def plain_values(options: Options) -> dict[str, Any]:
    """Every option as a JSON value, except those that only say whether a run is started or resumed."""
    names = [action.dest for action in _actions() if action.dest not in ("resume", "overwrite")]
    return {name: _plain(getattr(options, name)) for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def resume_options(options: Options, saved: Mapping[str, Any]) -> Options:
    """The options to resume a run with: those it was started with, and what is typed now where that may change.

    Args:
        options: the command line that resumes the run.
        saved: `plain_values` of the run.

    Raises:
        InputError: a typed option contradicts the run; the message names it.
    """
    names = {action.dest for action in _actions()}
    saved = {"recipe": "paper", "hidden_size": None, "score_fusion": 0.0, **saved}  # earlier versions had no others
    typed = _typed_values(options.argv)
    if "seeds" in typed:  # this is one of the runs, with its own seed
        typed["seed"] = options.seed
    if contradictions := [
        f"--{name}{'' if value is True else f' {_as_text(value)}'} (the run has "
        f"{'none' if saved[name] is None or saved[name] is False else _as_text(saved[name])})"
        for name, value in typed.items()
        if name not in MAY_CHANGE and name in saved and _plain(value) != saved[name]
    ]:
        raise InputError(
            f"{options.exp_dir}: the run to resume was started with other options than {'; '.join(contradictions)}. "
            "Leave them out, or start another run in another --exp_dir"
        )
    parser = build_parser()
    parser.set_defaults(**_preset(str(saved.get("dataset_name")), saved["recipe"]))
    parser.set_defaults(**{name: value for name, value in saved.items() if name in names})
    resumed = parser.parse_args(options.argv, Options())
    for name in ("argv", "exp_dir", "seeds", "resume", "overwrite"):
        setattr(resumed, name, getattr(options, name))
    return resumed


def _typed_values(argv: Sequence[str]) -> dict[str, Any]:
    """The options that are on the command line, by name."""
    parser = build_parser()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return vars(parser.parse_args(argv))


def _actions() -> list[argparse.Action]:
    """All options; argparse has no public list of them."""
    return [action for action in build_parser()._actions if action.dest != "help"]


def describe(options: Options, *, changed_only: bool = False) -> list[str]:
    """One line per option, `name: value`, with the default behind those that differ from it."""
    derived = _derived_defaults(options)
    lines = []
    for action in _actions():
        value, default = getattr(options, action.dest), derived.get(action.dest, action.default)
        released = f" ({action.option_strings[1]})" if len(action.option_strings) > 1 else ""
        if value != default:
            lines.append(f"{action.dest}{released}: {_as_text(value)}    [default: {_as_text(default)}]")
        elif not changed_only:
            lines.append(f"{action.dest}{released}: {_as_text(value)}")
    return lines


def _as_text(value: Any) -> str:
    """The value of an option as one types it."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
