"""Measuring: what is wrong, crashes or hangs is found and costs itself only."""

from __future__ import annotations

import re

import msgspec
import numpy as np
import pytest
from tensordsl.autotune import native_c
from tensordsl.autotune.measure import Job, Measurer
from tensordsl.autotune.timing_c import REFERENCE_STEPS, timing_library
from tensordsl.autotune.worker import Case, Parameter, Workplace
from tensordsl.codegen.source import C_CALL, C_TYPES

import tensordsl as td
from tensordsl.errors import TuneError
from tensordsl.targets import target

SIZE = 1000

#: y = a * x, right and in every way that goes wrong
KERNELS = {
    "right": "for (int i = 0; i < 1000; i++) y[i] = a * x[i];",
    "slow": "for (int n = 0; n < 200; n++) for (int i = 0; i < 1000; i++) { y[i] = a * x[i]; "
    '__asm__ volatile("" ::: "memory"); }',
    "wrong": "for (int i = 0; i < 1000; i++) y[i] = a * x[i]; y[7] += 1;",
    "missing": "for (int i = 0; i < 999; i++) y[i] = a * x[i];",
    "imprecise": "for (int i = 0; i < 1000; i++) y[i] = a * x[i] * 1.0001f;",
    "outside": "for (int i = -1; i < 1000; i++) y[i] = i < 0 ? 0 : a * x[i];",
    "reads_outside": "for (int i = 0; i < 1000; i++) y[i] = a * x[i] + 0 * x[i + 8];",
    "input": "for (int i = 0; i < 1000; i++) y[i] = a * x[i]; x[3] = 0;",
    "code": "return 2;",
    "crash": "*(volatile int *)0 = 1;",
    "abort": "__builtin_trap();",
    "hang": 'for (;;) __asm__ volatile("");',
    "exits": "_Exit(0);",
    "workspace": "if (!call || call->workspace_bytes < 64) return 2; ((float *)call->workspace)[15] = x[0]; "
    "for (int i = 0; i < 1000; i++) y[i] = a * x[i];",
    "workspace_outside": "((float *)call->workspace)[16] = 1; for (int i = 0; i < 1000; i++) y[i] = a * x[i];",
    "late": "static int n; if (n++ > 2) *(volatile int *)0 = 1; for (int i = 0; i < 1000; i++) y[i] = a * x[i];",
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    signature = "const td_call *call, float a, float *x, float *y"
    bodies = [
        f'__attribute__((visibility("default"))) int32_t {name}({signature}) {{ {body} return 0; }}'
        for name, body in KERNELS.items()
    ]
    text = "\n".join([C_TYPES, C_CALL, "void _Exit(int);", *bodies])
    return native_c.shared_object(text, target("native"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    rng = np.random.default_rng(0)
    for name, x, a in (
        ("integers", rng.integers(-4, 5, SIZE).astype("float32"), np.float32(3)),
        ("random", rng.standard_normal(SIZE).astype("float32"), np.float32(1.7)),
    ):
        np.save(folder / f"{name}.in.a.npy", a)
        np.save(folder / f"{name}.in.x.npy", x)
        exact = np.float64(a) * x.astype("float64")
        np.save(folder / f"{name}.out.y.npy", exact)
        np.save(folder / f"{name}.tol.y.npy", np.abs(exact) * 2.0**-24)
    parameters = (
        Parameter("a", (), "float32", "scalar"),
        Parameter("x", (SIZE,), "float32", "input"),
        Parameter("y", (SIZE,), "float32", "output"),
    )
    cases = (Case("integers", exact=True), Case("random", exact=False))
    timing = timing_library(["float", "", ""], target("native"))
    return Workplace(str(folder), parameters, cases, str(timing), REFERENCE_STEPS)


def run(place, library, *names, **options):
    with Measurer(place, **options) as measurer:
        outcomes = measurer.measure([Job(library, n, 64 if "workspace" in n else 0) for n in names])
        return dict(zip(names, outcomes)), measurer


def test_times_of_right_kernels(place, library):
    found, measurer = run(place, library, "right", "workspace", "slow")
    assert {o.status for o in found.values()} == {"ok"}
    assert all(len(o.samples_us) == 5 and len(o.reference_us) == 5 for o in found.values())
    assert found["slow"].time_us > 5 * found["right"].time_us
    assert measurer.restarts == 0


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("wrong", r"y\[7\] is .* not .* \(1 of 1000 elements differ\)"),
        ("missing", r"y\[999\] is nan"),
        ("imprecise", r"inputs: y\[\d+\] is"),
        ("outside", "writes outside of y"),
        ("reads_outside", r"y\[992\] is nan"),
        ("input", "writes to the input x"),
        ("code", "the kernel returned 2"),
        ("workspace_outside", "writes outside of its workspace of 64 bytes"),
    ],
)
def test_wrong_results(place, library, name, error):
    found, _ = run(place, library, "right", name, "workspace")
    assert found[name].status == "wrong_result"
    assert re.search(error, found[name].error), found[name].error
    assert found["right"].status == found["workspace"].status == "ok"


def test_crashes_are_attributed_and_the_rest_goes_on(place, library):
    found, measurer = run(place, library, "right", "crash", "workspace", "abort", "exits", "late", "slow")
    assert {n: o.status for n, o in found.items()} == {
        "right": "ok", "crash": "crash", "workspace": "ok", "abort": "crash", "exits": "crash", "late": "crash",
        "slow": "ok",
    }  # fmt: skip
    assert found["crash"].error == "SIGSEGV"
    assert found["exits"].error == "it ended with status 0"
    assert measurer.restarts == 4


def test_a_hanging_kernel_is_stopped(place, library):
    found, measurer = run(place, library, "right", "hang", "workspace", timeout_s=0.5)
    assert {n: o.status for n, o in found.items()} == {"right": "ok", "hang": "timeout", "workspace": "ok"}
    assert measurer.restarts == 1


def test_slow_candidates_get_one_round(place, library):
    with Measurer(place) as measurer:
        right, slow = measurer.measure([Job(library, "right", 0), Job(library, "slow", 0)], limit_us=5.0)
    assert len(right.samples_us) == 5 and len(slow.samples_us) == 1


def test_duel_pairs_rounds_in_a_fresh_process(place, library):
    with Measurer(place) as measurer:
        measurer.measure([Job(library, "right", 0)])
        first, second = measurer.duel([Job(library, "right", 0), Job(library, "slow", 0)], rounds=7)
    assert len(first.samples_us) == len(second.samples_us) == 7


def test_cold_caches(place, library):
    cold = msgspec.structs.replace(place, cold_bytes=1 << 22)
    found, _ = run(cold, library, "right")
    assert found["right"].status == "ok"


def test_a_process_that_cannot_work_is_an_error(place, library):
    broken = msgspec.structs.replace(place, folder="/nowhere")
    with pytest.raises(TuneError, match="keeps dying"):
        run(broken, library, "right")


def test_kernels_that_disappeared_are_said(place, library, tmp_path):
    broken = msgspec.structs.replace(place, timing_library="/nowhere/timing.so")
    with pytest.raises(TuneError, match=r"cannot be loaded: /nowhere/timing.so") as caught:
        run(broken, library, "right")
    assert "Run again: what was measured is kept" in str(caught.value)
    with pytest.raises(TuneError, match=r"gone.so"):
        run(place, tmp_path / "gone.so", "right")


def test_a_full_folder_for_temporary_files_is_said(monkeypatch, tmp_path):
    from tensordsl.autotune import cases

    def full(*_):
        raise OSError("128000 requested and 2016 written")  # what numpy says of a full disk

    x = td.placeholder((8,), name="x")
    program = td.Program([x], [td.compute((8,), lambda i: x[i] * 2, name="y")], name="twice")
    monkeypatch.setattr(cases.np, "save", full)
    with pytest.raises(TuneError, match=r"temporary files cannot be written in .*2016 written"):
        cases._write(program, [Parameter("x", (8,), "float32", "input")], tmp_path, "integers")
