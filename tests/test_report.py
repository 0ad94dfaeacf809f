"""`--run_type report`: pages on a run, on a file, on runs side by side; and `--seeds`."""

import html
import json
import os
import re
import shutil
import signal
import subprocess
import warnings
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM
from building import own_dataset
from matplotlib.image import imread

from eval.results import EpochResults, ProtocolResult, Results
from eval.tables import rows_as_table
from prepare.make_demo import CLASSES
from report.command import write_folder
from report.fonts import SUPPLIED_FONT, find_fonts
from report.page import Page, escape, signed
from report.pictures import WIDTH, as_files, class_bars, confusion, difference_bars, styled, training_curves
from report.reading import require_results
from runs.detections import write_detections
from runs.folder import RunFolder, report_files
from runs.log import read_metrics
from runs.results import RunResults, read_results
from runs.seeds import SeedSummary, read_seeds, seeds_rows, summarise
from utils import InputError

ARGV = ("--dataset_name", "Demo", "--max_epoch", 2, "--interval", 1)
REPORT = ("--run_type", "report", "--dataset_name", "Demo")
COARSE = 40  # pixels an inch of PNG files, which are drawn faster so
PICTURES = {
    *("class_average_precision", "precision_recall", "label_confusion", "videos_best", "videos_median", "videos_worst"),
    *("error_shares", "error_gains", "error_buckets"),
}


@pytest.fixture(scope="module")
def trained(run_once, tmp_path_factory):
    """A folder with two seeds of a short run, and the report on the first, drawn once for all tests."""
    home = tmp_path_factory.mktemp("report")
    run_once(*ARGV, "--seeds", 3, 4, "--exp_dir", home / "runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("report.pictures.DPI", COARSE)
        run_once(*REPORT, "--exp_dir", home / "runs" / "seed_3")
    return home / "runs"


@pytest.fixture
def finished(trained, tmp_path):
    """The same, to be changed; without the report."""
    shutil.copytree(trained, tmp_path / "runs", ignore=shutil.ignore_patterns("report"))
    return tmp_path / "runs"


@pytest.fixture(autouse=True)
def as_few_pictures_as_possible(request, monkeypatch):
    """Pictures take most of a report's time: tests get none unless they are marked `drawn`, or `laid_out` (undrawn)."""
    monkeypatch.setattr("report.pictures.DPI", COARSE)
    if "drawn" in request.keywords:
        return
    if "laid_out" in request.keywords:
        monkeypatch.setattr("report.page.as_files", lambda figure: (figure.draw_without_rendering() or b"", b""))
        return
    monkeypatch.setattr("report.page.as_files", lambda figure: (b"", b""))
    for name in ("class_bars", "precision_recall", "confusion", "training_curves", "difference_bars"):
        monkeypatch.setattr(f"report.pictures.{name}", lambda *_, **__: None)
    for name in ("error_shares", "error_gains", "error_buckets"):
        monkeypatch.setattr(f"report.pictures.{name}", lambda *_, **__: None)
    monkeypatch.setattr("report.run_page.timelines", lambda *_, **__: None)


def text_of(page):
    """The words of a page, without markup and pictures."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.S)))


def svgs(page):
    return re.findall(r"data:image/svg[^\"]*", page)


def png_names(folder):
    return {path.stem for path in folder.glob("*.png")}


# ------------------------------------------------------------------------------------------------ a run


def test_the_report_on_a_run(trained):
    folder = trained / "seed_3" / "report"
    page = (folder / "report.html").read_text()
    text = text_of(page)
    results = json.loads((trained / "seed_3" / "results.json").read_text())
    for protocol in ("snippet", "seconds"):
        for value in (*results[protocol]["mAP"], results[protocol]["average"], results["best"][protocol]["average"]):
            assert f" {value:.1f} " in text
    for published in ("P-MIL, published 47.0 – – – – – – – – – snippet THUMOS14, real", "52.8", "55.2"):
        assert published in text
    assert all(f" {name} " in text for name in CLASSES)
    whole_videos = results["baselines"]["whole_videos"]["snippet"]["average"]
    assert f" whole videos with the reported classes {whole_videos:.1f} " in text
    assert f"reported {results['classification_labels_reported']} of {results['classification_labels']} labels" in text
    assert f"average mAP_N, which is {results['error_analysis']['average_mAP_N']:.1f}%" in text
    assert "weight_pc (--alpha_1): 3.4" in text  # the options
    assert png_names(folder) == PICTURES | {"training"} and page.count("<img ") == len(PICTURES) + 1
    for path in folder.glob("*.png"):
        picture = imread(BytesIO(path.read_bytes()))
        assert picture.shape[1] == WIDTH * COARSE and picture[..., :3].std() > 0.01, path  # not blank


def test_simulated_data_are_labelled(trained, finished, run):
    folder = trained / "seed_3"
    assert "Simulated data: no figure on this page" in (folder / "report" / "report.html").read_text()
    assert json.loads((folder / "results.json").read_text())["simulated"] is True
    assert json.loads((folder / "detections.json").read_text())["version"].endswith("Demo (simulated)")
    with styled(SUPPLIED_FONT):
        for simulated in (True, False):
            figure = class_bars({"a": 1.0}, "label", simulated=simulated)
            assert ("simulated data" in [text.get_text() for text in figure.texts]) == simulated
    # Detections tell of it themselves, where the features cannot be seen.
    shutil.copytree("data/Demo/Demo-Annotations", finished / "Annotations")
    for name, simulated in (("detections.json", True), ("others.json", False)):
        found = (finished / "seed_3" / "detections.json").read_text()
        (finished / name).write_text(found if simulated else found.replace("(simulated)", ""))
        argv = ("--dataset_name", "Other", "--annotations", finished / "Annotations", "--detections", finished / name)
        assert run("--run_type", "report", *argv, "--exp_dir", finished / name[:2])[0] == 0
        page = (finished / name[:2] / "report_of_file" / "report.html").read_text()
        assert ("Simulated data" in page) == ("of simulated data" in page.lower() or simulated) == simulated
        assert run("--run_type", "eval", *argv, "--exp_dir", finished / f"eval_{name[:2]}")[0] == 0
        assert json.loads((finished / f"eval_{name[:2]}" / "results.json").read_text())["simulated"] == simulated


def test_a_page_needs_nothing_from_elsewhere(trained):
    page = (trained / "seed_3" / "report" / "report.html").read_text()
    assert "<script" not in page and "default-src 'none'" in page
    links = re.findall(r"""<[^>]* (?:src|href)=["']([^"']*)""", page)
    assert len(links) > 10 and all(link.startswith(("data:", "#section-")) for link in links)


def test_the_same_report_again_changes_nothing(finished, run):
    folder = finished / "seed_3"
    for _ in range(2):
        assert run(*REPORT, "--exp_dir", folder)[0] == 0
        assert [path.name for path in folder.glob("report*")] == ["report"]


def test_the_same_figure_has_the_same_bytes():
    """Those of all other figures: `test_a_test_run_has_no_training`."""
    losses = pd.DataFrame({"PC_loss": [1.0, 0.5]}, index=[1, 2])
    with styled(SUPPLIED_FONT):
        first, second = (as_files(training_curves(losses, pd.DataFrame(), simulated=True)) for _ in range(2))
    assert first == second


def test_a_report_is_whole_and_others_are_kept(tmp_path):
    folder = tmp_path / "report"
    write_folder(folder, {"a.html": b"1", "b.png": b"2"})
    write_folder(folder, {"a.html": b"1"})  # is there already
    write_folder(folder, {"a.html": b"3"})

    def content(name):
        return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    assert content("report.1") == {"a.html": b"1", "b.png": b"2"} and content("report") == {"a.html": b"3"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("report.command.keep_previous", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_folder(folder, {"a.html": b"5", "c.png": b"6"})
    assert content("report") == {"a.html": b"3"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report", "report.1"]


@pytest.mark.drawn
def test_a_test_run_has_no_training(run, trained, tmp_path):
    checkpoint = trained / "seed_3" / "ckpt" / "last_model.pkl"
    argv = ("--dataset_name", "Demo", "--exp_dir", tmp_path, "--pretrained_ckpt", checkpoint)
    assert run("--run_type", "test", *argv)[0] == 0
    assert run(*REPORT, "--exp_dir", tmp_path)[0] == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert png_names(tmp_path / "report") == PICTURES and ">Training<" not in page and "Seeds" not in page
    # The weights, and so the detections, are those of `trained`: the pictures must be the same to the byte.
    of_training = trained / "seed_3" / "report"
    for name in PICTURES:
        assert (tmp_path / "report" / f"{name}.png").read_bytes() == (of_training / f"{name}.png").read_bytes(), name
    assert set(svgs(page)) < set(svgs((of_training / "report.html").read_text()))


def test_a_file_alone_is_enough(run, trained, tmp_path):
    file = trained / "seed_3" / "detections.json"
    status, out, _ = run(*REPORT, "--detections", file, "--exp_dir", tmp_path)
    assert status == 0 and str(tmp_path / "report_of_file" / "report.html") in out
    assert png_names(tmp_path / "report_of_file") == PICTURES
    text = text_of((tmp_path / "report_of_file" / "report.html").read_text())
    assert f"Detections of {file}" in text and "Video classification" not in text
    assert "these detections" in text and "snippet simulated" in text and "number of proposals" in text


@pytest.mark.laid_out
def test_without_proposals_and_without_any_detection(run, tmp_path):
    (tmp_path / "none.json").write_text('{"results": {}}')
    argv = ("--detections", tmp_path / "none.json", "--proposals_root", tmp_path, "--exp_dir", tmp_path)
    assert run(*REPORT, *argv)[0] == 0
    text = text_of((tmp_path / "report_of_file" / "report.html").read_text())
    assert "0 detections" in text and "60 videos have no detections" in text and "number of proposals" not in text


@pytest.mark.laid_out
def test_without_ground_truth_there_is_a_report_of_the_rest(run_in, tmp_path):
    path = own_dataset(tmp_path / "data/T") / "annotations.json"
    annotations = json.loads(path.read_text())
    for entry in annotations["database"].values():
        entry["annotations"] = [{"label": one["label"]} for one in entry["annotations"]]
    path.write_text(json.dumps(annotations))
    for i, name in enumerate("ab"):
        table = rows_as_table(["b0", "b0", "b1"], [0, 1, i], [0.9, 0.2, 0.5], *[np.tile([2.0, 6.0], (3, 1))] * 2)
        write_detections(tmp_path / name / "detections.json", table, ["Dive", "Jump"], "SEAL", {"b0": 15.0})
        (tmp_path / name / "options.json").write_text(json.dumps({"dataset_name": "T", "seed": i}))
        (tmp_path / name / "metrics.jsonl").write_text('{"epoch": 1, "loss_total": 1.25}\n')
    run, argv = run_in(tmp_path), ("--run_type", "report", "--dataset_name", "T", "--exp_dir")
    status, _, err = run(*argv, "a")
    assert status == 0, err
    text = text_of((tmp_path / "a/report/report.html").read_text())
    for shown in (
        "so there is no mAP and no error analysis",
        "Of 6 labels of the videos, 2 are detected (33.3%)",
        " Dive 2 2 0.700 0.900 4.0 ",
        "The best by best score in the video: b0, b1",
        "4 videos have no detections",
        "Loss terms, mean over each epoch",
    ):
        assert shown in text, text
    status, out, err = run(*argv, "c", "--compare", "a", "b")
    assert status == 0 and "so there is no mAP" in out, err
    text = text_of((tmp_path / "c/comparison/comparison.html").read_text())
    assert " a 3 2 1.2500 The run in a b 3 2 1.2500 The run in b " in text and " seed 0 1 " in text


def test_other_proposals_are_not_drawn(run, finished, demo_home):
    proposals = json.loads((demo_home / "proposals4Thumos14" / "Proposals_Demo_test.json").read_text())
    for entries in proposals["results"].values():
        for entry in entries:
            entry["segment"][1] += 0.5
    (finished / "Proposals_Demo_test.json").write_text(json.dumps(proposals))
    status, out, _ = run(*REPORT, "--exp_dir", finished / "seed_3", "--proposals_root", finished)
    assert status == 0 and all(
        word in out for word in ("Proposals_Demo_test.json", "demo_test_0001", "--proposals_root")
    )
    assert "number of proposals" not in text_of((finished / "seed_3" / "report" / "report.html").read_text())


HOSTILE = [
    "<script>alert(1)</script>",
    "$x_{1}$ & \"q\" 'q'",
    "日本語 العربية",
    "a</title><img src=x onerror=alert(1)>",
]


def test_names_from_files_are_drawn_as_text():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with styled(find_fonts(HOSTILE)):
            as_files(confusion(np.full((len(HOSTILE), len(HOSTILE)), 50.0), HOSTILE, simulated=False))


def test_names_from_files_are_text(run_in, tmp_path):
    """Names of classes and videos that are markup, formulas or in other scripts are shown as they are."""
    database, results = {}, {}
    for i, name in enumerate(HOSTILE):
        video = f"v{i} <b>$&amp;"
        database[video] = {"subset": "validation", "annotations": [{"segment": [1, 5], "label": name}]}
        results[video] = [{"label": HOSTILE[j], "score": 0.5 + j / 10, "segment": [1, 4 + j]} for j in (i, 0)]
    (tmp_path / "annotations.json").write_text(json.dumps({"database": database}))
    (tmp_path / "found <i>.json").write_text(json.dumps({"results": results}))
    argv = ("--annotations", tmp_path / "annotations.json", "--test_subset", "validation")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        status, _, err = run_in(tmp_path)(
            *("--run_type", "report", "--dataset_name", "Mine", *argv, "--detections", tmp_path / "found <i>.json")
        )
    assert status == 0, err
    page = (tmp_path / "outputs" / "report_of_file" / "report.html").read_text()
    assert not re.search(r"<(script|b|i)>|<img src=x|onerror=alert\(1\)>(?!<)", page)
    assert all(name in html.unescape(page) for name in (*HOSTILE, "v0 <b>$&amp;", "found <i>.json"))


def test_escaping_and_control_characters():
    assert escape('<a href="x">&\'\x1b[31m\u202e') == "&lt;a href=&quot;x&quot;&gt;&amp;&#x27;\\x1b[31m\\u202e"
    page = Page("<t>", simulated=False)
    page.section("<s>")
    page.heading("<h>")
    page.text("<p>")
    page.listing("<l>")
    page.table(["<th>", 1], [["<td>", 0.25], ["<td2>", None]], caption="<c>", strong=[0])
    with styled(SUPPLIED_FONT):
        page.picture("<n>", class_bars({"<a>": 5.0}, "<label>", simulated=False), '<alt> "')
    text = page.html()
    assert not re.search(r"<(t|s|h|l|td2|c|n|alt)>|<p><p>|<th>[^<]*<th>|<td>[^<]*<td>", text)
    assert "<h1>&lt;t&gt;</h1>" in text and ">0.2</td>" in text and ">–</td>" in text


@pytest.mark.parametrize("count", [1, 30, 31, 200])
def test_pictures_of_few_and_of_many_classes(count):
    names = [f"a class with a long name, number {i}" for i in range(count)]
    with styled(SUPPLIED_FONT):
        bars = class_bars({name: 100 * i / count for i, name in enumerate(names)}, "label", simulated=True)
        shown = [label.get_text() for ax in bars.axes for label in ax.get_yticklabels()]
        assert len(shown) == count and bars.get_figheight() < 9
        share = 100 * np.eye(count)
        share[0] = np.nan
        figure = confusion(share, names, simulated=True)
        assert figure.get_figheight() < 9
        bars.draw_without_rendering()
        figure.draw_without_rendering()


@pytest.mark.parametrize("count", [1, 6, 7, 13])
def test_every_loss_term_has_a_curve(count):
    losses = pd.DataFrame({f"term_{i}": [1.0, 0.5] for i in range(count)}, index=[1, 2])
    for maps in (pd.DataFrame(), pd.DataFrame({"tIoU 0.5": [10.0]}, index=[2])):
        with styled(SUPPLIED_FONT):
            axes = training_curves(losses, maps, simulated=False).axes
        titles = [ax.get_title("left") for ax in axes if ax.get_title("left")]
        assert titles == list(losses) and len(axes) == count + bool(len(maps))


# --------------------------------------------------------------------------------------- what is refused


def test_what_is_no_finished_run(run, tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        status, _, err = run(*REPORT, "--exp_dir", folder)
        assert status == 2 and re.search(rf"{folder}: .*results\.json", err)
    assert not (tmp_path / "report").exists() and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("results.json", "{}", r"seed_3/results\.json: .*results\.json"),
        ("results.json", "[", r"results\.json: .*readable JSON"),
        ("detections.json", '{"results": {"x": []}}', r"detections\.json: .*unknown videos, 1"),
        (
            "detections.json",
            '{"results": {}}',
            r"average mAP 0\.000.*results\.json .*options",
        ),
        ("metrics.jsonl", '{"epoch": 1, "loss_total": "x"}\n', r"metrics\.jsonl: .*line 1\b"),
        ("metrics.jsonl", '{"epoch": 1, "evaluation": {}}\n', r"metrics\.jsonl: .*line 1\b"),
        ("metrics.jsonl", '{"epoch": 1, "loss_total": 1.0}\nnonsense\n', r"metrics\.jsonl: .*line 2 .*'nonsense'"),
        ("results.json", '{"snippet": 1}', r"seed_3/results\.json: .*results\.json"),
    ],
)
def test_damaged_files_are_one_line(run, finished, name, content, message):
    (finished / "seed_3" / name).write_text(content)
    status, _, err = run(*REPORT, "--exp_dir", finished / "seed_3")
    assert status == 2 and len(err.splitlines()) == 1 and re.search(message, err), err
    assert not (finished / "seed_3" / "report").exists()


def test_results_of_other_commands(run, finished, tmp_path):
    file = finished / "seed_3" / "detections.json"
    argv = ("--dataset_name", "Demo", "--detections", file, "--exp_dir", finished / "seed_3")
    assert run("--run_type", "eval", *argv)[0] == 0
    status, _, err = run(*REPORT, "--exp_dir", finished / "seed_3")
    assert status == 2 and "--run_type eval" in err and f"--detections {file}" in err and "--compare takes" in err
    run.train(tmp_path / "run", "--max_epoch", 1, "--interval", 0)
    status, _, err = run(*REPORT, "--exp_dir", tmp_path / "run")
    assert status == 2 and re.search(f"{tmp_path / 'run'}: .*training run .*finished", err)
    status, _, err = run("--run_type", "report", "--exp_dir", finished / "seed_4")
    assert status == 2 and re.search(f"{finished / 'seed_4'}: .*--dataset_name '?Demo", err)


@pytest.mark.parametrize("missing", ["best.epoch", "epoch", "classification_mAP", "best.snippet.tiou", "simulated"])
def test_results_that_lack_a_part(trained, tmp_path, missing):
    content = json.loads((trained / "seed_3" / "results.json").read_text())
    *places, name = missing.split(".")
    part = content
    for place in places:
        part = part[place]
    del part[name]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    if missing in ("classification_mAP", "simulated"):
        read_results(path)
    else:
        with pytest.raises(InputError, match=re.escape(f"{path}: ") + r".*results\.json"):
            read_results(path)


@pytest.mark.laid_out
def test_lengths_of_videos_come_with_the_detections(run, finished, demo_home):
    """Where the annotations do not have them, the report finds the coverage that the run found."""
    shutil.copytree("data/Demo/Demo-Annotations", finished / "Annotations")
    np.save(finished / "Annotations" / "duration.npy", np.full(140, np.nan))
    argv = ("--annotations", finished / "Annotations", "--detections", finished / "seed_3" / "detections.json")
    results = []
    for folder in (finished / "seed_3", finished / "eval"):
        if folder.name == "eval":
            assert run("--run_type", "eval", "--dataset_name", "Demo", *argv, "--exp_dir", folder)[0] == 0
        results.append(json.loads((folder / "results.json").read_text())["error_analysis"])
    assert results[0] == results[1]
    content = json.loads((finished / "seed_3" / "detections.json").read_text())
    del content["external_data"]["video_seconds"]
    (finished / "seed_3" / "detections.json").write_text(json.dumps(content))
    assert run(*REPORT, *argv, "--exp_dir", finished)[0] == 0
    text = text_of((finished / "report_of_file" / "report.html").read_text())
    assert "no breakdown by coverage" in text and "coverage of the video, %:" not in text


def test_a_damaged_proposal_file_does_not_matter(run, finished):
    (finished / "Proposals_Demo_test.json").write_text("{")
    status, out, _ = run(*REPORT, "--exp_dir", finished / "seed_3", "--proposals_root", finished)
    assert status == 0 and re.search("notice: .*no proposals", out)


def test_what_cannot_be_written_is_told_before_any_work(run, finished):
    (finished / "file").write_text("")
    argv = ("--detections", finished / "seed_3" / "detections.json", "--exp_dir", finished / "file" / "x")
    status, out, err = run(*REPORT, *argv)
    assert status == 2 and re.search("--exp_dir .*file/x.* folder", err) and "detections" not in out.splitlines()[-1]


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1, "loss_total": 1.5, "seconds": 3.0}\n{"epoch": 2, "lo')
    metrics = read_metrics(path)
    assert metrics.losses.to_dict() == {"loss_total": {1: 1.5}} and not metrics.evaluations
    nothing = read_metrics(tmp_path / "none.jsonl")
    assert nothing.losses.empty and not nothing.evaluations


def test_other_options_than_the_runs_are_noticed(run, finished):
    status, _, err = run(*REPORT, "--exp_dir", finished / "seed_3", "--tiou", "activitynet")
    assert status == 2 and re.search(r"average mAP .*results\.json .*options", err)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--compare", "a"), "--compare .*two folders"),
        (("--compare", "a", "b", "--detections", "c"), "--compare .*--detections"),
        (("--seeds", 1), "--seeds .*--run_type train"),
        (("--curve_tiou", 0), r"--curve_tiou: 0 .*\(0, 1\]"),
        (("--curve_tiou", 0.5, 0.5), "--curve_tiou .*twice"),
    ],
)
def test_command_lines_that_make_no_sense(run, argv, message):
    status, _, err = run(*REPORT, *argv)
    assert status == 2 and re.search(message, err)


def test_a_report_is_overwritten_with_its_run(run, finished):
    """Files in its folder that are not of the report stay, whatever their names."""
    folder = finished / "seed_3" / "report"
    assert run(*REPORT, "--exp_dir", finished / "seed_3")[0] == 0
    assert {path.name for path in folder.iterdir()} == {path.name for path in report_files(folder)}
    others = {"mine.png", "notes.txt", "class_average_precision.jpg"}
    for name in others:
        (folder / name).write_text("kept")
    assert run(*ARGV, "--exp_dir", finished / "seed_3", "--overwrite", "--max_epoch", 1)[0] == 0
    assert {path.name for path in folder.iterdir()} == others


def test_a_folder_report_that_is_not_ours_is_not_overwritten(tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "training.png").write_text("kept")
    with RunFolder(tmp_path) as folder:
        folder.clear()
    assert (tmp_path / "report" / "training.png").exists()


def test_one_process_at_a_time_writes_into_a_folder(run, finished, monkeypatch):
    """A report waits for no run and no run for a report: the later of the two is refused, and damages nothing."""
    folder = finished / "seed_3"
    with RunFolder(folder):
        status, _, err = run(*REPORT, "--exp_dir", folder)
    assert status == 2 and re.search(f"{folder} .*process {os.getpid()}", err) and not (folder / "report").exists()

    during = []
    monkeypatch.setattr(
        "report.command.keep_previous",  # called when the report lies in its temporary folder
        lambda _: during.append((run(*ARGV, "--exp_dir", folder, "--overwrite"), (folder / ".report.part").exists())),
    )
    assert run(*REPORT, "--exp_dir", folder)[0] == 0
    [((status, _, err), there)] = during
    assert status == 2 and re.search(f"{folder} .*process {os.getpid()}", err) and there
    assert (folder / "report" / "report.html").exists() and (folder / "results.json").exists()


def test_options_of_a_run(run, finished, tmp_path):
    """They are in `options.json`; of runs without that file, as of earlier versions, they are unknown."""
    (finished / "seed_4" / "options.json").unlink(missing_ok=True)
    argv = (*REPORT, "--exp_dir", tmp_path / "out", "--compare", finished / "seed_3", finished / "seed_4")
    assert run(*argv)[0] == 0
    text = text_of((tmp_path / "out" / "comparison" / "comparison.html").read_text())
    assert f"The options of {finished / 'seed_4'} are unknown" in text and "options that differ" not in text
    for content in ("{", "[]"):
        (finished / "seed_4" / "options.json").write_text(content)
        status, _, err = run(*argv)
        assert status == 2 and len(err.splitlines()) == 1 and str(finished / "seed_4" / "options.json") in err


# ---------------------------------------------------------------------------------------- two runs, seeds


@pytest.mark.drawn
def test_runs_side_by_side(run, trained, tmp_path):
    folders = [trained / "seed_3", trained / "seed_4"]
    status, out, _ = run(*REPORT, "--exp_dir", tmp_path, "--compare", *folders)
    assert status == 0
    names = {f"comparison_1_{name}" for name in ("tiou_snippet", "tiou_seconds", "classes")}
    assert png_names(tmp_path / "comparison") == names
    text = text_of((tmp_path / "comparison" / "comparison.html").read_text())
    averages = [json.loads((folder / "results.json").read_text())["snippet"]["average"] for folder in folders]
    first, second = averages
    assert f" average {signed(second - first)} " in text and "Simulated data" in text
    assert "seed 3 4 " in text  # the option that differs
    deviation = read_seeds(trained / "seeds.json").spreads["last"]["snippet"].average_std
    assert f"over the seeds is {folders[0]}: {deviation:.1f}" in text
    assert f"{folders[1]} minus {folders[0]}, snippet protocol" in out
    assert re.search(rf"^average +{first:.2f} +{second:.2f} +{second - first:.2f} ", out, re.MULTILINE)


def test_a_run_beside_itself(run, trained, tmp_path):
    status, out, _ = run(*REPORT, "--exp_dir", tmp_path, "--compare", trained / "seed_3", trained / "seed_3")
    assert status == 0 and "exceeds noise" not in out
    assert re.findall(r"^average .*", out, re.MULTILINE)[0].split()[3:] == ["0.00", "0.00", "0.00", "1.000"]


def test_seeds_are_runs_of_their_own(run, trained, tmp_path):
    summary = read_seeds(trained / "seeds.json")
    results = [json.loads((trained / f"seed_{seed}" / "results.json").read_text()) for seed in (3, 4)]
    assert summary.seeds == [3, 4]
    for which, parts in (("last", results), ("best", [part["best"] for part in results])):
        for protocol in ("snippet", "seconds"):
            values = pd.DataFrame([part[protocol]["mAP"] for part in parts])
            spread = summary.spreads[which][protocol]
            assert spread.mean == pytest.approx(values.mean()) and spread.std == pytest.approx(values.std())
            assert spread.average_mean == pytest.approx(np.mean([part[protocol]["average"] for part in parts]))
    run.train(tmp_path / "alone", *ARGV[2:], "--seed", 3)
    alone = json.loads((tmp_path / "alone" / "results.json").read_text())
    assert alone["snippet"] == results[0]["snippet"]


def test_the_table_of_seeds_is_printed_and_reported(run, trained, finished):
    status, out, _ = run(*ARGV, "--seeds", 3, 4, "--exp_dir", finished, "--resume")
    assert status == 0 and re.search("mean ± standard deviation .*seeds 3 and 4", out)
    assert not (finished / "seeds.1.json").exists()
    rows = seeds_rows(read_seeds(finished / "seeds.json"))
    assert len(rows) == 4 and all(len(row) == 8 for row in rows.values())
    (finished / "report").mkdir()
    (finished / "report" / "report.html").write_text("an older one")
    status, out, _ = run(*REPORT, "--exp_dir", finished)
    assert status == 0 and "the median is" in out
    assert {path.name: path.read_text() for path in (finished / "report.1").iterdir()} == {
        "report.html": "an older one"
    }
    text = text_of((finished / "report" / "report.html").read_text())
    median = read_seeds(finished / "seeds.json").median
    assert f"The rest of this page is about one run: Weights {finished / f'seed_{median}'}" in text
    of_one = text_of((trained / "seed_3" / "report" / "report.html").read_text())
    cells = [f" {name} {' '.join([row[-1], *row[:-1]])} " for name, row in rows.items()]
    assert all(cell in part for cell in cells for part in (text, of_one))


def test_seeds_that_are_in_the_way_or_not_there(run, finished, tmp_path):
    status, _, err = run(*ARGV, "--seeds", 5, 3, "--exp_dir", finished)
    assert status == 2 and re.search(f"{finished / 'seed_3'} .*training run", err)
    assert not (finished / "seed_5").exists()  # found out before the first is trained
    status, _, err = run(*ARGV, "--seeds", 1, 2, "--exp_dir", tmp_path / "none", "--resume")
    assert status == 2 and re.search("no run .*seeds .*resume", err)
    status, _, err = run(*ARGV, "--seeds", 1, 1)
    assert status == 2 and re.search("--seeds .*twice", err)


def test_a_stopped_run_of_seeds_goes_on(run, finished):
    shutil.rmtree(finished / "seed_4")
    before = (finished / "seeds.json").read_bytes()
    assert run(*ARGV, "--seeds", 3, 4, "--exp_dir", finished, "--resume")[0] == 0
    assert (finished / "seeds.json").read_bytes() == before


def test_seeds_that_are_replaced_are_all_replaced_at_once(run, finished, monkeypatch):
    """A run that is stopped in the first seed leaves nothing of the old second one, and can be gone on with."""
    argv = (*ARGV, "--seeds", 3, 4, "--exp_dir", finished)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("main.Run.batches", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert run(*argv, "--overwrite", "--lr", 0.002)[0] == 143
    assert not (finished / "seeds.json").exists() and not [
        path for path in (finished / "seed_4").rglob("*") if path.is_file()
    ]
    assert run(*argv, "--lr", 0.002, "--resume")[0] == 0
    assert read_seeds(finished / "seeds.json").seeds == [3, 4]


def test_bad_input_replaces_no_seed(run, finished):
    argv = (*ARGV, "--seeds", 3, 4, "--exp_dir", finished, "--overwrite", "--descriptors_root", finished)
    assert run(*argv)[0] == 2
    assert (finished / "seeds.json").exists() and (finished / "seed_4" / "results.json").exists()


def test_a_seed_without_resume_file_cannot_be_gone_on_with(run, finished):
    (finished / "seed_4" / "ckpt" / "resume.pt").unlink()
    status, _, err = run(*ARGV, "--seeds", 3, 4, 5, "--exp_dir", finished, "--resume")
    assert status == 2 and "seed_4/ckpt/resume.pt" in err and not (finished / "seed_5").exists()


def test_a_folder_in_use_keeps_all_seeds(run, finished):
    """`--overwrite` clears no seed before it has all of them."""
    with RunFolder(finished / "seed_4"):
        status, _, err = run(*ARGV, "--seeds", 3, 4, "--exp_dir", finished, "--overwrite")
    assert status == 2 and re.search(f"{finished / 'seed_4'} .*process {os.getpid()}", err)
    assert (finished / "seed_3" / "ckpt" / "resume.pt").exists() and (finished / "seeds.json").exists()


def test_a_run_that_has_not_begun_is_not_gone_on_with(run, finished):
    """What is there when reading is stopped is the run that was to be replaced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("main.load_data", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        status, _, err = run(*ARGV, "--exp_dir", finished / "seed_3", "--overwrite")
    assert status == 143 and "go on with" not in err


def test_a_seed_of_other_thresholds_has_no_mean(run, finished):
    argv = ("--dataset_name", "Demo", "--max_epoch", 1, "--tiou", "activitynet", "--overwrite")
    assert run(*argv, "--seed", 3, "--exp_dir", finished / "seed_3")[0] == 0
    status, out, _ = run(*REPORT, "--exp_dir", finished / "seed_4")
    assert status == 0 and re.search(f"{finished / 'seeds.json'} .*ignored", out)
    results = [read_results(finished / name / "results.json") for name in ("seed_3", "seed_4")]
    with pytest.raises(InputError, match="tIoU thresholds"):
        summarise([3, 4], results)


def test_a_seed_that_is_not_of_the_summary_does_not_show_it(run, finished):
    shutil.copytree(finished / "seed_4", finished / "seed_7")
    assert run(*REPORT, "--exp_dir", finished / "seed_7")[0] == 0
    assert ">Seeds<" not in (finished / "seed_7" / "report" / "report.html").read_text()


def test_a_killed_report_is_in_nobodys_way(run, finished):
    folder = finished / "seed_3"
    for name in (".report.part", ".comparison.part"):
        (folder / name).mkdir()
        (folder / name / "x.png").write_text("half")
    assert run(*ARGV, "--exp_dir", folder, "--overwrite", "--max_epoch", 1)[0] == 0
    assert not list(folder.glob(".*"))


def test_test_videos_without_labels_have_no_confusion(run, finished):
    shutil.copytree("data/Demo/Demo-Annotations", finished / "Annotations")
    empty = np.empty(140, dtype=object)
    empty[:] = [[] for _ in range(140)]
    np.save(finished / "Annotations" / "labels_all.npy", empty)
    argv = ("--annotations", finished / "Annotations", "--detections", finished / "seed_3" / "detections.json")
    assert run(*REPORT, *argv, "--exp_dir", finished)[0] == 0
    text = text_of((finished / "report_of_file" / "report.html").read_text())
    assert "The test videos have no labels." in text and "exactly their labels" not in text


def test_a_summary_that_is_not_of_the_runs_is_left_out(run, finished):
    """A seed was trained again, or tested with other weights; or the file is not ours."""
    before = (finished / "seeds.json").read_text()
    for content in (
        before.replace('"last": [', '"last": [1.5, '),
        "[0, 1]",
        before.replace("[3, 4]", "[4, 3]"),
        before,
    ):
        if content == before:  # a test run leaves results that have no best epoch
            checkpoint = finished / "seed_4" / "ckpt" / "last_model.pkl"
            argv = ("--dataset_name", "Demo", "--exp_dir", finished / "seed_4", "--pretrained_ckpt", checkpoint)
            assert run("--run_type", "test", *argv)[0] == 0
        (finished / "seeds.json").write_text(content)
        status, _, err = run(*REPORT, "--exp_dir", finished)
        assert status == 2 and str(finished / "seeds.json") in err
    status, out, _ = run(*REPORT, "--exp_dir", finished / "seed_3")
    assert status == 0 and re.search(f"notice: {finished / 'seeds.json'} .*ignored", out)
    assert "Seeds" not in text_of((finished / "seed_3" / "report" / "report.html").read_text())
    assert run(*ARGV, "--seeds", 3, 4, "--exp_dir", finished, "--resume")[0] == 0  # trains nothing, and makes it anew
    assert json.loads((finished / "seeds.json").read_text()) == json.loads(before)


def test_one_seed_has_no_deviation_and_no_evaluation_no_mean(run, tmp_path):
    result = ProtocolResult((0.5,), (10.0,), 10.0)
    results = Results(result, result)
    summary = summarise([7], [RunResults(results, epoch=2, best=EpochResults(results, epoch=1))])
    assert summary.spreads["last"]["snippet"].std == [None]
    assert seeds_rows(summary)["last epoch, snippet"] == ["10.0", "10.0"]
    argv = ("--dataset_name", "Demo", "--max_epoch", 1, "--interval", 0, "--seeds", 0, 1, "--exp_dir", tmp_path)
    status, out, _ = run(*argv)
    assert status == 0 and "no figures to average" in out and not (tmp_path / "seeds.json").exists()


def test_the_median_seed():
    assert SeedSummary([5, 6, 7], {"last": [3.0, 1.0, 2.0]}, {}).median == 7
    assert SeedSummary([5, 6], {"last": [3.0, 1.0]}, {}).median == 6


def test_a_damaged_summary_of_seeds(tmp_path):
    for content in ("[]", "{}", '{"seeds": "ab", "averages": 1}'):
        (tmp_path / "seeds.json").write_text(content)
        with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'seeds.json'}: ") + r".*seeds\.json"):
            read_seeds(tmp_path / "seeds.json")


# --------------------------------------------------------------------------------------------- in a browser


def browse(page, tmp_path, width):
    """What the console says of a page, and which addresses it asks for that are not its own."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={tmp_path / 'net.json'}"]
    flags += [f"--window-size={width},4000", f"--screenshot={tmp_path / 'shot.png'}"]
    done = subprocess.run([CHROMIUM, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    asked = re.findall(r'"url":"(https?://[^"]*)"', (tmp_path / "net.json").read_text())
    asked = [
        url for url in asked if not re.match(r"https?://[\w.-]*\.(google|googleapis|gvt1)\.com/", url)
    ]  # its maker's
    return console, asked, imread(BytesIO((tmp_path / "shot.png").read_bytes()))


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [1200, 500])
def test_pages_open_without_network_and_without_errors(trained, tmp_path, width):
    console, asked, shot = browse(trained / "seed_3" / "report" / "report.html", tmp_path, width)
    assert (console, asked) == ([], []) and shot[:2000].std() > 0.05


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_pictures_open_without_errors(trained, tmp_path):
    pictures = sorted((trained / "seed_3" / "report").glob("*.png"))
    images = "".join(f"<img src='{path.as_uri()}' onerror='console.error(this.src)'>" for path in pictures)
    (tmp_path / "all.html").write_text(images)
    assert browse(tmp_path / "all.html", tmp_path, 1600)[:2] == ([], []) and len(pictures) == 10
    (tmp_path / "bad.html").write_text(
        "<img src='none.png' onerror='console.error(1)'><img src='http://127.0.0.1:9/x.png'>"
    )
    console, asked, _ = browse(tmp_path / "bad.html", tmp_path, 500)
    assert console and "http://127.0.0.1:9/x.png" in asked  # the check sees what it is to see


@pytest.mark.laid_out
@pytest.mark.parametrize("rows", [3, 60])
def test_the_legend_of_differences_does_not_cover_the_label(rows):
    values = np.linspace(-3, 3, rows)
    table = pd.DataFrame({"difference": values, "low": values - 1, "high": values + 1, "more_than_noise": True})
    with styled(SUPPLIED_FONT):
        figure = difference_bars(table, "difference in mAP, percentage points", simulated=False)
        figure.canvas.draw()
        legend = figure.legends[0].get_window_extent()
        labels = [ax.xaxis.label.get_window_extent() for ax in figure.axes if ax.get_xlabel()]
    assert labels and not any(legend.overlaps(label) for label in labels)


def test_a_folder_of_several_seeds_names_one_of_its_runs(tmp_path):
    (tmp_path / "seed_1").mkdir()
    with pytest.raises(InputError, match=r"no run to report on; .*--exp_dir, for example .*seed_1$"):
        require_results(tmp_path)
