"""Malicious files: each is refused with a message of one line, and no code from it runs.

Pickles stand in object arrays and in checkpoints; archives and headers promise more than they hold; names would leave
their folder or steer a terminal.
"""

import io
import json
import os
import pickle
import re
import shutil
import subprocess
import zipfile

import numpy as np
import pandas as pd
import pytest
import reader_cases as readers
import torch
from building import proposals_of
from watch import MEMORY_IS_KNOWN, watching

from eval.postprocess import PostProcess, overlaps_ambiguous
from eval.recall import average_recall
from proposals import roi_pool, tiou
from readers.annotations import read_annotations
from readers.arrays import read_archive, read_array
from readers.checkpoints import load_weights, read_checkpoint
from readers.features import Features
from readers.result_files import MAX_PER_VIDEO, parse_results
from utils import InputError, has_control_characters, printable, read_json

# What pickles call in the wild, or could: module, name, and the arguments as pickle text.
CALLS = [
    *(
        ("os", "system", "S'touch owned'\n"),
        ("posix", "system", "S'touch owned'\n"),
        ("nt", "system", "S'touch owned'\n"),
    ),
    ("os", "execl", "S'/bin/touch'\nS'touch'\nS'owned'\n"),
    ("os", "unlink", "S'owned'\n"),
    ("builtins", "eval", 'S\'open("owned","w")\'\n'),
    ("builtins", "exec", 'S\'open("owned","w")\'\n'),
    ("builtins", "compile", "S'1'\nS'x'\nS'eval'\n"),
    ("builtins", "__import__", "S'os'\n"),
    ("builtins", "getattr", "S'x'\nS'__class__'\n"),
    ("builtins", "setattr", "S'x'\nS'y'\nI1\n"),
    ("builtins", "open", "S'owned'\nS'w'\n"),
    ("builtins", "bytearray", "I100000000000\n"),
    ("builtins", "range", "I100000000000\n"),
    ("builtins", "map", "S'x'\nS'y'\n"),
    ("builtins", "type", "S'x'\n"),
    ("__builtin__", "eval", "S'1'\n"),
    ("__builtin__", "file", "S'owned'\nS'w'\n"),
    ("__main__", "main", ""),
    ("commands", "getoutput", "S'touch owned'\n"),
    ("subprocess", "Popen", "(lp0\nS'touch'\naS'owned'\na"),
    ("subprocess", "check_output", "(lp0\nS'touch'\naS'owned'\na"),
    ("pty", "spawn", "S'touch owned'\n"),
    ("runpy", "run_path", "S'owned'\n"),
    ("runpy", "_run_code", "S'1'\n"),
    ("code", "interact", ""),
    ("pdb", "run", "S'1'\n"),
    ("cProfile", "run", "S'1'\n"),
    ("timeit", "timeit", 'S\'open("owned","w")\'\n'),
    ("trace", "Trace", ""),
    ("bdb", "Bdb", ""),
    ("imp", "load_source", "S'x'\nS'owned'\n"),
    ("importlib", "import_module", "S'os'\n"),
    ("ctypes", "CDLL", "N"),
    ("socket", "create_connection", "(S'localhost'\nI80\nt"),
    ("urllib.request", "urlopen", "S'http://localhost/'\n"),
    ("webbrowser", "open", "S'http://localhost/'\n"),
    ("shutil", "rmtree", "S'.'\n"),
    ("tempfile", "mkstemp", ""),
    ("pathlib", "Path", "S'owned'\n"),
    ("marshal", "loads", "S'x'\n"),
    ("pickle", "loads", "S'x'\n"),
    ("_pickle", "loads", "S'x'\n"),
    ("copyreg", "_reconstructor", "cbuiltins\nobject\ncbuiltins\nobject\nN"),
    ("copyreg", "__newobj__", "cbuiltins\nobject\n"),
    ("copyreg", "add_extension", "S'os'\nS'system'\nI1\n"),
    ("copy_reg", "_reconstructor", "c__builtin__\nobject\nc__builtin__\nobject\nN"),
    ("functools", "partial", "cos\nsystem\nS'touch owned'\n"),
    ("functools", "reduce", "cos\nsystem\n(lp0\n"),
    ("operator", "attrgetter", "S'system'\n"),
    ("operator", "methodcaller", "S'system'\nS'touch owned'\n"),
    ("types", "FunctionType", ""),
    ("types", "CodeType", ""),
    ("logging.config", "dictConfig", ""),
    ("numpy", "load", "S'owned'\n"),
    ("numpy", "fromfile", "S'/etc/passwd'\n"),
    ("numpy", "memmap", "S'owned'\nS'uint8'\nS'w+'\nI0\n(I10\nt"),
    ("numpy", "empty", "I100000000000\n"),
    ("numpy.testing", "rundocs", "S'owned'\n"),
    ("numpy.testing._private.utils", "runstring", 'S\'open("owned","w")\'\n'),
    ("numpy.testing._private.utils", "rundocs", "S'owned'\n"),
    ("numpy.distutils.exec_command", "exec_command", "S'touch owned'\n"),
    ("numpy.f2py", "compile", "S'x'\n"),
    ("numpy.f2py.crackfortran", "_eval_scalar", "S'1'\n(d"),
    ("numpy.lib.format", "read_array", "S'x'\n"),
    ("numpy.core.multiarray", "fromfile", "S'/etc/passwd'\n"),
    ("numpy.core.multiarray", "frombuffer", "S'x'\n"),
    ("numpy._core.multiarray", "_reconstruct.__globals__", ""),
    ("pandas", "read_pickle", "S'owned'\n"),
    ("pandas.io.pickle", "read_pickle", "S'owned'\n"),
    ("joblib", "load", "S'owned'\n"),
    ("torch", "load", "S'owned'\n"),
    ("torch", "Tensor", "I100000000000\n"),
    ("torch", "FloatTensor", "I100000000000\n"),
    ("torch.serialization", "load", "S'owned'\n"),
    ("torch.storage", "_load_from_bytes", "S'x'\n"),
    ("torch.storage", "UntypedStorage", "I100000000000\n"),
    ("torch.hub", "load", "S'x'\nS'y'\n"),
    ("torch.utils.cpp_extension", "load_inline", "S'x'\nS'y'\n"),
    ("torch.utils._config_module", "ConfigModule.load_config", "S'x'\n"),
    ("torch.utils.bottleneck.__main__", "run_cprofile", "S'1'\n(d(d"),
    ("torch._dynamo.guards", "GuardBuilder.get", "S'1'\n"),
    ("torch.fx.experimental.symbolic_shapes", "ShapeEnv.evaluate_guards_expression", "S'1'\n"),
    ("torch.jit.unsupported_tensor_ops", "execWrapper", "S'1'\n(d(d"),
    ("torch.nn.modules.linear", "Linear", "I100000\nI100000\n"),
    ("torch._utils", "_rebuild_sparse_tensor", "N(t"),
    ("torch._utils", "_rebuild_meta_tensor_no_storage", "N(tNN"),
    ("torch._utils", "_rebuild_wrapper_subclass", "N"),
    ("torch._utils", "_rebuild_device_tensor_from_numpy", "N"),
    ("torch._tensor", "_rebuild_from_type_v2", "cos\nsystem\nS'touch owned'\n(t(d"),
]


def protocol_0(module: str, name: str, arguments: str) -> bytes:
    return f"c{module}\n{name}\n({arguments}tR.".encode()


def on_the_stack(module: str, name: str, arguments: str) -> bytes:
    """The name is built on the stack, as in protocol 4."""
    texts = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name))
    return b"\x80\x04" + texts + b"\x93(" + arguments.encode() + b"tR."


def as_an_instance(module: str, name: str, arguments: str) -> bytes:
    return f"({arguments}i{module}\n{name}\n.".encode()


def as_a_new_object(module: str, name: str, arguments: str) -> bytes:
    return b"\x80\x02" + f"c{module}\n{name}\n({arguments}t\x81.".encode("latin1")


def in_a_state(module: str, name: str, arguments: str) -> bytes:
    """As the state that something harmless is given."""
    harmless = "cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    return f"{harmless}(I1\n(I1\ntcnumpy\ndtype\n(S'O8'\ntRI00\n(lc{module}\n{name}\n({arguments}tRatb.".encode()


def as_an_argument(module: str, name: str, arguments: str) -> bytes:
    return f"c_codecs\nencode\n(c{module}\n{name}\n({arguments}tRVlatin1\ntR.".encode()


FORMS = [protocol_0, on_the_stack, as_an_instance, as_a_new_object, in_a_state, as_an_argument]


def npy(payload: bytes) -> bytes:
    """An object array around any pickle."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    return file.getvalue() + payload


def checkpoint(payload: bytes, **members: bytes) -> bytes:
    """A file of torch.save around any pickle."""
    parts = {"data.pkl": payload, "byteorder": b"little", "version": b"3\n"} | members
    return readers.archived({f"archive/{name.replace('__', '/')}": content for name, content in parts.items()})


OLD_START = io.BytesIO()
for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):  # what files of PyTorch before 1.6 begin with
    pickle.dump(part, OLD_START, protocol=2)
OLD_START = OLD_START.getvalue()


def refused(path, read, content: bytes | None = None, message: str = "", most: int = 64 << 20) -> None:
    """Check that a reader refuses a file with one line that names it, and does nothing else."""
    if content is not None:
        path.write_bytes(content)
    with watching() as watched, pytest.raises(InputError) as error:
        read(path)
    assert not watched.seen
    text = str(error.value)
    assert str(path) in text and "\n" not in text and len(text) < 1000 and re.search(message, text), text
    if MEMORY_IS_KNOWN:
        assert watched.peak < most
    assert not (path.parent / "owned").exists()


def test_the_watch_notices(tmp_path):
    """The watch notices what readers must not do."""
    for harm in (
        lambda: subprocess.run(["true"], check=True),
        lambda: (tmp_path / "owned").write_text(""),
        lambda: exec("1"),  # noqa: S102
        lambda: os.system("true"),
        lambda: pickle.loads(b"cbuiltins\nlen\n."),
    ):
        with watching() as watched:
            harm()
        assert watched.seen
    with watching() as watched:
        np.ones(50 << 20, np.uint8)
        (tmp_path / "owned").read_text()
    assert not watched.seen and (not MEMORY_IS_KNOWN or 40 << 20 < watched.peak < 60 << 20)


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused_everywhere(tmp_path, payload: bytes) -> None:
    """A pickle is refused in object arrays and in checkpoints, of new and old formats."""
    refused(tmp_path / "x.npy", read_array, npy(payload))
    refused(tmp_path / "x.pkl", read_checkpoint, checkpoint(payload), "readable checkpoint")
    refused(tmp_path / "bare.pkl", read_checkpoint, payload, "readable checkpoint")
    refused(tmp_path / "old.pkl", read_checkpoint, OLD_START + payload, "readable checkpoint")
    refused(tmp_path / "bare.npy", read_array, payload)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call[0]}.{call[1]}")
def test_pickles_that_call_anything(tmp_path, call):
    refused_everywhere(tmp_path, protocol_0(*call))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("call", CALLS[::20], ids=lambda call: f"{call[0]}.{call[1]}")
def test_pickles_that_call_in_other_ways(tmp_path, call, form):
    refused_everywhere(tmp_path, form(*call))


def test_the_message_names_the_function(tmp_path):
    payload = protocol_0("os", "system", "S'touch owned'\n")
    refused(tmp_path / "x.npy", read_array, npy(payload), r"os\.system")
    refused(tmp_path / "x.pkl", read_checkpoint, checkpoint(payload), r"os\.system")
    refused(tmp_path / "old.pkl", read_checkpoint, OLD_START + payload, r"os\.system")


def tensor(numel: int = 4, size: int = 4, stride: int = 1, offset: int = 0, key: bytes = b"0") -> bytes:
    """The pickle of a tensor, as torch.save writes it."""

    def number(value: int) -> bytes:
        return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)

    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX" + len(key).to_bytes(4, "little") + key
    storage += b"X\x03\0\0\0cpu" + number(numel) + b"tQ"
    shape = number(offset) + number(size) + b"\x85" + number(stride) + b"\x85"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + shape + b"\x89ccollections\nOrderedDict\n)RtR."


NUMBERS = np.arange(4, dtype=np.float32).tobytes()


def test_a_valid_tensor_is_read(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(checkpoint(tensor(), data__0=NUMBERS))
    assert read_checkpoint(path).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "payload",
    [
        tensor(size=5),
        tensor(size=10**12),
        tensor(size=2, stride=10**12),
        tensor(size=10**12, stride=0),
        tensor(size=-1),
        tensor(offset=1),
        tensor(offset=-1),
        tensor(numel=5),
        tensor(numel=-4),
        tensor(numel=10**12),
        tensor(key=b"../../../etc/passwd"),
        tensor(key=b"1"),
        tensor().replace(b"FloatStorage", b"DoubleStorage"),
        b"\x80\x02" + b"]" * 50 + b"a" * 49 + b".",  # nested too deeply
    ],
)
def test_invalid_tensors(tmp_path, payload):
    refused(tmp_path / "x.pkl", read_checkpoint, checkpoint(payload, data__0=NUMBERS), "readable checkpoint")


def test_damaged_checkpoints(tmp_path):
    path = tmp_path / "x.pkl"
    weights = readers.saved(readers.network().state_dict())
    parts = readers.members(weights)
    flipped = bytearray(weights)  # a bit of the numbers, which PyTorch itself would not notice
    flipped[weights.index(next(content for name, content in parts.items() if "/data/" in name and content))] ^= 1
    refused(path, read_checkpoint, bytes(flipped), "checksum")
    for size in (0, 10, len(weights) // 2, len(weights) - 1):
        refused(path, read_checkpoint, weights[:size])
    refused(path, read_checkpoint, readers.archived({"a/data.pkl": b"N.", "b/other.pkl": b"N."}))
    refused(path, read_checkpoint, readers.archived({}))


def test_names_in_a_checkpoint_cannot_steer_a_terminal(tmp_path):
    path = tmp_path / "x.pkl"
    torch.save({"\x1b[31mred": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"x\.pkl: .*parameters .*red") as error:
        load_weights(readers.network(), path)
    assert "\x1b" not in printable(str(error.value)) and "\\x1b[31mred" in printable(str(error.value))


@pytest.mark.parametrize("of", ["arrays", "scalars", "texts", "lists"])
def test_short_pickles_with_large_content(tmp_path, of):
    """A few bytes ask for the same long object many times."""
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x01(cnumpy\nndarray\nq\x02(I0\ntS'b'\ntR"
    of_objects = b"(I1\n(I%d\ntcnumpy\ndtype\n(S'O8'\ntRq\x03I00\n" % 10_000
    payloads = {
        "arrays": b"\x80\x02]" + array + of_objects + b"](" + b"N" * 10_000 + b"eq\x04tba"
        + (b"h\x01(h\x02(I0\ntS'b'\ntR(I1\n(I10000\nth\x03I00\nh\x04tba") * 3_000,
        "scalars": b"\x80\x02]cnumpy.core.multiarray\nscalar\nq\x01cnumpy\ndtype\n(S'S900'\ntRq\x02U\xff" + b"x" * 255
        + b"q\x03" + b"h\x01(h\x02h\x03tRa" * 1000,
        "texts": b"\x80\x02]c_codecs\nencode\nq\x01X\x10\x27\0\0" + b"a" * 10_000 + b"q\x02U\x06latin1q\x03000"
        + b"h\x01(h\x02h\x03tRa" * 1000,
        "lists": b"\x80\x02](" + b"N" * 100 + b"e" + b"q\x01]" + b"(h\x01h\x01h\x01h\x01e" * 100,
    }  # fmt: skip
    refused(tmp_path / "x.npy", read_array, npy(payloads[of] + b"."))


def with_annotations(tmp_path, **arrays: bytes):
    """Write annotations with some files replaced."""
    reader = readers.all_readers(tmp_path, tmp_path / "none")["annotation folder"]
    reader.lay_out(tmp_path, {f"a/{name}.npy": content for name, content in arrays.items()})
    return tmp_path / "a"


def header(descr: str, shape: tuple) -> bytes:
    """A `.npy` file that ends after its header."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels", header("<U1", (3, 10**9, 0))),
        ("labels_all", readers.npy(readers.objects(np.array("Jump"), ["Jump"], []))),
        ("labels", readers.npy(readers.objects(["Jump"] * 60_000, [], []))),
        ("videoname", readers.npy(readers.objects("clip 1", readers.objects(*[[None] * 300] * 300), "v3"))),
        ("classlist", readers.npy(readers.objects("Jump", np.ones((2, 2))))),
        ("classlist", readers.npy(np.array(["x" * 100_000, "y"]))),
        ("duration", readers.npy(np.array([1.0, 1e300, 2.0]))),
        ("duration", readers.npy(np.array([1.0, np.inf, 2.0]))),
    ],
)
def test_invalid_annotations(tmp_path, name, content):
    folder = with_annotations(tmp_path, **{name: content})
    refused(folder / f"{name}.npy", lambda _: read_annotations(folder))


@pytest.mark.parametrize(
    "content",
    [header("<f8", (3, 10**9, 0)), readers.npy(readers.objects(np.empty((10**7, 0)), [[0, 1]], []))],
)
def test_huge_arrays_without_elements(tmp_path, content):
    refused(with_annotations(tmp_path, segments=content), read_annotations, None, "1 labels .*0 segments")


def test_one_list_many_times(tmp_path):
    """Three videos share a long list; each of them counts."""
    array = readers.objects(*[["Jump"] * 4000] * 3)
    folder = with_annotations(tmp_path, labels=readers.npy(array), segments=readers.npy(array))
    refused(folder / "labels.npy", lambda _: read_annotations(folder), None, "more entries than bytes")


def test_features_without_elements(tmp_path):
    path = tmp_path / "f.npy"
    refused(path, lambda path: Features(path, ["v1"]), header("<f4", (10**9, 0, 2)), "1000000000 videos")
    wide = readers.npy(readers.objects(np.ones((1, 8194), np.float16)))
    refused(path, lambda path: Features(path, ["v1"]).read(0), wide, "width 8194")


def test_long_proposals_are_pooled_a_few_at_a_time():
    """Each reads a hundred thousand samples; all at once would take gigabytes. The values are the same."""
    features = torch.randn(10_000, 2, generator=torch.Generator().manual_seed(0))
    segments = torch.tensor([[-80_000.0, 90_000.0]] * 100 + [[10.0, 20.0]]).double()
    with watching() as watched:
        pooled = roi_pool(features, segments)
    assert not MEMORY_IS_KNOWN or watched.peak < 400 << 20
    for i in (0, 99, 100):
        assert torch.equal(pooled[i], roi_pool(features, segments[i : i + 1])[0])


def test_tables_of_pairs_are_made_in_chunks():
    rng = np.random.default_rng(0)
    proposals, instances = (np.sort(rng.uniform(0, 1e5, (n, 2)), axis=1) for n in (20_000, 3_000))
    truth = pd.DataFrame({"video": "v", "start_sec": instances[:, 0], "end_sec": instances[:, 1]})
    with watching() as watched:
        table = average_recall({"v": proposals}, truth)
        overlaps_ambiguous(proposals, instances, 1.0)
    assert not MEMORY_IS_KNOWN or watched.peak < 400 << 20
    best = [tiou(instance, proposals).max() for instance in instances[:200]]
    some = average_recall({"v": proposals}, truth[:200])
    assert some.loc["all", 0.7] == np.mean(np.array(best) >= 0.7) and 0 < table.loc["all", 0.7] <= 1


def test_headers_of_arrays(tmp_path):
    good = readers.npy(np.ones((3, 4)))
    for old, new in (
        (b"(3, 4)", b"(3000000000000, 4)"),
        (b"(3, 4)", b"(-3, -4)"),
        (b"(3, 4)", b"'abc'"),
        (b"(3, 4)", b"((((((((((((((((((((((((((((((((((((((((3,4))"),
        (b"'<f8'", b"'|O'"),
        (b"'<f8'", b"'<M8[s]'"),
        (b"'<f8'", b"[('a', '|O')]"),
        (b"'<f8'", b"'|V8'"),
        (b"'<f8'", b"'<U999999999'"),
        (b"'<f8'", b"__import__('os').system('touch owned')"),
        (b"False", b"open('owned', 'w')"),
        (b"\x93NUMPY\x01", b"\x93NUMPY\x09"),
        (b"\x93NUMPY", b"NUMPY\x93"),
    ):
        assert old in good
        refused(tmp_path / "x.npy", read_array, good.replace(old, new))
        (tmp_path / "f").mkdir(exist_ok=True)
        (tmp_path / "f" / "v.npy").unlink(missing_ok=True)
        refused(tmp_path / "f" / "v.npy", lambda path: Features(path.parent, ["v"]).read(0), good.replace(old, new))


def test_archives_of_arrays(tmp_path):
    def read(path):
        return read_archive(path, "feature")

    path = tmp_path / "x.npz"
    header = readers.npy(np.ones((3, 4)))[:128]
    endless = header.replace(b"(3, 4)", b"(3, 400000000)") + bytes(1 << 20)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("feature.npy", "w") as file:
        for _ in range(600):
            file.write(bytes(1 << 20))
    refused(path, read, bomb.getvalue(), "629145600 bytes")
    refused(path, read, readers.archived({"feature.npy": endless}, zipfile.ZIP_DEFLATED), "ends before")
    refused(path, read, readers.archived({"feature.npy": npy(b"cos\nsystem\n(S'touch owned'\ntR.")}))
    refused(path, read, readers.archived({"feature.npy": header}, zipfile.ZIP_LZMA), "compression")
    refused(path, read, readers.archived({"\x1b[31m.npy": b""}), r"array .*feature\b")
    refused(path, read, b"PK\x05\x06" + bytes(18))


DEEP = 100_000


@pytest.mark.parametrize(
    "content",
    [
        b"[" * DEEP,
        b'{"results":' * DEEP,
        b'{"results": {"v": ' + b"[" * DEEP + b"]" * DEEP + b"}}",
        b'{"a": 1, "a": 2}',
        b'{"results": {"v": [{"segment": [' + b"9" * 5000 + b", 1]}]}}",
        b"\xff\xfe\x00",
        b"\x80\x04N.",
        b"",
        b"\x00" * 100,
    ],
)
def test_invalid_json(tmp_path, content):
    refused(tmp_path / "x.json", read_json, content, "readable JSON")


@pytest.mark.parametrize(
    "segment", ["[0, NaN]", "[0, Infinity]", "[0, 1e999]", "[0, 1e10]", "[-1e10, 0]", "[0, 1" + "0" * 400 + "]"]
)
def test_invalid_times(tmp_path, segment):
    content = f'{{"results": {{"v": [{{"segment": {segment}}}]}}}}'.encode()
    refused(tmp_path / "x.json", parse_results, content, "video v: .*segment")


def test_too_many_entries_of_a_video(tmp_path):
    entries = [{"segment": [0, 1]}] * (MAX_PER_VIDEO + 1)
    refused(
        tmp_path / "x.json", parse_results, json.dumps({"results": {"v": entries}}).encode(), "video v: 50001 segments"
    )


def test_many_proposals_need_no_table_of_pairs():
    """A table for 20,000 would take 3 GB; the result is the same as with a table."""
    rng = np.random.default_rng(0)
    logits, segments = rng.normal(size=(20_000, 4)), np.sort(rng.uniform(0, 1e6, (20_000, 2)), axis=1)
    with watching() as watched:
        found = PostProcess(threshold_cls=0, rate=1.0).detect(
            logits[:, :2], logits[:, 2], logits[:, 3], proposals_of(segments)
        )
    assert len(found.score) == 20_000
    assert not MEMORY_IS_KNOWN or watched.peak < 200 << 20


BAD_NAMES = [
    "",
    ".",
    "..",
    "../x",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "a\nb",
    "a\0b",
    "\x1b[31m",
    "\u202eabc",
    "\u2028",
    "x" * 201,
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_names_of_videos(tmp_path, name):
    database = {name: {"subset": "training", "annotations": [{"label": "Jump"}]}}
    message = "file name"
    refused(tmp_path / "a.json", read_annotations, json.dumps({"database": database}).encode(), message)
    reader = readers.all_readers(tmp_path, tmp_path / "none")["annotation folder"]
    reader.lay_out(tmp_path, {"a/videoname.npy": readers.npy(readers.objects("clip 1", name, "v3"))})
    message = "file name|expected text"
    refused(tmp_path / "a" / "videoname.npy", lambda path: read_annotations(path.parent), None, message)


@pytest.mark.parametrize("name", ["a\nb", "a\0b", "\x1b]0;owned\x07", "\u202eabc", "\x9b31m"], ids=repr)
def test_names_of_classes_and_in_results(tmp_path, name):
    entry = {"subset": "training", "annotations": [{"label": name}]}
    content = json.dumps({"database": {"v": entry}}).encode()
    refused(tmp_path / "a.json", read_annotations, content, "video v: .*annotations")
    refused(tmp_path / "a.json", read_annotations, content.replace(b"training", json.dumps(name)[1:-1].encode()))
    refused(tmp_path / "r.json", parse_results, json.dumps({"results": {name: []}}).encode(), "control characters")
    reader = readers.all_readers(tmp_path, tmp_path / "none")["annotation folder"]
    reader.lay_out(tmp_path, {"a/classlist.npy": readers.npy(np.array(["Jump", name + "x"]))})
    refused(tmp_path / "a" / "classlist.npy", lambda path: read_annotations(path.parent), None, "expected text")


def test_too_many_labels(tmp_path):
    database = {f"v{i}": {"subset": "training", "annotations": [{"label": str(i)}]} for i in range(20_000)}
    content = json.dumps({"database": database}).encode()
    refused(tmp_path / "a.json", read_annotations, content, "20000 classes .*20000 videos", most=256 << 20)


def test_messages_are_printable(run, tmp_path):
    """A message escapes the control characters of labels in a result file."""
    path = tmp_path / "d.json"
    label = "\x1b]0;owned\x07\u202e"
    path.write_text(json.dumps({"results": {"demo_test_0001": [{"segment": [0, 1], "score": 1, "label": label}]}}))
    argv = ("--run_type", "eval", "--dataset_name", "Demo", "--detections", path, "--exp_dir", tmp_path / "run")
    status, out, err = run(*argv)
    assert status == 2 and r"\x1b]0;owned\x07\u202e" in err
    assert not has_control_characters((out + err).replace("\n", ""))


def test_printable():
    text = "tab\tend\nescape\x1b bell\x07 return\r C1\x9b half\ud800 line\u2028 turned\u202e family 👩‍🚀 é 日"
    expected = r"escape\x1b bell\x07 return\r C1\x9b half\ud800 line\u2028 turned\u202e family 👩‍🚀 é 日"
    assert printable(text) == "tab\tend\n" + expected


def test_the_log_is_printable(run, tmp_path):
    status, out, err = run("--dataset_name", "Demo", "--device", "cpu\x1b[31m", "--exp_dir", tmp_path / "run")
    assert status == 2 and r"device: cpu\x1b[31m" in out and not has_control_characters((out + err).replace("\n", ""))


def test_a_name_cannot_add_a_line_to_what_check_prints(run, tmp_path):
    content = {"database": {"x\nerrors: 0, warnings: 0": 5, "v": {"subset": "training", "annotations": []}}}
    (tmp_path / "a.json").write_text(json.dumps(content))
    argv = ("--dataset_name", "Demo", "--annotations", tmp_path / "a.json", "--run_type", "check")
    status, out, _ = run(*argv)
    assert status == 1 and "\nerrors: 0" not in out and r"'x\nerrors: 0" in out


def test_only_valid_fields_of_proposals_are_copied(run_in, demo_home, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(demo_home, home)
    merged = {}
    for part in ("train", "test"):
        merged |= json.loads((home / "proposals4Thumos14" / f"Proposals_Demo_{part}.json").read_text())["results"]
    first = next(iter(merged.values()))
    first[0] |= {"score": 0.5, "label": "Jump", "extra": float("nan"), "deep": [[[[]]]]}
    argv = ("--run_type", "proposals", "--dataset_name", "Demo", "--proposals_from", "theirs.json")
    for wrong in ({"score": {"a": float("nan")}}, {"score": "high"}, {"score": None, "label": 7}):
        first[1] |= wrong
        (home / "theirs.json").write_text(json.dumps({"results": merged}))
        status, _, err = run_in(home)(*argv, "--proposals_root", "new")
        assert status == 2 and re.search(r"theirs.json: video \S+: (score|label) .* is not a ", err)
    first[1] |= {"label": None}
    (home / "theirs.json").write_text(json.dumps({"results": merged}))
    status, out, err = run_in(home)(*argv, "--proposals_root", "new")
    assert status == 0 and "theirs.json: videos with entries that have no score" in out, err
    copied = next(iter(parse_results(home / "new" / "Proposals_Demo_train.json").results.values()))
    assert copied[0].keys() == {"segment", "score", "label"} and copied[1].keys() == {"segment"}


def test_features_too_large_for_their_mean(run_in, demo_home, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(demo_home, home)
    path = home / "data" / "Demo" / "Demo-I3D-JOINTFeatures.npy"
    features = read_array(path)
    features[3] = np.full_like(features[3], 3e38)
    np.save(path, features)
    status, _, err = run_in(home)("--dataset_name", "Demo", "--run_type", "descriptors", "--overwrite")
    assert status == 2 and re.search("video demo_train_0004: features .*too large .*mean", err)


def test_a_lock_that_is_a_link(run, tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "victim")
    status, _, err = run("--dataset_name", "Demo", "--exp_dir", tmp_path / "run")
    assert status == 2 and "--exp_dir" in err and (tmp_path / "victim").read_text() == "mine"


def test_a_folder_where_a_file_should_be(run, tmp_path):
    (tmp_path / "run" / "opt.txt").mkdir(parents=True)
    status, _, err = run("--dataset_name", "Demo", "--exp_dir", tmp_path / "run")
    assert status == 2 and re.search(r"opt\.txt.*Is a directory", err) and "Traceback" not in err


@pytest.mark.parametrize("kind", ["array", "checkpoint", "proposals", "text"])
def test_hostile_files_stop_a_run_in_one_line(run_in, demo_home, tmp_path, kind):
    """Through the command line: status 2, one line, and no run folder."""
    home = tmp_path / "home"
    shutil.copytree(demo_home, home)
    run = run_in(home)
    argv = ["--dataset_name", "Demo", "--exp_dir", "run"]
    call = protocol_0("os", "system", "S'touch owned'\n")
    if kind == "array":
        (home / "data" / "Demo" / "Demo-Annotations" / "labels_all.npy").write_bytes(npy(call))
    elif kind == "checkpoint":
        (home / "w.pkl").write_bytes(checkpoint(call))
        argv += ["--run_type", "test", "--pretrained_ckpt", "w.pkl"]
    elif kind == "proposals":
        (home / "proposals4Thumos14" / "Proposals_Demo_test.json").write_bytes(b"[" * DEEP)
    else:
        (home / "data" / "Demo" / "Demo-Annotations" / "Ambiguous_test.txt").write_bytes(b"demo \x1b[31m nan\n")
    status, out, err = run(*argv)
    last = err.replace("\r", "\n").strip().splitlines()[-1]
    assert status == 2 and last.lstrip().startswith("error: ") and "Traceback" not in err
    assert not has_control_characters((out + last).replace("\n", ""))
    assert not (home / "owned").exists() and not (home / "run").exists()


def test_pickles_of_everyday_numpy_are_read(tmp_path):
    """Safety does not make the reader refuse common files."""
    array = readers.objects(np.float64(1.5), [np.int64(3), "text", b"bytes"], np.ones((2, 2), ">f4"))
    for protocol in (0, 1, 2, 3, 4):
        (tmp_path / "x.npy").write_bytes(npy(pickle.dumps(array, protocol)).replace(b"(1,)", b"(3,)"))
        found = read_array(tmp_path / "x.npy")
        assert found[0] == 1.5 and found[1] == [3, "text", b"bytes"] and (found[2] == 1).all()
