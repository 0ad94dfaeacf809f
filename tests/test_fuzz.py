"""Randomly damaged files: a reader accepts them or says in one line what is wrong, and does nothing else.

    python -m pytest tests/test_fuzz.py --hypothesis-profile long -s     # 20,000 inputs for each reader

No code runs, nothing is written, and memory stays near the size of the file.
"""

import copy
import json
import zipfile

import pytest
import reader_cases as readers
import watch
from hypothesis import event, given
from hypothesis import strategies as st

from utils import InputError

NAMES = [
    "annotation folder", "annotation file", "class list", "features in one array", "features of a video",
    "features of an extractor", "proposals", "detections", "descriptors", "weights", "record of weights", "resume file",
    "results", "metrics", "seeds", "real arrays", "real detections",
]  # fmt: skip

# fmt: off
TOKENS = [
    # of pickles
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"S'touch owned'\n", b"i__main__\nx\n", b"P1\n", b"(lp0\n", b"(", b"t",
    b"tR.",
    b"R", b"b", b"o", b"Q", b"0", b"1", b"2", b"}", b"]", b"N", b"\x81", b"\x88", b"\x92", b"\x93", b"h\x00", b"q\x00",
    b"j\xff\xff\xff\x7f", b"r\xff\xff\xff\x7f", b"B\xff\xff\xff\x7f", b"X\xff\xff\xff\xff", b"\x80\x05",
    b"\x95" + b"\xff" * 7 + b"\x7f", b"\x8e" + b"\xff" * 8, b"\x8a\xff" + b"\x01" * 255, b"I99999999999999999999\n",
    b"L" + b"9" * 5000 + b"L\n", b"G\x7f\xf0" + bytes(6), b"G\x7f\xf8" + bytes(6), b"cnumpy\nndarray\n",
    b"cnumpy\ndtype\n",
    b"c_codecs\nencode\n", b"cnumpy.core.multiarray\nscalar\n", b"cnumpy.core.multiarray\n_reconstruct\n",
    b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    # of the headers of arrays
    b"(10000000000000,)", b"(-1,)", b"(0,)", b"|O", b"<f8", b">f4", b"|V8", b"<U99999999", b"|S0", b"[('a','O')]",
    b"<M8",
    # of JSON and text
    b"[" * 3000, b'{"a":' * 3000, b"9" * 400, b"9" * 5000, b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e308",
    b"1e308",
    b"null", b"true", b"{}", b"[]", b'""', b'"../../x"', b'"/etc/passwd"', b'"\\u001b[31m"', b'"\\ud800"', b'"a\\nb"',
    b'"\\u0000"', b"\x1b[31m", b"\r", b"\n", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"nan", b"inf", "\u202e".encode(),
    "\u2028".encode(),
]
ODD = [
    None, True, False, 0, -1, 10**400, 1e308, -1e308, float("nan"), float("inf"), "", "x", "../../x", "/etc/passwd",
    "a\nb",
    "\x1b[31m", "\ud800", "\0", [], {}, [[]], [None], [0], [0, 1, 2], [1, 0], [[0, 1]], [float("nan"), 1],
    {"segment": [0, 1]}, {"segment": [0, 1], "label": "Jump", "score": float("inf")}, {"label": "\x1b[31m"},
    {"subset": "x"}, {"a": {"b": {"c": []}}},
]
# fmt: on
EDITS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1 << 20), st.integers(0, 1 << 20)), min_size=1, max_size=5)
peaks: dict[str, int] = {}


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    found = readers.all_readers(folder, readers.SHARED)
    for name, reader in found.items():
        reader.lay_out(folder / name)
        reader.read(folder / name)  # whole files are read; and what is imported when it is needed is imported here
    yield found
    for name, peak in peaks.items():
        print(f"{name}: at most {peak / 1e6:.0f} MB beyond what the process had")


@pytest.mark.parametrize("name", NAMES)
@given(which=st.integers(0, 99), how=st.integers(0, 3), edits=EDITS)
def test_damaged_files(name, everything, tmp_path_factory, which, how, edits):
    if name not in everything:
        pytest.skip(f"no real files in {readers.SHARED}")
    reader = everything[name]
    damaged = list(reader.files)[which % len(reader.files)]
    content = damage(damaged, reader.files[damaged], how, edits)
    folder = tmp_path_factory.getbasetemp() / "fuzzed" / name
    reader.lay_out(folder, {damaged: content})
    outcome = "read"
    with watch.watching() as watched:
        try:
            reader.read(folder)
        except InputError as error:
            outcome = "refused"
            message = str(error)
    assert not watched.seen
    if outcome == "refused":
        assert str(folder) in message and "\n" not in message and len(message) < 2000, message
    if watch.MEMORY_IS_KNOWN:
        assert watched.peak < 64 * len(content) + (64 << 20)
        peaks[name] = max(peaks.get(name, 0), watched.peak)
    event(f"{name}: {outcome}")


def damage(name: str, content: bytes, how: int, edits: list[tuple[int, int, int]]) -> bytes:
    """Damage a file: its bytes, or the members or values in it."""
    if how and name.endswith((".pkl", ".pt", ".npz")):
        parts = readers.members(content)
        part = list(parts)[edits[0][1] % len(parts)]
        if how == 1:
            part = next((own for own in parts if own.endswith("data.pkl")), part)
        parts[part] = edited(parts[part], edits)
        return readers.archived(parts, zipfile.ZIP_DEFLATED if how == 3 else zipfile.ZIP_STORED)
    if how and name.endswith((".json", ".jsonl")):
        lines = name.endswith("l")
        document = [json.loads(line) for line in content.splitlines()] if lines else json.loads(content)
        for _, place, value in edits:
            document = with_odd_value(document, place, copy.deepcopy(ODD[value % len(ODD)]))
        records = document if lines and isinstance(document, list) else [document]
        content = "".join(json.dumps(record) + "\n" for record in records).encode()
        return content if how < 3 else edited(content, edits[:1])
    return edited(content, edits)


def edited(content: bytes, edits: list[tuple[int, int, int]]) -> bytes:
    """Change, remove, repeat or insert some bytes."""
    for kind, place, value in edits:
        at, run = place % (len(content) + 1), 1 + value % 40
        before, rest = content[:at], content[at:]
        content = {
            0: lambda b, r, v: b + bytes([r[0] ^ (1 << v % 8)]) + r[1:] if r else b,
            1: lambda b, r, v: b + bytes([v % 256]) + r[1:],
            2: lambda b, r, v, n=run: b + r[n:],
            3: lambda b, r, v, n=run: b + r[:n] * (2 + v % 5) + r[n:],
            4: lambda b, r, v: b + TOKENS[v % len(TOKENS)] + r,
            5: lambda b, r, v: b,
            6: lambda b, r, v: b + (v << 43).to_bytes(8, "little") + r[8:],
            7: lambda b, r, v: b + (0xFFFFFFFF - v).to_bytes(4, "little") + r[4:],
            8: lambda b, r, v: b + TOKENS[v % len(TOKENS)] + r[len(TOKENS[v % len(TOKENS)]) :],
            9: lambda b, r, v, n=run: r[:n] + b + r[n:],
        }[kind](before, rest, value)
    return content


def with_odd_value(document, place, value):
    """Replace the `place`-th value of a JSON document."""
    nodes = []

    def visit(node, put):
        nodes.append(put)
        for key in [*node] if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            visit(node[key], lambda new, node=node, key=key: node.__setitem__(key, new))

    whole = [document]
    visit(document, lambda new: whole.__setitem__(0, new))
    nodes[place % len(nodes)](value)
    return whole[0]
