"""Pages of detections in videos: what is in their files, and how they behave in a browser."""

import ast
import base64
import hashlib
import json
import re
import weakref
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, Browser

from report.video_pages import MAX_DETECTIONS, media_url, proposal_curves, write_video_pages
from runs.detected import DetectedVideo

HOSTILE = [
    "</script ><script>document.title='x'</script>",
    "<img src=x onerror=\"document.title='x'\">",
    "<!--<script >",
    "跳远 'ا\"\\<!--",
]


def detected(name="v", rows=(), *, seconds=4.0, proposals=((0.5, 2.5), (1.0, 3.0)), attention=(0.2, 0.6), media=None):
    """A video with detections (label, score, start, end)."""
    table = pd.DataFrame(rows, columns=["label", "score", "start_sec", "end_sec"])
    table = table.sort_values("score", ascending=False, kind="stable", ignore_index=True)
    return DetectedVideo(name, seconds, table, np.array(proposals).reshape(-1, 2), np.array(attention), media)


class Parts(HTMLParser):
    """The scripts of a page: (attributes, content)."""

    def __init__(self, page):
        super().__init__()
        self.scripts, self.tags, self.policy = [], [], ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        attributes = dict(attributes)
        if tag == "script":
            self.scripts.append([attributes, ""])
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"]

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "script":
            self.scripts[-1][1] += data

    def handle_endtag(self, tag):
        self.tags.append(f"/{tag}")

    @property
    def data(self):
        return json.loads(self.scripts[0][1])


def pages(folder):
    return sorted(path for path in folder.glob("*.html") if path.name != "index.html")


# ------------------------------------------------------------------------------------------------- the files


def test_curves_count_the_proposals_of_a_moment_and_average_their_attention():
    rng = np.random.default_rng(0)
    segments = np.sort(rng.uniform(0, 30, (50, 2)), axis=1)
    attention = rng.uniform(size=50)
    count, mean = proposal_curves(segments, attention, 30.0)
    moments = (np.arange(len(count)) + 0.5) * 30 / len(count)
    covers = (segments[:, :1] <= moments) & (moments < segments[:, 1:])  # [M, N]
    np.testing.assert_array_equal(count, covers.sum(axis=0))
    expected = [attention[one].mean() if one.any() else np.nan for one in covers.T]
    np.testing.assert_allclose(mean, expected, atol=1e-12)
    count, mean = proposal_curves(np.array([[0.125, 0.625]]), np.array([0.5]), 25.0)  # a moment is 0.125, 0.375, …
    assert count[:4].tolist() == [1, 1, 0, 0] and mean[:2].tolist() == [0.5, 0.5]
    count, mean = proposal_curves(np.empty((0, 2)), np.empty(0), 0.0)
    assert not count.any() and np.isnan(mean).all()


def test_a_page_holds_the_best_detections_and_says_how_many_it_leaves_out(tmp_path):
    rows = [("a", 1 - i / 10_000, 0.0, 1.0) for i in range(MAX_DETECTIONS + 7)]
    write_video_pages(tmp_path, [detected(rows=rows)], ["a"], "title")
    data = Parts(tmp_path / "v.html").data
    assert (len(data["detections"]), data["leftOut"]) == (MAX_DETECTIONS, 7)
    assert min(score for *_, score in data["detections"]) == pytest.approx(1 - (MAX_DETECTIONS - 1) / 10_000, rel=1e-4)


def test_no_text_ends_the_data_or_becomes_an_element(tmp_path):
    videos = [detected(name, [(name, 0.5, 0.0, 1.0)], media=tmp_path / "x.mp4") for name in HOSTILE]
    write_video_pages(tmp_path, videos, HOSTILE, HOSTILE[0], warning=HOSTILE[1])
    for page in [*pages(tmp_path), tmp_path / "index.html"]:
        parts = Parts(page)
        assert [attributes.get("type") for attributes, _ in parts.scripts] == ["application/json", None]
        assert "img" not in parts.tags and "default-src 'none'" in parts.policy
        digest = base64.b64encode(hashlib.sha256(parts.scripts[1][1].encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in parts.policy
    assert {Parts(page).data["name"] for page in pages(tmp_path)} == set(HOSTILE)
    assert Parts(tmp_path / "index.html").data["classes"] == HOSTILE


def test_every_video_has_a_page_of_its_own_in_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [
        "a b",
        "A B",
        "index",
        "../up",
        "/etc/x",
        "con",
        "c:d",
        ".",
        "",
        "x" * 300,
        "#%?",
        "跳远",
        "\udcff",
        "a b ",
    ]
    write_video_pages(Path("pages"), [detected(name) for name in names], [], "title")
    rows = Parts(tmp_path / "pages" / "index.html").data["videos"]
    files = [unquote(file) for _, file, *_ in rows]
    assert sorted(files) == [path.name for path in pages(tmp_path / "pages")]
    assert len({file.casefold() for file in files}) == len(names)
    assert not [file for file in files if re.search(r'[<>:"/\\|?*#%]|^\.', file) or len(file.encode()) > 255]
    assert files[0] == "a b.html" and files[names.index("跳远")] == "跳远.html"
    titles = [Parts(tmp_path / "pages" / file).data["name"] for file in files]
    assert titles == [name.replace("\udcff", "\\udcff") for name in names]
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith("x") and path.parent == tmp_path]


@pytest.mark.parametrize("name", ["a b#1?.mp4", "50%25 \"'<&>.mp4", "跳远/عربي.mp4", "a:b.mp4", "javascript:x.mp4"])
def test_the_address_of_a_video_leads_from_its_page_to_it(tmp_path, name):
    media = tmp_path / "videos" / name
    url = media_url(media, tmp_path / "out" / "pages")
    assert url.startswith("../../videos/") and url.isascii()
    parts = urlsplit(url)
    assert not (parts.query or parts.fragment or parts.scheme)
    assert (tmp_path / "out" / "pages" / unquote(parts.path)).resolve() == media.resolve()
    assert ":" not in media_url(tmp_path / "a:b.mp4", tmp_path)  # before a colon, a browser would see a scheme


def test_videos_are_taken_one_at_a_time_and_not_kept(tmp_path):
    before = []

    def videos():
        for i in range(5):
            assert len(pages(tmp_path)) == max(0, i)
            assert not [one for one in before[:-1] if one() is not None]
            video = detected(f"v{i}", [("a", 0.5, 0.0, 1.0)])
            before.append(weakref.ref(video))
            yield video

    assert write_video_pages(tmp_path, videos(), ["a"], "title") == tmp_path / "index.html"


def test_classes_keep_their_colours_unless_a_better_one_has_it(tmp_path):
    classes = [f"class {i}" for i in range(20)]
    one = detected("one", [("class 3", 0.9, 0, 1), ("class 5", 0.8, 0, 1)])
    two = detected("two", [("class 5", 0.9, 0, 1), ("class 10", 0.8, 0, 1), ("class 3", 0.7, 0, 1)])
    write_video_pages(tmp_path, [one, two], classes, "title")
    one, two = (dict(Parts(tmp_path / f"{name}.html").data["classes"]) for name in ("one", "two"))
    assert one["class 5"] == two["class 5"] == 5 and one["class 3"] == two["class 10"] == 3
    assert len(set(two.values())) == 3


def test_pages_of_videos_need_no_matplotlib():
    root, todo, seen = Path(__file__).resolve().parents[1], ["report/video_pages.py"], set()
    while todo:
        path = todo.pop()
        seen.add(path)
        for node in ast.walk(ast.parse((root / path).read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in names if name.split(".")[0] in ("matplotlib", "tensorboard", "av", "cv2")]
            files = (f"{name.replace('.', '/')}.py" for name in names)
            todo += [file for file in files if (root / file).is_file() and file not in seen]
    assert "report/markup.py" in seen and "utils.py" in seen


# --------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A video of four seconds, with a name that an address must escape."""
    av = pytest.importorskip("av")
    path = tmp_path_factory.mktemp("films") / "film #1 50% 'ا'.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=25, options={"deadline": "realtime", "cpu-used": "8"})
        stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv420p"
        for i in range(100):
            picture = np.full((90, 160, 3), 40, np.uint8)
            picture[30:60, i : i + 40] = (220, 160, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return path


ROWS = [("jump", 0.8, 1.0, 1.5), ("throw", 0.6, 2.0, 3.5), ("jump", 0.5, 3.0, 3.4), ("throw", 0.3, 0.2, 0.8)]
LABELS = "[...document.querySelectorAll('#rows bdi')].map((one) => one.textContent)"
STATE = "({time: player.currentTime, paused: player.paused, limit, current: current && current.start})"


@pytest.fixture
def page(tmp_path, film):
    write_video_pages(tmp_path, [detected(rows=ROWS, media=film)], ["jump", "throw"], "title")
    return tmp_path / "v.html"


def open_ready(browser, page, **options):
    browser.open(page, **options)
    browser.wait("player === video && video.readyState >= 3 && !document.querySelector('#rows').hidden")


def place_of(browser, start):
    """Where on the window the bar of the detection that starts then is drawn."""
    return browser.run(
        f"(() => {{ draw(); const one = detections.find((each) => each.start === {start});"
        " const row = rows.find((each) => (each.members || []).includes(one));"
        " const [x, y, w, h] = boxOf(one, row, row.top - timeline.scrollTop), frame = timeline.getBoundingClientRect();"
        " return [frame.x + x + w / 2 + 1, frame.y + y + h / 2 + 1]; })()"
    )


def test_a_click_on_a_detection_plays_exactly_it(browser, page):
    open_ready(browser, page)
    watch = "window.seen = []; (function see() { seen.push(video.currentTime); requestAnimationFrame(see); })()"
    browser.run(watch)
    browser.click_on("#rows tr")  # by time: jump, 1 to 1.5 s
    browser.wait("!player.paused && player.currentTime > 1.05")
    browser.wait("player.paused")
    state = browser.run(STATE)
    assert state["time"] == pytest.approx(1.5, abs=0.03) and state["current"] == 1.0
    assert browser.run("seen.filter((time) => time > 1.51).length") <= 2  # frames, however long a busy machine takes
    x = browser.run("new DOMMatrix(getComputedStyle(get('playhead')).transform).e")
    assert x == pytest.approx(browser.run("xOf(player.currentTime)"), abs=1)
    browser.click(*place_of(browser, 2.0))  # throw, on the timeline
    browser.wait("!player.paused && player.currentTime > 2.05")
    assert re.search("throw.*0:02.0 – 0:03.5.*0.60", browser.run("get('tip').textContent"))
    assert browser.run(STATE) | {"time": 0} == {"time": 0, "paused": False, "limit": 3.5, "current": 2}
    browser.press("Escape")
    assert browser.run(STATE) | {"time": 0} == {"time": 0, "paused": True, "limit": None, "current": None}
    said, asked = browser.complaints()
    assert said == [] and {unquote(url).rpartition("/")[2] for url in asked if not url.startswith("data:")} == {
        "v.html",
        "film #1 50% 'ا'.webm",
    }


def test_a_second_click_goes_on_past_the_end(browser, page):
    open_ready(browser, page)
    for _ in range(2):
        browser.click(*place_of(browser, 1.0))
    browser.wait("player.currentTime > 1.6")
    assert not browser.run("player.paused")


def test_a_click_elsewhere_on_the_timeline_goes_there(browser, page):
    open_ready(browser, page)
    browser.click(*place_of(browser, 1.0))
    frame = browser.run("[timeline.getBoundingClientRect().x, timeline.getBoundingClientRect().y]")
    browser.click(frame[0] + browser.run("xOf(3.2)") + 1, frame[1] + 60)
    browser.wait("Math.abs(player.currentTime - 3.2) < 0.3 && limit === null")


def test_the_slider_sets_the_score_from_which_detections_show(browser, page):
    open_ready(browser, page)
    assert browser.run(LABELS) == ["jump", "throw", "jump"]  # half of the best score and more
    assert "0.40" in browser.run("get('least-shown').textContent + get('least').ariaValueText")
    box = browser.run("(({x, y, width, height}) => [x, y + height / 2, width])(get('least').getBoundingClientRect())")
    browser.click(box[0] + 0.02 * box[2], box[1])
    browser.wait(f"{LABELS}.length === 4")
    assert "4 of 4" in browser.run("get('counted').textContent")
    assert browser.run("rows.filter((row) => row.members).map((row) => row.members.length)") == [2, 2]
    for _ in range(33):
        browser.press("]")
    assert browser.run(LABELS) == ["jump", "throw"] and 0.5 < browser.run("least") <= 0.6
    browser.run("timeline.focus()")
    for _ in range(10):
        browser.press("ArrowDown")
    assert browser.run(LABELS) == ["jump", "throw", "jump"]
    browser.click_on("[data-order=score]")
    assert browser.run("listed.map((one) => one.score)") == [0.8, 0.6, 0.5]


def test_keys(browser, page):
    open_ready(browser, page)
    browser.press("ArrowRight")
    assert browser.run("now()") == pytest.approx(1)
    browser.press("ArrowLeft")
    assert browser.run("now()") == 0
    browser.press("n")
    browser.press("n")
    browser.wait("!player.paused && current.start === 2")
    browser.press("p")
    browser.wait("current.start === 1 && limit === 1.5")
    assert browser.run("document.querySelectorAll('[aria-current]').length") == 1
    browser.press(" ")
    assert browser.run("player.paused && limit === 1.5")
    browser.press(" ")
    browser.wait("player.paused && Math.abs(player.currentTime - 1.5) < 0.03")
    browser.press("?")
    assert browser.run("get('help').open && document.activeElement.closest('dialog') !== null")
    browser.press("Escape")
    assert not browser.run("get('help').open")
    browser.run("get('keys').click()")
    browser.press("n")
    assert browser.run("current.start") == 1
    nameless = (
        "[...document.querySelectorAll('button, input, section, dialog')]"
        ".filter((one) => !(one.ariaLabel || one.labels?.length || one.textContent.trim()))"
        ".map((one) => one.outerHTML)"
    )
    assert browser.run(nameless) == []


def test_a_phone(browser, page):
    open_ready(browser, page, width=360, height=740, touch=True)
    assert browser.run("document.documentElement.scrollWidth") == 360
    small = (
        "[...document.querySelectorAll('button, a, input:not([type=file], [type=checkbox]), #rows tr')]"
        ".map((one) => [one, one.getBoundingClientRect()])"
        ".filter(([, box]) => box.width && (box.width < 40 || box.height < 40))"
        ".map(([one]) => one.outerHTML)"
    )
    assert browser.run(small) == []
    x, y = place_of(browser, 1.0)
    browser.tap(x, y - 20)  # a finger is not exact
    browser.wait("current !== null && current.start === 1 && !player.paused")
    browser.run("setZoom(2)")
    assert browser.run("timeline.scrollWidth > 500 && document.documentElement.scrollWidth === 360")
    sides = browser.run("[document.getElementById('window').clientWidth, canvas.clientWidth, timeline.clientWidth]")
    assert len(set(sides)) == 1


@pytest.mark.parametrize(("media", "seconds"), [(None, 4.0), ("gone #1.avi", 4.0), ("damaged.mp4", 60.0)])
def test_without_the_video_the_timeline_has_a_clock(browser, tmp_path, film, media, seconds):
    (tmp_path / "damaged.mp4").write_bytes(b"no video")
    media = media and tmp_path / media
    page = tmp_path / "v.html"
    write_video_pages(tmp_path, [detected(rows=ROWS, media=media, seconds=seconds)], [], "title")
    browser.open(page, fragment="#t=1,1.5")
    browser.wait("!get('missing').hidden && get('video').hidden")
    assert browser.run("[now(), limit]") == [1, 1.5]
    assert (media.name if media else "no video") in browser.run("get('why').textContent")
    browser.click(*place_of(browser, 1.0))
    browser.wait("!player.paused && player.currentTime > 1.05")
    browser.wait("player.paused")
    assert browser.run("player.currentTime") == 1.5
    node = browser.send("Runtime.evaluate", expression="get('file')")["result"]["objectId"]
    browser.send("DOM.setFileInputFiles", objectId=node, files=[str(film)])
    browser.wait("player === video && video.readyState >= 3 && get('missing').hidden")
    assert browser.run("now()") == pytest.approx(1.5, abs=0.05)
    browser.wait(f"get('status').textContent.includes('1:00.0') === {json.dumps(seconds > 5)}")  # too short for it
    browser.press("n")
    browser.wait("!video.paused && video.currentTime > 2.05")


def test_hostile_names_are_shown_as_they_are(browser, tmp_path):
    videos = [detected(name, [(name, 0.5, 0.0, 1.0)]) for name in HOSTILE]
    index = write_video_pages(tmp_path, videos, HOSTILE, HOSTILE[1])
    for page in pages(tmp_path):
        browser.open(page)
        browser.run("choose(detections[0], false)")
        name = browser.run("document.querySelector('h1').textContent")
        assert name in HOSTILE and browser.run(LABELS) == [name] and name in browser.run("get('status').textContent")
        assert browser.complaints()[0] == [] and browser.run("document.title").startswith(name)
    browser.open(index)
    assert browser.run("[...document.querySelectorAll('#rows th bdi')].map((one) => one.textContent)") == HOSTILE
    assert browser.complaints()[0] == []


def test_the_index_is_searched_and_sorted_and_leads_to_detections(browser, tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)  # waiting for the disk takes most of the time of many pages
    videos = [detected(f"video {i}", [("jump", 0.5 + i / 1000, 1, 2)], seconds=300.0 - i) for i in range(110)]
    videos[7] = detected("video 7 跳远", [("jump", 0.4, 1, 2), ("throw", 0.2, 2, 3)])
    browser.open(write_video_pages(tmp_path, videos, ["jump", "throw"], "title"), width=360, touch=True)
    assert browser.run("document.querySelectorAll('#rows tr').length") == 100
    assert browser.run("document.documentElement.scrollWidth") == 360
    browser.click_on("#more")
    assert browser.run("document.querySelectorAll('#rows tr').length") == 110
    shown = "[...document.querySelectorAll('#rows th')].map((one) => one.textContent)"

    def choose(name, value):
        events = "for (const kind of ['input', 'change'])"
        browser.run(f"get('{name}').value = '{value}'; {events} get('{name}').dispatchEvent(new Event(kind))")

    choose("order", "score")
    assert browser.run(shown)[:2] == ["video 109", "video 108"]
    choose("order", "seconds")
    assert browser.run(shown)[0] == "video 0"
    choose("search", "7 跳")
    assert browser.run(shown) == ["video 7 跳远"]
    choose("search", "")
    choose("class", "1")
    assert browser.run(shown) == ["video 7 跳远"] and "1 of 110" in browser.run("get('counted').textContent")
    browser.click_on(".chip")
    browser.wait("location.pathname.endsWith('%E8%BF%9C.html') && typeof current === 'object' && current !== null")
    assert browser.run("[nameOf(current), player.currentTime, shown.includes(current)]") == [
        "\u2068throw\u2069",
        2,
        True,
    ]


def test_an_hour_with_two_thousand_detections_stays_small_and_quick(browser, tmp_path):
    rng = np.random.default_rng(0)
    starts, lengths = rng.uniform(0, 3500, 2000), rng.uniform(1, 60, 2000)
    rows = [
        (f"class {i % 20}", float(rng.uniform()), s, s + n)
        for i, (s, n) in enumerate(zip(starts, lengths, strict=True))
    ]
    write_video_pages(tmp_path, [detected(rows=rows, seconds=3600.0)], [], "title")
    browser.open(tmp_path / "v.html", width=360, touch=True)
    browser.run("setLeast(0)")
    assert browser.run("[shown.length, document.querySelectorAll('#rows tr').length]") == [2000, 100]
    assert browser.run("document.querySelectorAll('*').length") < 1500
    overlaps = (
        "detections.filter((one) => one.lane < MOST_LANES)"
        ".sort((a, b) => a.group - b.group || a.lane - b.lane || a.start - b.start)"
        ".some((b, i, all) => i && ((a) => a.group === b.group && a.lane === b.lane && a.end > b.start)(all[i - 1]))"
    )
    assert not browser.run(overlaps)
    took = browser.run(
        "(() => { const from = performance.now(); setLeast(0); draw(); return performance.now() - from; })()"
    )
    assert took < 1000  # milliseconds; a tenth of it on an idle machine
    browser.run("choose(shown[1500], false)")  # far down the list
    assert browser.run("rowOf.get(current).ariaCurrent") == "true"
    browser.run("setZoom(16); choose(shown[1999], false)")
    assert 0 <= browser.run("xOf(current.start)") <= 360
    assert browser.run("document.documentElement.scrollWidth") == 360
