"""Tuning logs: what is written is read back, and nothing is lost or believed that should not be."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import textwrap

import msgspec
import pytest
from tensordsl.autotune.records import Log, Problem, Record, logs
from tensordsl.autotune.workload import Workload, canonical_names, with_names, workload

import tensordsl as td
from tensordsl.errors import RecordError

TARGET = "x86_64-test"


def key(program: str = "p" * 16, sizes: tuple[int, ...] = (4, 8)) -> Workload:
    return Workload(program, "s" * 16, ("float32[4, 8]", "->", "float32[4]"), sizes, "x86_64-test")


def record(time_us: float = 2.0, **fields) -> Record:
    given = dict(
        operator="row_sum", workload=key(), toolchain="gcc 12.2", sketch="reduction", params={"tile": 4},
        trace=[["split", ["y", "i", 4], {}]], status="ok", samples_us=(time_us + 1, time_us), date="2026-01-01T00:00:00Z",
    )  # fmt: skip
    return Record(**{**given, **fields})


def matmul(m: int, k: int, n: int, names: str = "A B C r"):
    """The same program under other names of tensors and of one axis."""
    a, b, c, r = names.split()
    x = td.placeholder((m, k), name=a)
    w = td.placeholder((k, n), name=b)
    axis = td.reduce_axis(k, name=r)
    y = td.compute((m, n), lambda p, q: td.sum(x[p, axis] * w[axis, q], axis=axis), name=c)
    return td.Program([x, w], [y], name=f"{c}_kernel")


def test_round_trip(tmp_path):
    log = Log.of(tmp_path, key(), "row/sum")
    assert log.path == tmp_path / "x86_64-test" / "row_sum.jsonl"
    first, second = record(), record(3.0, kind="winner", gain=(1.5, 1.4, 1.6))
    log.append(first)
    log.append(second)
    assert log.read() == [first, second]
    assert log.check() == 2
    assert first.time_us == 2.0
    assert record(status="crash", samples_us=()).time_us == float("inf")
    assert [x.path for x in logs(tmp_path)] == [x.path for x in logs(tmp_path, "x86_64-test")] == [log.path]


def test_lines_are_plain_json(tmp_path):
    log = Log(tmp_path / "a.jsonl")
    log.append(record())
    line = json.loads(log.path.read_text())
    assert line["params"] == {"tile": 4}
    assert line["workload"]["shapes"] == ["float32[4, 8]", "->", "float32[4]"]


def test_torn_last_line_is_skipped_then_left_alone(tmp_path):
    log = Log(tmp_path / "torn.jsonl")
    log.append(record(1.0))
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=r"torn.jsonl:2: torn"):
        assert [r.time_us for r in log.read()] == [1.0]
    with pytest.raises(RecordError, match=r"torn.jsonl:2"):
        log.check()
    log.append(record(2.0))
    lines = log.path.read_bytes().splitlines()
    assert len(lines) == 3
    with pytest.warns(UserWarning, match="damaged"):
        assert [r.time_us for r in log.read()] == [1.0, 2.0]


def test_a_complete_last_line_without_newline_counts(tmp_path):
    log = Log(tmp_path / "a.jsonl")
    log.append(record(1.0))
    log.path.write_bytes(log.path.read_bytes().rstrip(b"\n"))
    log.append(record(2.0))
    assert [r.time_us for r in log.read()] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"samples_us": "fast"}, "not a record: Expected `array`"),
        ({"status": "fine"}, "not a record: Invalid enum value 'fine'"),
        ({"schema": 99}, "a newer version of tensordsl"),
        ({"schema": 0}, "an older version of tensordsl"),
        ({"schema": "1"}, "not a record"),
        ({"workload": None}, "not a record"),
    ],
)
def test_unusable_lines(tmp_path, change, reason):
    log = Log(tmp_path / "bad.jsonl")
    log.append(record(1.0))
    bad = {**json.loads(log.path.read_text()), **change}
    log.path.write_text(json.dumps(bad) + "\n")
    log.append(record(2.0))
    with pytest.warns(UserWarning, match="skipped"):
        assert [r.time_us for r in log.read()] == [2.0]
    with pytest.raises(RecordError) as caught:
        log.check()
    assert reason in str(caught.value)
    assert "bad.jsonl:1" in str(caught.value)


def test_unknown_fields_are_ignored(tmp_path):
    log = Log(tmp_path / "a.jsonl")
    log.append(record())
    log.path.write_text(json.dumps({**json.loads(log.path.read_text()), "weather": "mild"}) + "\n")
    assert log.read() == [record()]


def test_garbage_is_named_by_line(tmp_path):
    log = Log(tmp_path / "a.jsonl")
    log.path.write_bytes(b"\x00\xff\n\n[1,2]\n{}\n")
    found = list(log.scan())
    assert [p.line for p in found if isinstance(p, Problem)] == [1, 3, 4]


def test_only_lines_with_the_digest_are_read(tmp_path):
    log = Log(tmp_path / "a.jsonl")
    log.append(record(1.0))
    log.append(record(2.0, workload=key("q" * 16)))
    assert [r.time_us for r in log.read(containing="q" * 16)] == [2.0]


def test_times_that_cannot_be_are_no_records(tmp_path):
    log = Log(tmp_path / "a.jsonl")
    log.append(record())
    line = json.loads(log.path.read_text())
    log.path.write_text(json.dumps({**line, "samples_us": [-1.0]}) + "\n")
    with pytest.warns(UserWarning, match="not a record"):
        assert log.read() == []


def test_check_reads_the_schedules_too(tmp_path):
    log = Log(tmp_path / "a.jsonl")
    log.append(record())
    log.path.write_text("\n" + log.path.read_text())
    assert log.check() == 1
    log.append(record(trace={"a": 1}))
    with pytest.raises(RecordError, match=r"a.jsonl:3: not a schedule: a trace is a list of steps"):
        log.check()


def test_logs_of_one_target_and_one_file(tmp_path):
    log = Log.of(tmp_path, key(), "row_sum")
    log.append(record())
    for place in (tmp_path, log.path.parent, log.path):
        assert [x.path for x in logs(place)] == [log.path]


def test_missing_and_unreadable(tmp_path):
    assert Log(tmp_path / "none.jsonl").read() == []
    with pytest.raises(RecordError, match="cannot read"):
        Log(tmp_path).read()
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot write the tuning log"):
        Log(tmp_path / "file" / "a.jsonl").append(record())


def _append_many(path: str, who: int) -> None:
    for n in range(20):
        Log(path).append(record(float(who * 100 + n + 1)))


def test_processes_append_together(tmp_path):
    path = str(tmp_path / "a.jsonl")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append_many, args=(path, w)) for w in range(3)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    expected = {float(w * 100 + n + 1) for w in range(3) for n in range(20)}
    assert {r.time_us for r in Log(path).read()} == expected
    assert Log(path).check() == 60


def test_a_full_disk_leaves_no_half_record(tmp_path):
    """A limit on the file's size stands for the full disk: the write stops in the middle."""
    log = Log(tmp_path / "a.jsonl")
    log.append(record(1.0))
    size = log.path.stat().st_size
    program = textwrap.dedent(
        f"""
        import resource, signal, msgspec
        from tensordsl.autotune.records import Log, Record
        from tensordsl.errors import RecordError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 40}, {size + 40}))
        log = Log({str(log.path)!r})
        try:
            log.append(log.read()[0])
        except RecordError as error:
            print("refused", error.message)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "refused cannot write the tuning log" in done.stdout
    assert log.path.stat().st_size == size
    assert log.check() == 1


def test_workload_knows_structure_not_names():
    a = workload(matmul(64, 32, 16), TARGET)
    b = workload(matmul(64, 32, 16, "weights data result zz"), TARGET)
    c = workload(matmul(128, 32, 16), TARGET)
    assert a == b
    assert a.program != c.program and a.structure == c.structure
    assert a.same_conditions(c) and a.distance(c) == 2.0  # M is an extent of A and of C
    assert a.shapes == ("float32[64, 32]", "float32[32, 16]", "->", "float32[64, 16]")
    assert msgspec.json.decode(msgspec.json.encode(a), type=Workload) == a


def test_workload_tells_programs_apart():
    x = td.placeholder((8, 8), name="x")
    other = td.placeholder((8, 8), dtype="float64", name="x")

    def digest(t, build):
        return workload(td.Program([t], [td.compute((8, 8), build(t), name="y")]), TARGET).structure

    seen = {
        digest(x, lambda t: lambda i, j: t[i, j] + 1),
        digest(x, lambda t: lambda i, j: t[j, i] + 1),
        digest(x, lambda t: lambda i, j: t[i, j] * 2),
        digest(other, lambda t: lambda i, j: t[i, j] + 1),
        digest(x, lambda t: lambda i, j: t[i, (j + 1) % 8]),
    }
    assert len(seen) == 5


def test_canonical_names_line_up():
    a, b = matmul(4, 4, 4), matmul(4, 4, 4, "X Y Z t")
    assert canonical_names(a)[:2] == (("A",), ("B",))
    assert canonical_names(b)[2][0] == "Z"
    renamed = with_names(b, canonical_names(a))
    assert canonical_names(renamed) == canonical_names(a)
    assert str(renamed).splitlines()[1:] == str(a).splitlines()[1:]
    assert renamed.name == b.name
    assert workload(renamed, TARGET) == workload(a, TARGET)
