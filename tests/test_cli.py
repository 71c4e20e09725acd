"""The command line: what it prints, which record it says it used, and one clear error each."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from tensordsl.autotune.cli import main
from tensordsl.autotune.records import Log, Record

pytestmark = pytest.mark.compiler

OPERATORS = """
import tensordsl as td

x = td.placeholder((24, 32), name="x")
scale = td.Program([x], [td.compute((24, 32), lambda i, j: x[i, j] * 2 + 1, name="y")], name="scale")

a, b = td.placeholder((48, 40), name="a"), td.placeholder((40, 64), name="b")
k = td.reduce_axis(40, name="k")
product = td.Program(
    [a, b], [td.compute((48, 64), lambda i, j: td.sum(a[i, k] * b[k, j], axis=k), name="c")], name="product"
)


@td.operator("p: float32[M, N], q: float32[N]")
def add_rows(p, q):
    return td.compute(("M", "N"), lambda i, j: p[i, j] + q[j], name="r")
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with an operator file, logs of its own; the cache of kernels is shared."""
    (tmp_path / "operators.py").write_text(OPERATORS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TD_LOG_DIR", raising=False)
    (tmp_path / "tuning_logs").mkdir()
    return tmp_path


@pytest.fixture
def run(capsys):
    def call(*arguments: str, status: int = 0) -> str:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        said = capsys.readouterr()
        text = said.out + said.err
        assert caught.value.code == status, text
        assert "Traceback" not in text
        assert "site-packages" not in text and "contextlib" not in text  # no line of ours or of a library
        return text

    return call


def read_log(place: Path, name: str = "product") -> list[Record]:
    [path] = (place / "tuning_logs").glob(f"*/{name}.jsonl")
    return Log(path).read()


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom tensordsl.autotune.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'numpy', 'islpy', 'sympy', 'xgboost', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for command in ("tune", "build", "show", "verify", "bench", "log"):
        assert f"\n  {command} " in done.stdout


def test_tune_then_everything_uses_the_record(place, run):
    said = run("tune", "operators.py:product", "--trials", "6")
    assert "product: no record; the default schedule" in said
    assert "product: 6 trials, stopped because: trials; winner" in said
    assert "6/6 trials, best" in said  # plain progress lines
    records = read_log(place)
    assert [r.kind for r in records].count("winner") == 1 and len(records) == 7

    said = run("tune", "operators.py:product", "--trials", "6")
    assert "product: 6 trials (6 from the log)" in said
    assert len(read_log(place)) == 8  # the comparison again, no candidate again

    assert "product: record of" in run("show", "operators.py:product", "--trace")
    assert "(winner," in run("bench", "operators.py:product")
    said = run("show", "operators.py:product", "--why")
    assert "<- limits" in said and "measured" in said and "% of what" in said
    assert "product" in run("log", "best")
    assert "ok 6 winner 2" in run("log", "stats")
    assert "8 records in 1 logs: all well-formed" in run("log", "check")
    assert "product: record of" in run("build", "operators.py:product", "-o", "out", "--name", "demo")


def test_show(run):
    assert "program scale(x: float32[24, 32])" in run("show", "operators.py:scale", "--program")
    assert "y[" in run("show", "operators.py:scale")
    assert "TD_KERNEL int32_t" in run("show", "operators.py:scale", "--c")
    assert "s = s." in run("show", "operators.py:product", "--trace")
    assert "not measured" in run("show", "operators.py:scale", "--why")


def test_verify_and_bench(run):
    said = run("verify", "operators.py:product", "operators.py:scale")
    assert "product: integers inputs: agrees bit by bit" in said
    assert "product: random inputs: agrees within the derived tolerance" in said
    assert "scale: special inputs: agrees" in said
    said = run("bench", "operators.py:product,scale")
    assert "default" in said and "% " in said


def test_build(place, run):
    said = run("build", "operators.py", "-o", "out", "--name", "demo")
    assert "scale: no record; the default schedule" in said
    for made in ("include/demo.h", "lib/libdemo.so", "lib/libdemo.a", "share/demo/manifest.json"):
        assert (place / "out" / made).is_file()


def test_set_binds_operators(run):
    said = run("show", "operators.py:add_rows", "--program", "--set", "M=5", "--set", "N=7")
    assert "p: float32[5, 7]" in said
    assert "p: float32[5, 7]" in run("show", "operators.py", "--program", "--set", "M=5,N=7")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "nothing.py"), "ProgramError: there is no file nothing.py"),
        (("show", "operator.py"), "did you mean operators.py"),
        (("show", "operators.py:prodct"), "did you mean 'product'"),
        (("show", "operators.py:add_rows"), "add_rows has no size for M, N"),
        (("show", "operators.py:product", "--set", "M=4"), "--set does not apply"),
        (("show", "operators.py", "--set", "Q=4"), "no operator of operators.py has exactly the dimensions Q"),
        (("show", "operators.py:add_rows", "--set", "M=x"), "--set M=x is not NAME=SIZE"),
        (("show", "operators.py:add_rows", "--set", "M=²,N=1"), "--set M=²,N=1 is not NAME=SIZE"),
        (("show", "operators.py:add_rows", "--set", "M=1", "--set", "M=2"), "--set gives M two sizes: 1 and 2"),
        (("show", "operators.py:add_rows", "--set", f"M={10**20},N=1"), "a size must be at most 2**60"),
        (("show", "operators.py:add_rows", "--set", f"M={10**18},N=2"), "at most 2**60 can be addressed"),
        (("show", "operators.py:"), "'operators.py:' has no name after the colon"),
        (("show", ":scale"), "':scale' has no file before the colon"),
        (("show", ""), "the name of the file is empty"),
        (("show", "."), ". is a folder"),
        (("show", "operators.py:scale", "--target", "AVX2"), "did you mean 'avx2'"),
        (("show", "operators.py:scale", "--why", "--target", "neon"), "cannot be measured on this machine"),
        (("build", "operators.py:scale", "-o", "", "--name", "x"), "the name of the folder is empty"),
        (("build", "operators.py:scale", "copy.py:scale", "-o", "out", "--name", "x"), "have the same sizes"),
        (("log", "stats", "nowhere"), "RecordError: there is no nowhere"),
        (("show", "raises.py"), "raises.py raised ZeroDivisionError: division by zero"),
        (("show", "raises.py"), "--> raises.py:2"),
        (("show", "exits.py"), "exits.py raised SystemExit: 3"),
        (("show", "syntax.py"), "SyntaxError"),
        (("show", "empty.py"), "empty.py has no Program at module level"),
        (("show", "wrong.py"), "ProgramError: x has rank 2, read with 3 indices"),
        (("show", "operators.py:scale", "--target", "z80"), "BuildError: unknown target 'z80'"),
        (("tune", "operators.py:scale", "--target", "neon"), "cannot be measured on this machine"),
        (("tune", "operators.py:scale", "--trials", "0"), "Invalid value for '--trials'"),
        (("tune",), "Missing argument"),
        (("nothing",), "No such command"),
        (("build", "operators.py", "-o", "out", "--name", "1x"), "BuildError"),
        (("log", "best"), "RecordError: there is no tuning log in tuning_logs"),
        (("log", "check", "torn"), "torn: the writer was stopped in this line"),
    ],
)
def test_errors(place, run, arguments, message):
    if "neon" in arguments and _arm():
        arguments = tuple("avx2" if a == "neon" else a for a in arguments)
    (place / "copy.py").write_text(OPERATORS)
    (place / "raises.py").write_text("import tensordsl as td\nx = 1 / 0\n")
    (place / "exits.py").write_text("raise SystemExit(3)\n")
    (place / "syntax.py").write_text("def f(:\n")
    (place / "empty.py").write_text("import tensordsl as td\n")
    (place / "wrong.py").write_text(
        "import tensordsl as td\nx = td.placeholder((2, 3), name='x')\n"
        "y = td.compute((2, 3), lambda i, j: x[i, j, 0], name='y')\n"
    )
    (place / "torn" / "t").mkdir(parents=True)
    (place / "torn" / "t" / "a.jsonl").write_text('{"schema":1,"oper')
    assert message in run(*arguments, status=2)


def _arm() -> bool:
    from tensordsl import targets

    return targets.target("native").isa == "neon"


def test_two_files_with_one_name(place, run):
    (place / "other.py").write_text(OPERATORS.replace("24, 32", "5, 7").replace('name="scale"', 'name="other"'))
    said = run("build", "operators.py:scale", "other.py:scale", "-o", "out", "--name", "demo")
    assert "\nother.py:scale: no record" in said
    assert "demo_scale_float32" in said and "demo_other_float32" in said


def test_a_second_name_for_a_program_is_no_second_program(place, run):
    (place / "alias.py").write_text(OPERATORS + "\nagain = scale\n")
    assert "again" not in run("build", "alias.py", "-o", "out", "--name", "demo")


def test_a_bug_of_ours_says_so_with_its_trace(run, monkeypatch, capsys):
    from tensordsl.autotune import driver

    def broken(*_):
        raise KeyError("lost")

    monkeypatch.setattr(driver, "best_schedule", broken)
    with pytest.raises(SystemExit) as caught:
        main(["show", "operators.py:scale"])
    said = capsys.readouterr().err
    assert caught.value.code == 1
    assert said.startswith("InternalError: KeyError: 'lost'") and "Traceback" in said and "please report" in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_behind_the_output(place):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tensordsl.autotune.cli", "show", "operators.py:scale"],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=place,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "OSError: No space left on device"


def test_warnings_are_one_line(place, run):
    run("tune", "operators.py:scale", "--trials", "1")
    [path] = (place / "tuning_logs").glob("*/scale.jsonl")
    with open(path, "ab") as file:
        file.write(path.read_bytes()[:200])
    said = run("show", "operators.py:scale", "--trace")
    [line] = [x for x in said.splitlines() if "skipped" in x]
    assert line.startswith("warning: tuning log line skipped: ") and ":3: torn" in line
    assert "log.read" not in said


def test_cold_records_are_found_with_cold(run):
    run("tune", "operators.py:scale", "--trials", "1", "--cold")
    assert "scale: record of" in run("show", "operators.py:scale", "--cold")
    assert "scale: no record" in run("show", "operators.py:scale")
    assert "scale: record of" in run("build", "operators.py:scale", "-o", "out", "--name", "demo", "--cold")
    assert "scale: record of" in run("verify", "operators.py:scale", "--cold")
    said = run("bench", "operators.py:scale", "--cold")
    assert "scale: record of" in said and "it is the default" in said


def test_a_record_of_another_processor_still_builds(place, run):
    run("tune", "operators.py:scale", "--trials", "1")
    [path] = (place / "tuning_logs").glob("*/scale.jsonl")
    lines = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    for line in lines:
        line["processor"] = {"vendor": "Vendor", "family": 1, "model": 2, "name": "other_lake"}
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    assert "us on other_lake)" in run("build", "operators.py:scale", "-o", "out", "--name", "demo")
    kernel = json.loads((place / "out/share/demo/manifest.json").read_text())["operators"][0]["kernels"][0]
    assert "on other_lake" in kernel["record"] and kernel["measured_us"] is None
    assert "not measured" in run("show", "operators.py:scale", "--why")  # nothing is said of this machine
    assert "other_lake" in run("log", "best")


def test_a_record_serves_the_same_definition_under_other_names(place, run):
    run("tune", "operators.py:product", "--trials", "2")
    renamed = OPERATORS.replace('"a"', '"left"').replace('"b"', '"right"').replace('name="c"', 'name="a"')
    (place / "renamed.py").write_text(renamed.replace('name="product"', 'name="mine"'))
    assert "product: record of" in run("build", "renamed.py:product", "-o", "out", "--name", "demo")
    assert "const float *left, const float *right, float *a" in (place / "out/include/demo.h").read_text()
    assert "agrees bit by bit" in run("verify", "renamed.py:product")
    assert "record" in run("bench", "renamed.py:product")
    assert "# names are those of the record: a is left, b is right, c is a" in run(
        "show", "renamed.py:product", "--trace"
    )


def test_results_of_a_search_are_built_with_their_record(tmp_path):
    from tensordsl.autotune.operator_files import programs

    import tensordsl as td

    result = td.tune(programs("operators.py:scale")["scale"], trials=1, log_dir=tmp_path / "logs")
    td.build_library([result], tmp_path / "out", name="demo")
    kernel = json.loads((tmp_path / "out/share/demo/manifest.json").read_text())["operators"][0]["kernels"][0]
    assert kernel["record"].startswith("winner of 1 trials (default") and kernel["measured_us"] == result.time_us


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("exit 1", "exit status 1"),
        ("kill -SEGV $$", "it crashed (SIGSEGV)"),
        ('echo "x.c:1:1: error: I will not" >&2; exit 1', "I will not"),
        ("exit 0", "wrote no output"),
    ],
)
def test_a_compiler_that_fails(place, run, monkeypatch, behaviour, message):
    real = os.environ.get("TD_CC") or next(c for c in ("gcc", "clang", "cc") if shutil.which(c))
    compiler = place / "compiler"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *-dM*|*-dump*) exec {real} "$@";; esac\n{behaviour}\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("TD_CC", str(compiler))
    monkeypatch.setenv("TD_CACHE_DIR", str(place / "cache"))
    for command in (["build", "-o", "out", "--name", "demo"], ["tune"], ["verify"], ["bench"], ["show", "--why"]):
        said = run(command[0], "operators.py:scale", *command[1:], status=2)
        assert "BuildError: " in said and message in said
    assert not (place / "out").exists()
    assert not list((place / "tuning_logs").iterdir())


def test_no_compiler(run, monkeypatch):
    monkeypatch.setenv("TD_CC", "no-such-compiler")
    assert "the C compiler 'no-such-compiler' is not installed" in run("tune", "operators.py:scale", status=2)
    assert "TD_KERNEL" in run("show", "operators.py:scale", "--c")


# ---------------------------------------------------------------- searches that are cut off


def start(place: Path, trials: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tensordsl.autotune.cli", "tune", "operators.py:product", "--trials", str(trials)]
    return subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_lines(place: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if sum(p.read_bytes().count(b"\n") for p in (place / "tuning_logs").glob("*/product.jsonl")) >= count:
            return
        time.sleep(0.02)
    output = process.communicate()[0] if process.poll() is not None else "still running"
    pytest.fail(f"the search did not write {count} records: {output}")


def children_of(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(c) for c in path.read_text().split()] if path.exists() else []


def test_kill_9_and_resume(place, run):
    process = start(place, 500)
    wait_for_lines(place, 12, process)
    children = children_of(process.pid)
    process.kill()
    process.communicate()
    [path] = (place / "tuning_logs").glob("*/product.jsonl")
    before = [r for r in Log(path).scan() if isinstance(r, Record)]
    assert len(before) >= 12
    said = run("tune", "operators.py:product", "--trials", str(len(before) + 3))
    assert f"{len(before) + 3} trials ({len(before)} from the log)" in said
    after = [r for r in read_log(place) if r.kind == "candidate"]
    assert len({r.candidate for r in after}) == len(after) == len(before) + 3
    deadline = time.monotonic() + 20
    while any(_alive(c) for c in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(c) for c in children), "the measuring process outlived its parent"


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_ctrl_c_keeps_the_best(place):
    process = start(place, 500)
    wait_for_lines(place, 12, process)
    os.kill(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    assert "stopped because: interrupted; winner" in said
    assert "Traceback" not in said
    assert read_log(place)[-1].kind == "winner"


def test_why_lists_the_steps_that_were_lost(place, run):
    (place / "lost.py").write_text(
        "import tensordsl as td\n"
        'x = td.placeholder((4, 30, 7), name="x")\n'
        "u = td.exp(x)\n"
        "s = u.sum(axis=2)\n"
        'y = td.compute((4, 30, 7), lambda i, j, k: u[i, j, k] / s[i, j], name="y")\n'
        'z = td.compute((4, 30, 7), lambda i, j, k: y[i, 29 - j, k] * 2 + y[i, j, k], name="z")\n'
        'lost = td.Program([x], [z], name="lost")\n'
    )
    said = run("show", "lost.py", "--why")
    assert "steps that the default schedule tried and does without:\n  fuse(" in said
    assert "tried and does without" not in run("show", "operators.py:product", "--why")


def test_refusals_are_noted_once_and_in_order():
    from tensordsl.schedules.refusals import note, refusals

    from tensordsl.errors import ScheduleError

    with refusals() as found:
        for text in ("a\nmore", "b", "a"):
            note(ScheduleError(text))
    note(ScheduleError("outside"))
    assert found == ["a", "b"]
