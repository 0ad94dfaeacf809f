"""The documentation names options, commands and files that exist."""

import contextlib
import importlib
import io
import re
import shlex
import sys
from pathlib import Path

import pytest

import options

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(ROOT.glob("[!.]*/README.md")),
]
TOOLS = (
    "prepare.make_demo",
    "prepare.make_videos",
    "prepare.split_features",
    "benchmarks.run",
    "benchmarks.kill",
    "benchmarks.real",
)
OF_OTHER_PROGRAMS = {"--check", "--logdir"}  # of ruff and TensorBoard

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-zA-Z]\w*", text))


@pytest.fixture(scope="module")
def tool_options() -> dict[str, set[str]]:
    """The options of each tool beside main.py, as its --help lists them."""
    found = {}
    for tool in TOOLS:
        shown = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            patch.setattr(sys, "argv", [tool, "--help"])
            importlib.import_module(tool).main()
        found[tool] = options_in(shown.getvalue())
    return found


def commands(text: str) -> list[list[str]]:
    """The words of every line of the bash blocks that runs a program of ours, from the program on."""
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in line.split("#")[0].split("&&")]
    words = [shlex.split(part.replace("<name>", "Name")) for part in parts]
    return [line[1:] for line in words if line[:1] == ["python"] and line[1:2] != ["-m"]] + [
        line[2:] for line in words if line[:2] == ["python", "-m"]
    ]


@each_page
def test_options_exist(page, tool_options):
    known = options_in(options.build_parser().format_help()).union(OF_OTHER_PROGRAMS, *tool_options.values())
    known |= set(re.findall(r'^\+.*\badd\("(--\w+)"', page.read_text(), re.MULTILINE))  # which a diff there adds
    assert options_in(page.read_text()) <= known


@each_page
def test_commands_are_accepted(page, tool_options):
    for program, *words in commands(page.read_text()):
        tool = program.removesuffix(".py").replace("/", ".")
        if tool == "main":
            options.parse_options(words)  # a refused command line ends in SystemExit
        elif tool in TOOLS:
            assert options_in(" ".join(words)) <= tool_options[tool], program
        else:
            assert tool in ("pytest", "venv"), program


@each_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https:"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in slugs, target


@each_page
def test_files_of_the_repository_exist(page):
    for name in re.findall(r"`([\w./-]+\.(?:py|md))`", page.read_text()):
        assert (ROOT / name).exists() or (page.parent / name).exists(), name


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_the_map_has_every_room(page):
    text = (ROOT / page).read_text()
    folders = set(re.findall(r"`([\w./-]+/)`", text))
    assert not [name for name in folders if not (ROOT / name).is_dir()]
    rows = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    named = {name.split("/")[0] for name in re.findall(r"`([\w./-]+)`", rows)}
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {path.name for path in ROOT.glob("*.py")}
    assert rooms <= named


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text()) < 14_000


def test_continuous_integration_runs_the_quick_start():
    script = (ROOT / ".ci" / "run").read_text()
    for command in (
        "pip install -r requirements.txt && python main.py --run_type train --dataset_name Demo",
        "pip install -r requirements-dev.txt",
        "python -m pytest",
    ):
        assert command in script
        assert command in (ROOT / "README.md").read_text()
