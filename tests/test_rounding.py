"""Exact and reproducible programs: the same bits under every schedule, on every machine, by every compiler."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensordsl.autotune.workload import workload
from tensordsl.codegen.c.printer import to_c
from tensordsl.codegen.compile import compile_source
from tensordsl.codegen.runtime import Kernel
from tensordsl.codegen.source import unit
from tensordsl.codegen.toolchain import toolchain
from tensordsl.schedules.default import default_schedule
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.sketches import sketches
from test_c_printer_neon import EMIT, EMULATOR, FLAGS, GCC, QUIET, literal

import tensordsl as td
from tensordsl.targets import target

NATIVE = target("native").isa
ISAS = {"avx512": ("avx512", "avx2", "portable"), "avx2": ("avx2", "portable")}.get(NATIVE, ("portable",))
COMPILERS = [c for c in ("gcc", "clang") if shutil.which(c)]
FIXED = {"exact": td.exact, "reproducible": td.reproducible}


def rows(n: int = 1003, dtype: str = "float32") -> td.Program:
    x = td.placeholder((7, n), dtype, name="x")
    return td.Program([x], [x.sum(axis=1), x.mean(axis=1), (x * x).sum(axis=1)])


def softmax() -> td.Program:
    x = td.placeholder((5, 331), name="x")
    return td.Program([x], [td.ops.softmax(x)])


def layernorm() -> td.Program:
    x = td.placeholder((5, 331), name="x")
    centred = x - x.mean(axis=1, keepdims=True)
    return td.Program([x], [centred / td.sqrt(td.square(centred).mean(axis=1, keepdims=True) + 1e-5)])


def product() -> td.Program:
    a, b, c = (td.placeholder(s, name=n) for s, n in (((37, 70), "a"), ((70, 45), "b"), ((45,), "c")))
    return td.Program([a, b, c], [td.maximum(a @ b + c, 0.0)])


def guarded() -> td.Program:
    s = td.placeholder((40, 40), name="s")
    k = td.reduce_axis(40, name="k")
    y = td.compute((40,), lambda i: td.sum(s[i, k] * s[k, i], axis=k, where=k <= i), name="y")
    return td.Program([s], [y])


def functions(dtype: str) -> td.Program:
    x = td.placeholder((67,), dtype, name="x")
    positive = td.exp(0.1 * x)
    found = [f(x) for f in (td.exp, td.exp2, td.tanh, td.erf, td.sin, td.cos, td.sigmoid)]
    found += [f(positive) for f in (td.log, td.log2, td.sqrt, td.rsqrt)] + [td.pow(positive, x)]
    return td.Program([x], [td.stack(found)])


def running() -> td.Program:
    x = td.placeholder((3, 50), name="x")
    y = td.recurrence(
        (3, 50), lambda y, i, j: x[i, j] * x[i, j] + td.select(j > 0, 0.9 * y[i, j - 1], 0.0), name="y", order="j"
    )
    return td.Program([x], [y])


def scattered() -> td.Program:
    x, w, n = (td.placeholder(s, name=m) for s, m in (((60, 5), "x"), ((60,), "w"), ((), "n")))
    at = td.placeholder((60,), "int32", name="at", values=range(9))
    k = td.reduce_axis(60, "k")
    y = td.compute((9, 5), lambda i, j: td.sum(x[k, j] * w[k], axis=k, where=at[k] == i), name="y")
    return td.Program([x, w, n, at], [y * n])


PROGRAMS = {
    "rows": rows(), "rows64": rows(1003, "float64"), "short": rows(20), "tiny": rows(5), "softmax": softmax(),
    "layernorm": layernorm(), "product": product(), "guarded": guarded(), "scattered": scattered(), "running": running(),
    "functions": functions("float32"), "functions64": functions("float64"),
}  # fmt: skip


def data(program: td.Program) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(3)
    return [
        (3 * rng.standard_normal(t.shape) if t.dtype.is_float else rng.integers(0, 9, t.shape)).astype(t.dtype.name)
        for t in program.inputs
    ]


def results(program: td.Program, schedule: Schedule, isa: str, compiler: str) -> list[bytes]:
    source = to_c(schedule.nest, target(isa))
    kernel = Kernel(compile_source(source, toolchain(compiler)), schedule.nest, schedule)
    found = kernel(*data(program))
    return [np.asarray(f).tobytes() for f in (found if isinstance(found, tuple) else (found,))]


@pytest.mark.parametrize("how", FIXED)
@pytest.mark.parametrize("name", PROGRAMS)
def test_all_machines_and_compilers_give_the_same_bits(name: str, how: str) -> None:
    program = FIXED[how](PROGRAMS[name])
    found = {
        (isa, compiler): results(program, default_schedule(program, target(isa)), isa, compiler)
        for isa in ISAS
        for compiler in COMPILERS
    }
    first = next(iter(found.values()))
    assert not [key for key, bits in found.items() if bits != first]
    arrays = dict(zip([t.name for t in program.inputs], data(program)))
    exact, bounds = td.interpret(PROGRAMS[name], arrays), td.error_bound(PROGRAMS[name], arrays)
    for (output, want), bits in zip(exact.items(), first):
        got = np.frombuffer(bits, PROGRAMS[name][output].dtype.name).reshape(want.shape)
        assert (np.abs(got - want) <= bounds[output]).all()


@pytest.mark.parametrize("how", FIXED)
@pytest.mark.parametrize("name", ["rows", "softmax", "product", "layernorm"])
def test_schedules_of_the_space_give_the_same_bits(name: str, how: str) -> None:
    program = FIXED[how](PROGRAMS[name])
    plain = Schedule(program).validate()
    want = results(program, plain, "portable", COMPILERS[0])
    for isa in ISAS:
        sketch = sketches(program, target(isa))[0]
        for hole, values in sketch.holes.items():
            for value in values:
                p = {**sketch.default, hole: value}
                if sketch.allowed(p):
                    schedule = sketch.build(p)
                    assert results(program, schedule.validate(), isa, COMPILERS[0]) == want, (isa, p)


def test_threads_do_not_matter() -> None:
    program = td.reproducible(rows())
    parallel = Schedule(program)
    for t in program.tensors:
        parallel = parallel.parallel(t.name, parallel.program[t.name].definition.axes[0].name)  # type: ignore[union-attr]
    plain = Schedule(program)
    kernels = [td.compile(s, reproducible=True) for s in (plain, parallel)]
    first, second = (k(*data(program)) for k in kernels)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, second))


@pytest.mark.skipif(shutil.which(GCC) is None or shutil.which(EMULATOR) is None, reason=f"needs {GCC} and {EMULATOR}")
def test_neon_gives_the_same_bits(tmp_path: Path) -> None:
    cases = {f"{n}_{how}": FIXED[how](p) for n, p in PROGRAMS.items() for how in FIXED}
    sources = {n: to_c(default_schedule(p, target("neon")).nest, target("neon"), f"k_{n}") for n, p in cases.items()}
    text = [unit(sources.values()), "int main(void) {"]
    for name, program in cases.items():
        scratch = sources[name].workspace_bytes
        text.append(f"    {{ static char scratch[{max(1, scratch)}];")
        text.append(f"    td_call call = {{.size = sizeof call, .workspace = scratch, .workspace_bytes = {scratch}}};")
        given = dict(zip([t.name for t in program.inputs], data(program)))
        outputs = [t.name for t in program.outputs]
        for b in sources[name].parameters:
            array = given.get(b.name, np.zeros(b.shape, b.dtype.name))
            text.append(
                f"    static union {{ unsigned char bytes[{array.nbytes}]; {b.dtype.c_name} x[{array.size}]; }}"
            )
            text.append(f"        {b.name} __attribute__((aligned(64))) = {{{{{literal(array)}}}}};")
        arguments = ", ".join(["&call", *(f"{b.name}.x{'' if b.shape else '[0]'}" for b in sources[name].parameters)])
        text.append(f"    if (k_{name}({arguments})) return 1;")
        text += [f"    emit({o}.x, sizeof {o});" for o in outputs] + ["    }"]
    (tmp_path / "unit.c").write_text(EMIT + "\n".join([*text, "    return 0;", "}", ""]))
    command = [GCC, *target("neon").compiler_flags, *FLAGS, *QUIET, "-ffp-contract=off", "-static", "unit.c"]
    done = subprocess.run([*command, "-o", "unit", "-lm"], cwd=tmp_path, capture_output=True, text=True)
    assert not done.returncode, done.stderr[:4000]
    ran = subprocess.run([EMULATOR, str(tmp_path / "unit")], capture_output=True, check=True)
    at = 0
    for name, program in cases.items():
        here = results(program, default_schedule(program, target(ISAS[0])), ISAS[0], COMPILERS[0])
        for t, bits in zip(program.outputs, here):
            assert ran.stdout[at : at + len(bits)] == bits, f"{name}: {t.name}"
            at += len(bits)
    assert at == len(ran.stdout)


# ---------------------------------------------------------------- what is refused, and what is told apart


def test_steps_that_change_roundings_are_refused() -> None:
    for fixed in FIXED.values():
        s = Schedule(fixed(product()))
        with pytest.raises(td.ScheduleError, match="may change the rounding"):
            s.rfactor("matmul", "k", 8)
        with pytest.raises(td.ScheduleError, match="written order"):
            s.reorder("matmul", "k", "i", "j").split("matmul", "k", 7).reorder("matmul", "k.i", "k.o")
    x = td.placeholder((64,), name="x")
    largest = td.exact(td.Program([x], [x.max(axis=0)], name="largest"))
    Schedule(largest).rfactor("x_max", "i", 8)  # a maximum is the same in any order


def test_fixed_programs_are_workloads_of_their_own() -> None:
    free = product()
    keys = [workload(p, "avx2") for p in (free, td.exact(free), td.reproducible(free))]
    assert len({k.program for k in keys}) == len({k.structure for k in keys}) == 3
    assert [k.exact for k in keys] == [False, True, True]


def test_tuning_keeps_the_bits(tmp_path: Path) -> None:
    program = PROGRAMS["product"]
    found = td.tune(program, trials=3, log_dir=tmp_path, reproducible=True)
    assert found.schedule.program.rounding == "fused"
    record = td.compile(program, log_dir=tmp_path, reproducible=True)
    default = td.compile(default_schedule(td.reproducible(program), target("portable")), "portable", reproducible=True)
    assert {k(*data(program)).tobytes() for k in (found.kernel, record, default)} == {default(*data(program)).tobytes()}


def test_cuda_has_no_fixed_rounding_yet() -> None:
    from tensordsl.codegen.cuda.printer import to_cuda

    from tensordsl.targets.cuda import cuda_target

    with pytest.raises(td.BuildError, match="fixed rounding"):
        to_cuda(Schedule(td.exact(product())).nest, cuda_target("sm_80"))


def test_contradictions_are_errors() -> None:
    p = product()
    with pytest.raises(td.ProgramError, match="either exact or reproducible"):
        td.compile(p, exact=True, reproducible=True)
    with pytest.raises(td.ProgramError, match="exact=True, but the rounding of kernel is free"):
        td.compile(Schedule(p), exact=True)
    with pytest.raises(td.ProgramError, match="fixed already"):
        td.exact(td.reproducible(p))
    with pytest.raises(td.ProgramError, match="reproducible takes a Program"):
        td.reproducible(3)  # type: ignore[arg-type]
