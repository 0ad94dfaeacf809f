"""Files from elsewhere never run code; files of ours appear whole or not at all."""

import builtins
import codecs
import os
import pickle
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from building import batch_of

from dataset import Batch
from model import NetworkSettings, build_network, scores
from readers.arrays import read_array
from readers.checkpoints import load_weights
from readers.facts import WeightsRecord
from readers.free_memory import free_memory
from readers.names import Spellings, readable_name
from runs.console import in_utf8
from runs.weights import save_weights
from utils import (
    InputError,
    SideStream,
    has_control_characters,
    is_finite_number,
    is_plain_name,
    keep_previous,
    pick_device,
    to_number,
    to_time,
    whole_file,
)


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def npy(path, payload, shape=(1,)):
    """An object array file around any pickle."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": shape})
        file.write(payload)
    return path


CALLS = [
    Call(os.system, "touch owned"),
    Call(builtins.eval, "open('owned', 'w')"),
    Call(builtins.exec, "open('owned', 'w')"),
    Call(builtins.getattr, "", "join"),
    Call(subprocess.Popen, ["touch", "owned"]),
    Call(np.load, "owned"),
    Call(np.memmap, "owned", "uint8", "w+", 0, (10,)),
    Call(codecs.decode, "bmFtZQ==", "base64"),
    Call(torch.load, "owned"),
    Call(open, "owned", "w"),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.function.__name__)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickles_that_call_anything_are_refused(tmp_path, monkeypatch, call, protocol):
    monkeypatch.chdir(tmp_path)
    array = np.empty(1, dtype=object)
    array[0] = call
    for payload in (pickle.dumps(call, protocol), pickle.dumps(array, min(protocol, 4))):
        with pytest.raises(InputError, match=r"x.npy: refused .*code"):
            read_array(npy(tmp_path / "x.npy", payload))
        assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def test_refusal_names_the_file_and_the_name(tmp_path):
    with pytest.raises(InputError, match=r"x.npy: refused .*posix.system"):
        read_array(npy(tmp_path / "x.npy", pickle.dumps(Call(os.system, "true"))))


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"  # an array, before its state


@pytest.mark.parametrize(
    "payload",
    [
        # take bytes of the file for pointers to Python objects
        b"cnumpy\ndtype\n(S'V8'\ntR(I3\nS'|'\nN(S'a'\nt(dS'a'\n(cnumpy\ndtype\n(S'O8'\ntRI0\ntsI8\nI1\nI0\ntb.",
        ARRAY + b"(I1\n(I1\ntcnumpy\ndtype\n(S'V8'\ntRI00\nS'AAAAAAAA'\ntb.",
        ARRAY + b"(I1\n(I1\ntcnumpy\ndtype\n(S'O8'\ntRI00\nS'AAAAAAAA'\ntb.",
        # read past the end of a list, or of the data
        ARRAY + b"(I1\n(I5000\ntcnumpy\ndtype\n(S'O8'\ntRI00\n(lS'Jump'\natb.",
        ARRAY + b"(I1\n(I5000\ntcnumpy\ndtype\n(S'f8'\ntRI00\nS'AAAAAAAA'\ntb.",
        ARRAY + b"(I1\n(I-1\ntcnumpy\ndtype\n(S'O8'\ntRI00\n(ltb.",
        # change the reader's own functions for the next file
        b"cnumpy\ndtype\n(N(dV__defaults__\n(I1\nI2\ntstb.",
        b"cnumpy\ndtype\n(V__call__\nNtb.",
        b"Nr\xff\xff\xff\x7f.",  # number an object two thousand million
        b"]" + b"(2222222222l" * 8 + b".",  # duplicate lists within lists
        b"cnumpy\nndarray\n(I1000000000000\ntR.",  # allocate a terabyte by calling ndarray
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I1000000000000\ntS'b'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'V1000000000000'\ntR.",
        b"c_codecs\nencode\n(VZm9v\nVbase64\ntR.",
        b"cnumpy\nndarray\n.",
        b"(lp0\n.",
        b"",
        b".",
        b"garbage",
    ],
)
def test_pickles_that_are_no_arrays(tmp_path, payload):
    with pytest.raises(InputError, match=r"x.npy"):
        read_array(npy(tmp_path / "x.npy", payload))
    good = np.empty(2, dtype=object)
    good[:] = [np.ones(3), ["text"]]
    np.save(tmp_path / "good.npy", good)
    assert read_array(tmp_path / "good.npy")[1] == ["text"]  # and the reader is as it was


def test_lists_that_share_lists_cost_no_more_than_the_file(tmp_path):
    """Each level refers ten times to the one below: a thousand million entries in a few hundred bytes."""
    array = np.empty(1, dtype=object)
    array[0] = []
    for _ in range(9):
        array[0] = [array[0]] * 10
    with pytest.raises(InputError, match=r"x.npy: .*arrays and lists"):
        read_array(npy(tmp_path / "x.npy", pickle.dumps(array, 2)))


def test_an_instruction_may_not_cross_its_frame(tmp_path):
    """The unpickler drops the rest of the frame there, and reads on at another place than a checker would."""
    inner = b"N" * 1000 + b"U\x64" + b"x" * 20  # a string of 100 bytes of which the frame holds 20
    payload = b"\x80\x04\x95" + len(inner).to_bytes(8, "little") + inner + b"y" * 80
    payload += b"B\x10\0\0\0" + b"z" * 15 + b"}" + b"."
    with pytest.raises(InputError, match=r"x.npy: .*frame"):
        read_array(npy(tmp_path / "x.npy", payload))


def test_one_long_text_again_and_again(tmp_path):
    text = b"c_codecs\nencode\nq\x01(X\x10\x27\0\0" + b"a" * 10_000 + b"X\x06\0\0\0latin1tq\x02R0"
    payload = b"\x80\x02]" + text.replace(b"R0", b"Ra") + b"h\x01h\x02Ra" * 1000 + b"."
    with pytest.raises(InputError, match=r"x.npy: .*text .*file"):
        read_array(npy(tmp_path / "x.npy", payload))


@pytest.mark.parametrize("order", ["<", ">"])
def test_text_that_is_no_unicode(tmp_path, order):
    bad = np.frombuffer(np.array([65, 0x110000], order + "u4").tobytes(), order + "U2")
    nested = np.empty(1, dtype=object)
    nested[0] = bad
    for array in (bad, nested):
        np.save(tmp_path / "x.npy", array)
        with pytest.raises(InputError, match=r"x.npy: .*Unicode"):
            read_array(tmp_path / "x.npy")


def test_strings_of_no_length_are_refused(tmp_path):
    with open(tmp_path / "x.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|S0", "fortran_order": False, "shape": (10**12,)})
    with pytest.raises(InputError, match=r"x.npy: .*kind of array"):
        read_array(tmp_path / "x.npy")


def test_arrays_keep_their_byte_order_and_layout(tmp_path):
    array = np.empty(3, dtype=object)
    array[:] = [
        np.arange(6.0).reshape(2, 3).astype(">f4"),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.ones((0, 2)),
    ]
    np.save(tmp_path / "x.npy", array)
    for found, expected in zip(read_array(tmp_path / "x.npy"), array, strict=True):
        assert found.dtype == expected.dtype and found.shape == expected.shape and (found == expected).all()
    assert np.dtype("f4").isnative  # the file's byte order stayed in the file


def test_object_arrays_read_back(tmp_path):
    array = np.empty(3, dtype=object)
    array[:] = [
        np.arange(6.0).reshape(2, 3),
        [b"bytes", "text", 1, 2.5, None, True],
        np.array([np.float32(1.5), "x"], dtype=object),
    ]
    np.save(tmp_path / "x.npy", array)
    for protocol in (2, 3, 4):
        npy(tmp_path / f"{protocol}.npy", pickle.dumps(array, protocol), shape=(3,))
    for path in tmp_path.glob("*.npy"):
        found = read_array(path)
        assert (found[0] == array[0]).all() and found[1] == array[1] and list(found[2]) == list(array[2])


def test_python_2_strings_are_bytes(tmp_path):
    payload = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    payload += b"(I1\n(I1\ntcnumpy\ndtype\n(S'O8'\nI0\nI1\ntRI00\n(lS'Jump'\natb."
    assert read_array(npy(tmp_path / "x.npy", payload)).tolist() == [b"Jump"]


@pytest.mark.parametrize("keep", [0, 5, 60, 130, 200])
def test_truncated_files(tmp_path, keep):
    array = np.empty(2, dtype=object)
    array[:] = [np.ones((4, 4)), [1, 2]]
    for name, value in (("object.npy", array), ("plain.npy", np.ones((5, 5)))):
        np.save(tmp_path / name, value)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:keep])
        with pytest.raises(InputError, match=name):
            read_array(tmp_path / name)


def test_a_header_may_not_promise_more_than_the_file_holds(tmp_path):
    with open(tmp_path / "x.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    with pytest.raises(InputError, match=r"x.npy: .*ends before"):
        read_array(tmp_path / "x.npy")


def test_missing_array(tmp_path):
    with pytest.raises(InputError, match=r"x.npy: no such file"):
        read_array(tmp_path / "x.npy")


# ------------------------------------------------------------------------------------------- checkpoints


def small(**options):
    return build_network(NetworkSettings(**{"feature_size": 4, "num_class": 3} | options))


def test_weights_survive_the_file(tmp_path):
    model, other = small(), small()
    save_weights(model.state_dict(), tmp_path / "w.pkl", WeightsRecord())
    load_weights(other, tmp_path / "w.pkl")
    for name, value in model.state_dict().items():
        assert name.startswith("prop_fused_backbone.") and torch.equal(other.state_dict()[name], value)


@pytest.mark.parametrize("new_format", [True, False])  # that of PyTorch since 1.6, and the one before
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "state_dict": state},
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {f"module.{name}": torch.nn.Parameter(value.double()) for name, value in state.items()},
    ],
)
def test_weights_of_other_programs(tmp_path, wrap, new_format):
    model, other = small(), small()
    torch.save(wrap(model.state_dict()), tmp_path / "w.pkl", _use_new_zipfile_serialization=new_format)
    load_weights(other, tmp_path / "w.pkl")
    assert all(torch.equal(other.state_dict()[name], value) for name, value in model.state_dict().items())


def test_state_dict_is_the_releases(parity):
    names = {name.removeprefix("state.") for name in np.load(parity / "network.npz").files if name.startswith("state.")}
    state = small(feature_size=16, num_class=20).state_dict()
    assert set(state) == names
    assert state["prop_fused_backbone.prop_classifier.0.weight"].shape == (8, 16, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda: small(num_class=5).state_dict(),
            r"prop_classifier.2.weight .*\[6, 2, 1\].*\[4, 2, 1\].*number of classes",
        ),
        (lambda: small(feature_size=8).state_dict(), r"prop_fusion.0.weight .*\[8, 24\].*feature width"),
        (lambda: {"a": torch.zeros(1)}, r"parameters a, prop"),
        (lambda: {"epoch": 3}, r"not a state dict"),
        (lambda: {k: v.to_sparse() for k, v in small().state_dict().items()}, r"sparse"),
        (lambda: {k: v.to(torch.complex64) for k, v in small().state_dict().items()}, r"prop_fusion.0.weight "),
        (lambda: {k: v * torch.nan for k, v in small().state_dict().items()}, r"prop_fusion.0.weight .*finite"),
        (lambda: [1, 2], r"not a state dict"),
        (lambda: Call(os.system, "true"), r"readable checkpoint"),
    ],
)
def test_wrong_checkpoints(tmp_path, content, message):
    torch.save(content(), tmp_path / "w.pkl")
    with pytest.raises(InputError, match=r"w.pkl: .*" + message):
        load_weights(small(), tmp_path / "w.pkl")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text"])
def test_broken_checkpoints(tmp_path, content):
    (tmp_path / "w.pkl").write_bytes(content)
    with pytest.raises(InputError, match=r"w.pkl: .*readable checkpoint"):
        load_weights(small(), tmp_path / "w.pkl")


def test_evaluation_leaves_the_training_mode():
    model = small().train()
    first, second = (scores(model, batch_of(torch.ones(5, 3, 4)))["fused"] for _ in range(2))
    assert model.training and torch.equal(first, second) and not first.requires_grad


# ------------------------------------------------------------------------------------------------ writing


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    with whole_file(path) as file:
        file.write("first")
    with pytest.raises(RuntimeError), whole_file(path) as file:
        file.write("second")
        raise RuntimeError("interrupted")
    assert path.read_text() == "first" and [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "cpu:x", "meta"])
def test_unusable_devices(name):
    with pytest.raises(InputError, match=f"--device {name}"):
        pick_device(name)


def test_names_of_files_are_utf8_in_any_locale(monkeypatch):
    """By hand: every run type finds é.npy and 跳.npy with LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0."""
    started = []
    monkeypatch.setattr("os.execv", lambda *command: started.append(command))
    monkeypatch.setattr("sys.orig_argv", ["python", "main.py", "--run_type", "check"])
    monkeypatch.delenv("PYTHONUTF8", raising=False)
    in_utf8()
    assert not started
    monkeypatch.setenv("PYTHONUTF8", "0")
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "iso8859-1")
    in_utf8()
    in_utf8()  # once is enough, whatever it changed
    assert started == [(sys.executable, [sys.executable, "main.py", "--run_type", "check"])]
    assert os.environ["PYTHONUTF8"] == "1"


def test_plain_names():
    assert all(is_plain_name(name) for name in ("Demo", "ActivityNet1.3", "clip 1 é", "ダンス　1", "👩‍🚀", "日" * 66))
    assert not any(is_plain_name(name) for name in ("", ".", "..", "a/b", "a\\b", "a\nb", "a\0", "\ud800", "日" * 67))


@pytest.mark.parametrize(
    "text",
    [
        "Long Jump ",
        "Long\u00a0Jump",
        "\tLong \u3000 Jump\r\n",
        "Lo\u200bng Jump\ufeff",
        "Long \u200dJu\u00admp",
        "\u202aLong Jump\u202c",
        "\u200eLong Jump \u200f",
    ],
    ids=ascii,
)
def test_names_that_look_the_same_are_the_same(text):
    assert readable_name(text) == "Long Jump"


def test_readable_names():
    assert readable_name("cafe\u0301") == "caf\u00e9" and readable_name("\u30cf\u309a") == "\u30d1"
    same = ("Jump", "jump", "\u8df3", "a\nb", "\u202eabc", "a\u200eb", "\x1b[31m", "\ud800", "")
    joined = (
        "\u0646\u0645\u06cc\u200c\u062f\u0627\u0646\u0645",
        "\u0915\u094d\u200d\u0937",
        "\U0001f469\u200d\U0001f680",
        "\u2764\ufe0f\u200d\U0001f525",
    )
    assert all(readable_name(text) == text for text in (*same, *joined))
    assert readable_name("\u8df3\u200d\u8dc3") == "\u8df3\u8dc3" and readable_name(joined[0] + "\u200c") == joined[0]
    assert all(map(has_control_characters, ("a\nb", "\u202eabc", "a\u200eb")))


def test_spellings_are_told_apart():
    labels = Spellings("labels")
    for text in (*["Throw"] * 39, "Throw ", "Jump", "jump"):
        labels.read(text)
    ((kind, details),) = labels.notices().items()
    assert kind.startswith("labels that differ only in blanks") and details == ["'Throw ' and 'Throw' (1 of 40)"]
    subsets = Spellings("subsets", any_case=True)
    assert [subsets.read(text) for text in ("test", "Test\u00a0", "Test", "train")] == ["test", "Test", "Test", "train"]
    assert subsets.usual() == {"test": "test", "Test": "test", "train": "train"}
    assert list(subsets.notices().values()) == [["'test' and 'Test\\xa0' and 'Test' (2 of 3)"]]


@pytest.mark.parametrize("value", ["18.6", " 18.6\n", "1.86e1", b"18.6", np.float32(18.6), np.str_("+18.6")], ids=repr)
def test_numbers_as_text(value):
    assert to_number(value) == to_time(value) == pytest.approx(18.6)


@pytest.mark.parametrize(
    "value", ["", "1_0", "0x10", "1,5", "nan", "1e999", "\u0663", True, np.True_, None, [1], b"\xff"]
)
def test_no_numbers(value):
    assert to_number(value) is None


def test_finite_numbers():
    assert all(is_finite_number(value) for value in (0, -1.5, 1e300))
    assert not any(is_finite_number(value) for value in (True, None, "1", float("nan"), float("inf"), 10**400))


def test_an_earlier_file_is_kept(tmp_path):
    path = tmp_path / "results.json"
    keep_previous(path)
    for text in ("first", "second", "third"):
        keep_previous(path)
        path.write_text(text)
    names = ("results.1.json", "results.2.json", "results.json")
    assert [(tmp_path / name).read_text() for name in names] == ["first", "second", "third"]


def test_auto_device_exists():
    assert torch.ones(1, device=pick_device("auto")).item() == 1


def test_free_memory(tmp_path):
    cpu = torch.device("cpu")
    assert free_memory(cpu, tmp_path) is None  # no Linux
    group = tmp_path / "sys/fs/cgroup/job"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:  9 kB\nMemAvailable:       8 kB\n")
    assert free_memory(cpu, tmp_path) == 8192
    (tmp_path / "proc/self/cgroup").write_text("1:memory:/old\n0::/job\n")
    (group / "memory.stat").write_text("file 7\nanon 1000\n")
    for limit, free in (("6000\n", 5000), ("max\n", 8192), ("100000\n", 8192)):
        (group / "memory.max").write_text(limit)
        assert free_memory(cpu, tmp_path) == free


def memory_of(root, own, groups, **more):
    """What is free by a made-up `/proc` and `/sys`: `groups` has the files of each folder below `sys/fs/cgroup`."""
    (root / "proc/self").mkdir(parents=True)
    for name, text in {"meminfo": "MemAvailable: 80 kB\n", "self/cgroup": own, **more}.items():
        (root / "proc" / name).write_text(text)
    for folder, files in groups.items():
        group = root / "sys/fs/cgroup" / folder
        group.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (group / f"memory.{name}").write_text(f"{text}\n")
    return free_memory(torch.device("cpu"), root)


UNLIMITED = 9223372036854771712  # as version 1 writes it
V2_JOB = {"": {}, "slurm": {"max": "max"}, "slurm/job": {"max": 5000, "stat": "file 7\nanon 1000"}}
V1_JOB = {
    "memory/slurm/uid_0/job_1": {"limit_in_bytes": 5000, "stat": "cache 7\nrss 1\ntotal_rss 1000"},
    "memory/slurm/uid_0/job_1/step_0/task_0": {"limit_in_bytes": UNLIMITED, "stat": "total_rss 900"},
}
IN_DOCKER = "36 32 0:33 /docker/abc /sys/fs/cgroup/memory ro,nosuid master:15 - cgroup cgroup rw,memory\n"


@pytest.mark.parametrize(
    ("own", "groups", "more", "free"),
    [
        ("0::/slurm/job/step_0/user/task_0", V2_JOB | {"slurm/job/step_0/user/task_0": {"max": "max"}}, {}, 4000),
        ("9:cpu,memory:/slurm/uid_0/job_1/step_0/task_0\n0::/x", V1_JOB, {}, 4000),
        ("0::/", {"": {"max": 5000}}, {}, 5000),  # a container, without statistics
        ("0::/../..", {"": {"max": 5000}, "../..": {"max": 1}}, {}, 5000),  # outside of the namespace
        ("0::/a", {"a": {"max": "max", "high": 3000, "swap.max": 1, "stat": "anon 500\nshmem 500"}}, {}, 2000),
        ("0::/a", {"a": {"max": 5000, "stat": "anon 6000"}}, {}, 0),
        ("3:memory:/docker/abc\n", {"memory": {"limit_in_bytes": 5000}}, {}, 5000),
        # a group of one's own within a container, whose path the mount shortens
        ("3:memory:/docker/abc/a\n", {"memory/a": {"limit_in_bytes": 5000}}, {"self/mountinfo": IN_DOCKER}, 5000),
        ("3:memory:/a\n", {"memory/a": {"stat": "hierarchical_memory_limit 5000\ntotal_rss 1000"}}, {}, 4000),
        # version 2 without memory beside version 1, and mounted in another place
        ("3:memory:/a\n0::/b", {"unified/b": {}, "memory/a": {"limit_in_bytes": 5000}}, {}, 5000),
        (
            "0::/a",
            {"../elsewhere/a": {"max": 5000}},
            {"self/mountinfo": "29 23 0:26 / /sys/fs/elsewhere rw - cgroup2 cgroup2 rw,nsdelegate\n"},
            5000,
        ),
        ("7:devices:/a\n5:name=systemd:/a\n", {"a": {"max": 5000}}, {}, 81920),
    ],
)
def test_a_memory_limit_of_any_group_above_counts(tmp_path, own, groups, more, free):
    """Batch systems set it on the job, and the group of the process itself says `max`, or more than there is."""
    assert memory_of(tmp_path, own, groups, **more) == free


def test_the_limits_of_the_process_itself_count(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    status = {"self/status": "VmSize:\t 5 kB\nVmData:\t 2 kB\n"}
    assert memory_of(tmp_path, "", {}, **status) == 81920
    for limit, free in ((resource.RLIMIT_AS, 10_000 - 5120), (resource.RLIMIT_DATA, 10_000 - 2048)):
        limits = {limit: (10_000, 10_000)}
        monkeypatch.setattr("resource.getrlimit", lambda which, limits=limits: limits.get(which, (-1, -1)))
        assert free_memory(torch.device("cpu"), tmp_path) == free


def test_work_beside_that_of_a_gpu_is_handed_over(monkeypatch):
    """Without one: what was there is waited for, and the user of a result waits for it and says that it uses it."""
    said = []

    class Stream:
        def __init__(self, name="side"):
            self.name = name

        def __getattr__(self, method):
            return lambda *args: said.append((self.name, method, *args)) or f"{method} of {self.name}"

    steps = Stream("steps")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext(said.append((stream.name, "entered"))))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: steps)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: said.append((stream.name, tensor.item())))
    stream = SideStream(torch.device("cuda"))
    batch = Batch([0], [1], torch.tensor(1.0), torch.tensor(2.0), (torch.tensor(3.0), [4]), torch.tensor(5.0))
    made = stream.make(lambda: batch)
    assert said == [("side", "wait_stream", steps), ("side", "entered"), ("side", "record_event")]
    assert stream.take(*made) is batch
    assert said[3] == ("steps", "wait_event", "record_event of side")
    assert said[4:] == [("steps", 1.0), ("steps", 2.0), ("steps", 3.0), ("steps", 5.0)]


def test_free_memory_of_a_gpu_counts_what_pytorch_keeps_for_later(monkeypatch):
    for name, value in (("mem_get_info", (100, 900)), ("memory_reserved", 50), ("memory_allocated", 20)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_memory(torch.device("cuda")) == 130
