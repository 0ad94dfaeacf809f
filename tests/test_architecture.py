"""Which package may import which, and what each may hold; CONTRIBUTING.md says what the rooms are for."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
METHOD = ("dataset", "descriptors", "losses", "model", "proposals")
MAY_IMPORT = {
    "utils": (),
    "readers": ("utils",),
    "proposals": ("utils",),
    "descriptors": ("utils",),
    "model": ("dataset", "utils"),  # of dataset, the type of a batch
    "dataset": ("readers", "proposals", "utils"),
    "losses": ("dataset", "descriptors", "proposals", "utils"),  # of the first two, the types of its arguments
    "eval": ("proposals", "utils"),
    "options": ("eval", "utils"),  # of eval, its tables of protocols and of NMS
    "prepare": ("readers", *METHOD, "eval", "utils", "options"),
    "runs": ("prepare", "readers", *METHOD, "eval", "utils", "options"),
    "report": ("runs", "eval", "readers", "proposals", "utils", "options"),
}
MAY_IMPORT["main"] = tuple(MAY_IMPORT)
PRODUCT = sorted(
    path.relative_to(ROOT)
    for path in ROOT.rglob("*.py")
    if path.relative_to(ROOT).parts[0].removesuffix(".py") in MAY_IMPORT
)
HOMES = ("data", "proposals4Thumos14", "descriptors", "checkpoints")  # for the user's files


@cache
def tree(path):
    return ast.parse((ROOT / path).read_text())


def imported(path):
    """The dotted names of the modules that a file imports, also inside functions and for types only."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports in full"
            yield node.module


def files_that_import(name):
    return {str(path) for path in PRODUCT if any(module.split(".")[0] == name for module in imported(path))}


@pytest.mark.parametrize("path", PRODUCT, ids=str)
def test_a_room_imports_no_other_than_it_may(path):
    room = path.parts[0].removesuffix(".py")
    rooms = {module.split(".")[0] for module in imported(path)} & MAY_IMPORT.keys()
    assert rooms <= {room, *MAY_IMPORT[room]}


def test_matplotlib_is_for_reports():
    assert all(path.startswith("report/") for path in files_that_import("matplotlib"))


def test_datasets_and_weights_have_their_folders_to_themselves():
    assert not [path for name in HOMES for path in (ROOT / name).rglob("*.py")]


def test_no_line_names_cuda_as_the_device():
    assert not [path for path in PRODUCT if ".cuda(" in (ROOT / path).read_text()]


def test_namespaces_of_options_stop_at_main():
    """Everything else takes what it needs, typed."""
    naming = {
        str(path)
        for path in PRODUCT
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.Attribute) and node.attr == "Namespace")
        or (isinstance(node, ast.alias) and node.name == "Namespace")
    }
    assert naming == {"options.py"}
    with_options = {
        str(path)
        for path in PRODUCT
        if any(isinstance(node, ast.alias) and node.name == "Options" for node in ast.walk(tree(path)))
    }
    translators = {f"{room}.py" for room in ("runs/inputs", "runs/setup", "report/settings", "prepare/settings")}
    assert with_options == {"main.py", *translators}


def test_the_main_file_is_short():
    assert len((ROOT / "main.py").read_text().splitlines()) <= 320


def test_functions_fit_a_screen():
    functions = [
        (path, node)
        for path in PRODUCT
        for node in ast.walk(tree(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    assert not [f"{path}: {f.name}" for path, f in functions if f.end_lineno - f.lineno + 1 > 64]


def test_pre_commit_has_the_ruff_of_ci():
    pinned = re.search(r"^ruff==\S+$", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)[0]
    assert re.findall(r"ruff==[^\s\]]+", (ROOT / ".pre-commit-config.yaml").read_text()) == [pinned, pinned]
