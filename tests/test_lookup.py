"""The ladder: exact record, nearest shape, the model's pick, the default; each says what it is."""

from __future__ import annotations

import warnings

import msgspec
import numpy as np
import pytest
from tensordsl.autotune import lookup
from tensordsl.autotune.builder import Builder
from tensordsl.autotune.cost_model import CostModel
from tensordsl.autotune.records import Log, Processor, Record
from tensordsl.autotune.space import DEFAULT, Candidate, Space
from tensordsl.autotune.workload import canonical_names, workload
from tensordsl.schedules.polyhedral.validate import find_violation

import tensordsl as td
from tensordsl import targets
from tensordsl.program import Program

TARGET = targets.target("avx2")


def scaled_sum(m: int, k: int, n: int, names: str = "x w y", renamed: bool = False) -> Program:
    a, b, c = names.split()
    x, w = td.placeholder((m, k), name=a), td.placeholder((k, n), name=b)
    r = td.reduce_axis(k, name="z" if renamed else "k")
    if renamed:
        y = td.compute((m, n), lambda u, v: td.sum(x[u, r] * w[r, v], axis=r), name=c)
    else:
        y = td.compute((m, n), lambda i, j: td.sum(x[i, r] * w[r, j], axis=r), name=c)
    return Program([x, w], [y], name="product")


def key_of(program: Program, **conditions):
    return workload(program, TARGET.id, **conditions)


def write(directory, program: Program, c: Candidate, time_us: float = 10.0, kind: str = "winner", **fields) -> Record:
    """A record as a search leaves it."""
    schedule = Builder(program, TARGET).schedule(c)
    given = dict(
        kind=kind, operator=program.name, workload=key_of(program), toolchain="gcc-test", processor=Processor(),
        names=canonical_names(program), sketch=c.sketch, params=dict(c.params), trace=schedule.trace.to_json(),
        status="ok", samples_us=(time_us,), date="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    record = Record(**{**given, **fields})
    Log.of(directory, record.workload, program.name).append(record)
    return record


def some_candidate(program: Program, number: int = 3) -> Candidate:
    space = Space(Builder(program, TARGET).sketches, seed=1)
    space.defaults()
    return [space.draw({}) for _ in range(number)][-1]


def find(program: Program, directory, **options) -> lookup.Found:
    return lookup.find(program, TARGET, key_of(program), directory, **options)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TD_CACHE_DIR", str(tmp_path / "cache"))


def test_default_without_records(tmp_path):
    found = find(scaled_sum(16, 16, 32), tmp_path / "logs")
    assert found.rung == "default" and found.record is None
    assert find_violation(found.schedule.nest) is None


def test_exact_record_is_replayed(tmp_path):
    program = scaled_sum(16, 16, 32)
    c = some_candidate(program)
    record = write(tmp_path, program, c)
    found = find(scaled_sum(16, 16, 32), tmp_path)
    assert (found.rung, found.record) == ("record", record)
    assert str(found.schedule.nest) == str(Builder(program, TARGET).schedule(c).nest)
    assert "record of 2026-01-01" in found.note


def test_a_schedule_comes_in_the_names_of_the_program(tmp_path):
    """Those of the record's operator that stand in the way give way."""
    write(tmp_path, scaled_sum(16, 16, 32), DEFAULT)  # makes y_acc and w_v
    program = scaled_sum(16, 16, 32, "w y_acc w_v", renamed=True)
    found = find(program, tmp_path)
    nest = found.schedule.nest
    assert [p.name for p in nest.parameters] == ["w", "y_acc", "w_v"]
    assert [t.name for t in nest.program.outputs] == ["w_v"] and found.schedule.program is nest.program
    assert find_violation(nest) is None
    assert lookup.foreign_names(found.record, program) == "x is w, w is y_acc, y is w_v, i is u, j is v, k is z"
    assert lookup.foreign_names(found.record, scaled_sum(16, 16, 32)) == ""


def test_names_that_a_schedule_would_make_may_be_taken():
    """The default schedule is the same whatever the tensors are called."""
    from tensordsl.schedules.default import default_schedule

    usual = default_schedule(scaled_sum(16, 16, 32), TARGET)
    for names in ("y_acc w y", "w_v w y", "x y_acc w_v"):
        other = default_schedule(scaled_sum(16, 16, 32, names), TARGET)
        assert [step.name for step in other.trace] == [step.name for step in usual.trace]

    def softmax(name: str, output: str) -> Program:
        x = td.placeholder((16, 200), name=name)
        y = td.ops.softmax(x)
        return Program([x], [td.compute((16, 200), lambda i, j: y[i, j], name=output)], name="rows")

    usual = default_schedule(softmax("x", "y"), TARGET)
    for names in (("y_inv", "y"), ("x_max_rf", "y"), ("x_sum_lanes", "y"), ("x_max", "y_inv")):
        other = default_schedule(softmax(*names), TARGET)
        assert [step.name for step in other.trace] == [step.name for step in usual.trace]


def test_names_do_not_matter(tmp_path):
    program = scaled_sum(16, 16, 32)
    write(tmp_path, program, some_candidate(program))
    other = scaled_sum(16, 16, 32, "left right out", renamed=True)
    found = find(other, tmp_path)
    assert found.rung == "record"
    assert find_violation(found.schedule.nest) is None
    from tensordsl.schedules.interpreter import interpret

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((16, 16)).astype("float32"), rng.standard_normal((16, 32)).astype("float32")
    out = interpret(found.schedule.nest, {"left": a, "right": b})["out"]
    np.testing.assert_allclose(out, a @ b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [{"threads": 2}, {"cache": "cold"}, {"exact": True}, {"target": "x86_64-v4-avx512"}, {"tolerance": 8.0}],
)
def test_the_key_is_matched_whole(tmp_path, change):
    program = scaled_sum(16, 16, 32)
    write(tmp_path, program, some_candidate(program), workload=msgspec.structs.replace(key_of(program), **change))
    assert find(program, tmp_path).rung == "default"


def test_last_winner_counts_and_own_compiler_comes_first(tmp_path):
    program = scaled_sum(16, 16, 32)
    c = some_candidate(program)
    write(tmp_path, program, c, 5.0)
    newer = write(tmp_path, program, DEFAULT, 9.0)
    own = write(tmp_path, program, c, 20.0, toolchain="clang-test")
    write(tmp_path, program, c, 1.0, kind="candidate")
    assert find(program, tmp_path, toolchain="gcc-test").record == newer
    assert find(program, tmp_path, toolchain="clang-test").record == own


def test_a_record_that_does_not_replay_gives_way_to_the_one_before(tmp_path):
    program = scaled_sum(16, 16, 32)
    good = write(tmp_path, program, some_candidate(program), 5.0)
    write(tmp_path, program, DEFAULT, 4.0, trace=[["no_such_step", [], {}]])
    with pytest.warns(UserWarning, match="is not used: there is no primitive"):
        found = find(program, tmp_path)
    assert (found.rung, found.record) == ("record", good)


def test_records_of_other_machines_serve_and_say_so(tmp_path):
    program = scaled_sum(16, 16, 32)
    own = lookup.processor(TARGET)
    assert own == lookup.processor(targets.target("native"))  # a target by its id is that of this machine
    c = some_candidate(program)
    write(tmp_path, program, c, 5.0, processor=Processor("Vendor", 1, 2, "other_lake"))
    found = find(program, tmp_path, toolchain="gcc-test")
    assert found.rung == "record" and found.time_us is None
    assert "5 us on other_lake)" in found.note
    mine = write(tmp_path, program, c, 9.0, processor=own)
    found = find(program, tmp_path, toolchain="gcc-test")
    assert (found.record, found.time_us) == (mine, 9.0)
    found = find(program, tmp_path, toolchain="clang-test")
    assert found.record == mine and "9 us with gcc-test)" in found.note and found.time_us is None


def test_the_default_of_the_nearest_shape_means_the_default_of_this_one(tmp_path):
    from tensordsl.schedules.default import default_schedule

    write(tmp_path, scaled_sum(32, 48, 64), DEFAULT)
    program = scaled_sum(33, 17, 29)
    found = find(program, tmp_path)
    assert found.rung == "nearest" and "where the default was best" in found.note
    assert str(found.schedule.nest) == str(default_schedule(program, TARGET).nest)


def test_a_search_that_was_cut_off(tmp_path):
    program = scaled_sum(16, 16, 32)
    c = some_candidate(program)
    default = write(tmp_path, program, DEFAULT, 10.0, kind="candidate")
    assert find(program, tmp_path).record == default
    write(tmp_path, program, c, 9.9, kind="candidate")
    assert find(program, tmp_path).record == default  # not clearly faster
    faster = write(tmp_path, program, c, 9.0, kind="candidate")
    assert find(program, tmp_path).record == faster


def test_nearest_shape(tmp_path):
    near, far = scaled_sum(32, 16, 32), scaled_sum(32, 256, 32)
    c = some_candidate(near)
    record = write(tmp_path, near, c)
    write(tmp_path, far, some_candidate(far))
    found = find(scaled_sum(64, 16, 32), tmp_path)
    assert (found.rung, found.record) == ("nearest", record)
    assert "as tuned for float32[32, 16]" in found.note
    assert find_violation(found.schedule.nest) is None


def test_shapes_far_away_or_of_another_kind_do_not_count(tmp_path):
    program = scaled_sum(512, 16, 2048)
    write(tmp_path, program, some_candidate(program))
    assert find(scaled_sum(16, 16, 32), tmp_path).rung == "default"
    other = Program(
        [x := td.placeholder((16, 16), name="x")], [td.compute((16, 16), lambda i, j: x[i, j] + 1, name="y")]
    )
    assert find(other, tmp_path).rung == "default"


@pytest.mark.parametrize(
    "trace",
    [
        [["split", ["y", "no_such_loop", 4], {}]],
        [["no_such_primitive", [], {}]],
        [["parallel", ["y", "k"], {}]],
        [["split", ["y", "i", {"hole": "mr"}], {}]],
        "nonsense",
        [["__class__", [], {}]],
        [["split", [3, None, {}], {"factor": "x"}]],
        [["split", ["y", "i", "four"], {}]],
        [["with_nest", [1], {}]],  # a method, not a primitive
    ],
)
def test_records_that_do_not_replay_are_not_used(tmp_path, trace):
    program = scaled_sum(16, 16, 32)
    write(tmp_path, program, DEFAULT, trace=trace)
    with pytest.warns(UserWarning, match="a record of 2026-01-01"):
        found = find(program, tmp_path)
    assert found.rung == "default"


def test_records_of_unknown_sketches_replay_by_their_trace(tmp_path):
    program = scaled_sum(16, 16, 32)
    write(tmp_path, program, some_candidate(program), sketch="a rule that is gone", params={"q": 1})
    assert find(program, tmp_path).rung == "record"
    assert find(scaled_sum(16, 16, 64), tmp_path).rung in ("nearest", "default")


class Partial(CostModel):
    """Prefers whatever is not the default."""

    def predict(self, features):
        return np.array([5.0] + [4.0 + 0.01 * n for n in range(len(features) - 1)])


def test_models_pick(tmp_path, monkeypatch):
    program = scaled_sum(32, 16, 64)
    monkeypatch.setattr(CostModel, "load", staticmethod(lambda path: Partial()))
    found = find(program, tmp_path)
    assert found.rung == "model"
    assert find_violation(found.schedule.nest) is None
    monkeypatch.setattr(Partial, "predict", lambda self, features: np.linspace(5.0, 5.1, len(features)))
    assert find(program, tmp_path).rung == "default"


def test_said_once_with_the_command(tmp_path, capsys):
    program = scaled_sum(16, 16, 48)
    key = key_of(program)
    found = find(program, tmp_path)
    lookup.announce(found, program, key)
    lookup.announce(found, program, key)
    said = capsys.readouterr().err
    assert said.count("tensordsl:") == 1
    assert "no record; the default schedule" in said and "tune" in said


def test_silence(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TD_QUIET", "1")
    program = scaled_sum(16, 16, 80)
    lookup.announce(find(program, tmp_path), program, key_of(program))
    assert capsys.readouterr().err == ""


def test_where_logs_are(tmp_path, monkeypatch):
    monkeypatch.delenv("TD_LOG_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    assert lookup.log_directory("given").name == "given"
    assert lookup.log_directory().name == "tuning_logs" and lookup.log_directory().is_absolute()
    (tmp_path / "tuning_logs").mkdir()
    assert str(lookup.log_directory()) == "tuning_logs"
    monkeypatch.setenv("TD_LOG_DIR", str(tmp_path / "elsewhere"))
    assert lookup.log_directory() == tmp_path / "elsewhere"


def test_logs_of_the_checkout_around_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("TD_LOG_DIR", raising=False)
    (tmp_path / "project" / "tuning_logs").mkdir(parents=True)
    (tmp_path / "project" / "examples" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "examples" / "deep")
    assert lookup.log_directory() != tmp_path / "project" / "tuning_logs"  # no checkout: not ours to take
    (tmp_path / "project" / ".git").mkdir()
    assert lookup.log_directory() == tmp_path / "project" / "tuning_logs"
    found = lookup.find(scaled_sum(4, 4, 4), TARGET, key_of(scaled_sum(4, 4, 4)), lookup.log_directory())
    assert f"(records are looked for in {tmp_path / 'project' / 'tuning_logs'})" in found.note


def test_damaged_logs_do_not_stop_a_lookup(tmp_path):
    program = scaled_sum(16, 16, 32)
    c = some_candidate(program)
    write(tmp_path, program, c)
    [path] = tmp_path.glob("*/*.jsonl")
    data = path.read_bytes()
    path.write_bytes(data + data[:40] + b"\n" + data[:-20])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert find(program, tmp_path).rung == "record"
    assert any("skipped" in str(w.message) for w in caught)
