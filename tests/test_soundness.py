"""What once went wrong between a nest, its proof and its C: each found by fuzzing or by an adversary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensordsl.codegen.c.printer import to_c
from tensordsl.codegen.compile import compile_sources
from tensordsl.codegen.toolchain import GCC_FLAGS, toolchain
from tensordsl.schedules.default import default_schedule
from tensordsl.schedules.interpreter import interpret
from tensordsl.schedules.loopnest import Alloc, Buffer, LoopNest, Outline, Prefetch, Stmt, loop, seq
from tensordsl.schedules.lower import lower
from tensordsl.schedules.polyhedral.validate import find_violation
from tensordsl.schedules.schedule import Schedule
from validation_nests import V, store

import tensordsl as td
from tensordsl import interpreter
from tensordsl.affine import Affine
from tensordsl.dtypes import float32
from tensordsl.targets import target
from tests import kernel_runner

i, j = V("i"), V("j")


def doubled(shape: tuple[int, ...] = (4, 3)) -> td.Program:
    x = td.placeholder(shape, name="x")
    body = (lambda i: x[i] * 2.0) if len(shape) == 1 else (lambda i, j: x[i, j] * 2.0)
    return td.Program([x], [td.compute(shape, body, name="z")], "doubled")


def through(t: Buffer, *around: Buffer, x: Buffer | None = None) -> LoopNest:
    """z = 2 x, row by row through a buffer t inside others."""
    bx, bz = x or Buffer("x", (4, 3), float32), Buffer("z", (4, 3), float32)
    fill = loop("j", 0, 3, store(t, (i, j), bx.at(i, j), "copy", "x", (i, j)))
    use = loop("j", 0, 3, store(bz, (i, j), t.at(i, j) * 2.0, "compute", "z", (i, j)))
    body: Stmt = Alloc(t, loop("i", 0, 4, fill, use))
    for b in around:
        body = Alloc(b, body)
    return LoopNest(doubled(), (bx, bz), body)


def local(name: str, shape: tuple[int, ...], **options: Any) -> Buffer:
    return Buffer(name, shape, float32, options.pop("scope", "workspace"), **options)


BANKED = {"fold": (2, 0), "banks": ("e", "o")}
#: layouts in which cells share memory, have none, or are somewhere else than the C code looks
LAYOUTS: dict[str, tuple[LoopNest, str]] = {
    "rows overlap": (through(local("t", (4, 3), pitch=2)), "pitch 2 of t is less"),
    "padded parameter": (through(local("t", (4, 3)), x=Buffer("x", (4, 3), float32, pitch=8)), "not laid out as x"),
    "parameter in registers": (
        through(local("t", (4, 3)), x=Buffer("x", (4, 3), float32, "register")),
        "not laid out as x",
    ),
    "more slices than banks": (
        through(local("t", (4, 3), fold=(3, 0), banks=("e", "o")), local("e", (3,)), local("o", (3,))),
        "folded by the number of its banks",
    ),
    "banks without a fold": (through(local("t", (4, 3), banks=("e", "o")), local("e", (3,)), local("o", (3,))), "folded by"),
    "one bank twice": (through(local("t", (4, 3), fold=(2, 0), banks=("e", "e")), local("e", (3,))), "folded by the number"),
    "a bank too small": (through(local("t", (4, 3), **BANKED), local("e", (2,)), local("o", (3,))), "layout of a slice"),
    "a bank in registers": (
        through(local("t", (4, 3), **BANKED), local("e", (3,), scope="register"), local("o", (3,))),
        "layout of a slice",
    ),
    "no such bank": (through(local("t", (4, 3), **BANKED), local("e", (3,))), "bank 'o' of t is no buffer around it"),
    "a bank inside": (
        replace(through(local("t", (4, 3), **BANKED)), body=Alloc(local("t", (4, 3), **BANKED), Alloc(local("e", (3,)), seq()))),
        "is no buffer around it",
    ),
    "a name inside itself": (through(local("t", (4, 3)), local("t", (4, 3), scope="register")), "t lies inside another"),
    "a parameter's name": (through(local("z", (4, 3))), "z lies inside another buffer z"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_checked(name: str) -> None:
    nest, text = LAYOUTS[name]
    violation = find_violation(nest)
    assert violation is not None and violation.kind == "structure" and text in violation.message, violation


def test_banks_are_proven() -> None:
    nest = through(local("t", (4, 3), **BANKED), local("e", (3,)), local("o", (3,)))
    assert find_violation(nest) is None


@pytest.mark.parametrize("index", [("q",), ()], ids=str)
def test_hints_name_what_is_there(index: tuple[str, ...]) -> None:
    nest = lower(doubled((4,)))
    hint = Prefetch(nest.parameters[0], tuple(V(n) for n in index))
    assert getattr(find_violation(replace(nest, body=seq(nest.body, hint))), "kind", None) == "structure"
    elsewhere = Prefetch(local("t", (4,)), (Affine(),))
    assert getattr(find_violation(replace(nest, body=seq(nest.body, elsewhere))), "kind", None) == "structure"
    far = Prefetch(nest.parameters[0], (Affine.of(10**6),))
    assert find_violation(replace(nest, body=seq(nest.body, far))) is None


# ---------------------------------------------------------------- C


def check(tmp_path: Path, *nests: LoopNest, machine: str = "native") -> None:
    """Compiled kernels, at the edge of memory, give what the program says."""
    kernels = compile_sources([to_c(n, target(machine), f"sound_{k}") for k, n in enumerate(nests)])
    jobs = []
    for k, (nest, kernel) in enumerate(zip(nests, kernels)):
        assert not isinstance(kernel, td.BuildError), kernel
        rng = np.random.default_rng(3)
        inputs = {t.name: rng.integers(-3, 4, t.shape).astype(t.dtype.name) for t in nest.program.inputs}
        kernel_runner.save(tmp_path / f"{k}.npz", nest, [(inputs, interpreter.interpret(nest.program, inputs), None)])
        jobs.append(kernel_runner.job(kernel, nest, tmp_path / f"{k}.npz", 1))
    assert kernel_runner.run(jobs, tmp_path) == ["right"] * len(nests)


@pytest.mark.compiler
def test_tensors_may_have_the_names_of_loops(tmp_path: Path) -> None:
    a, b = td.placeholder((8, 5), name="i"), td.placeholder((5, 7), name="k")
    k = td.reduce_axis(5, "k")
    c = td.compute((8, 7), lambda i, j: td.sum(a[i, k] * b[k, j], axis=k), name="j")
    program = td.Program([a, b], [c])
    check(tmp_path, lower(program), default_schedule(program, target("native")).nest)


@pytest.mark.compiler
@pytest.mark.parametrize("machine", ["native", "portable"])
def test_diagonals_in_registers(tmp_path: Path, machine: str) -> None:
    """A lane beyond the buffer, which is not active, named a register that did not exist."""
    x, w = td.placeholder((11, 11), name="x"), td.placeholder((11, 6), name="w")
    k = td.reduce_axis(6, "k")
    nests = []
    for at in (lambda j: (j, j), lambda j: (10 - j, j)):
        y = td.compute((11, 11), lambda i, j: td.sum(w[i, k] * x[at(j)], axis=k), name="y")
        nests.append(default_schedule(td.Program([w, x], [y]), target(machine)).nest)
    check(tmp_path, *nests, machine=machine)


@pytest.mark.compiler
def test_known_masks_stay_masks(tmp_path: Path) -> None:
    """gcc 12 merged masked moves with what used or made their values, into ones that touch whole vectors."""
    x, m = td.placeholder((7,), "int16", name="m"), td.placeholder((19,), name="x")
    p = td.compute((7,), lambda i: td.select(i >= 3, td.cast(x[i] * x[i], "float32") + m[i], 1.0), name="p")
    s = Schedule(td.Program([x, m], [p]), checked=False).split("p", "i", 1).reorder("p", "i.i", "i.o")
    s = s.fuse("p", "i.i", "i.o").cache_read("p", "m", "i.i.i.o").cache_read("p", "x", "i.i.i.o", align=16)
    s = s.vectorize("p", "i.i.i.o", lanes=16).vectorize("m_r", "i.i.i.o.l").validate()
    a, b = td.placeholder((9, 23), name="a"), td.placeholder((17,), "uint8", name="b")
    q = td.compute((17, 9), lambda i, j: td.cast(td.cast(b[j], "int64"), "float32") * a[j, i], name="q")
    guarded = td.placeholder((4, 8), name="g")
    shifted = td.compute((4, 8), lambda i, j: td.select(j + 1 < 8, guarded[i, j + 1], 0.0), name="r")
    outlined = Schedule(td.Program([guarded], [shifted])).outline("r", "i")
    check(tmp_path, s.nest, default_schedule(td.Program([a, b], [q]), target("native")).nest, outlined.nest)


@pytest.mark.compiler
def test_gcc_does_not_mask_scalar_loops() -> None:
    tools = toolchain()
    assert (GCC_FLAGS[0] in tools.flags(target("native"))) == (tools.kind == "gcc")


@pytest.mark.compiler
def test_prefetches_in_lanes_and_of_inner_loops(tmp_path: Path) -> None:
    program = doubled((12, 20))
    lanes = Schedule(program).vectorize("z", "j", 16).prefetch("z", "x", "j.l", ahead=2)
    inner = Schedule(program).tile("z", ["i", "j"], [3, 7]).skew("z", "j.i", "i.i").prefetch("z", "x", "i.o", ahead=1)
    check(tmp_path, lanes.nest, inner.nest)


@pytest.mark.compiler
def test_a_workspace_of_nothing(tmp_path: Path) -> None:
    x = td.placeholder((3,), name="x")
    empty = td.compute((0,), lambda i: x[i] * 2.0, name="empty")
    k = td.reduce_axis(0, "k")
    y = td.compute((3,), lambda i: td.sum(empty[k] * x[i], axis=k), name="y")
    check(tmp_path, lower(td.Program([x], [y])))


def test_restrict_is_a_promise_about_banks() -> None:
    """Two places of one bank got pointers that promised not to meet; the other bank's may promise it."""
    a, p, q = V("a"), V("p"), V("q")
    bx, bz = Buffer("x", (5, 16), float32), Buffer("z", (4, 16), float32)
    t = local("t", (5, 16), **BANKED)
    keep = loop("i", 0, 4, store(t, (a, 4 * p + i), bx.at(a, 4 * p + i), "copy", "x", (a, 4 * p + i)))
    use = loop("i", 0, 4, store(bz, (a, 4 * q + i), t.at(a, 4 * q + i) * 2.0, "compute", "z", (a, 4 * q + i)))
    far = loop("i", 0, 4, store(bz, (a, 4 * q + i), t.at(a + 1, 4 * q + i) * 2.0, "compute", "z", (a, 4 * q + i)))
    for last, promised in ((use, 2), (far, 4)):
        body: Stmt = loop("a", 0, 4, loop("p", 0, 4, loop("q", 0, p + 1, Outline("f", seq(keep, last)))))
        for b in (t, local("e", (16,)), local("o", (16,))):
            body = Alloc(b, body)
        text = to_c(LoopNest(doubled((4, 16)), (bx, bz), body), target("native")).text
        head = next(line for line in text.splitlines() if "kernel_f_0(" in line and "static" in line)
        assert head.count("restrict") == promised, head


# ---------------------------------------------------------------- primitives


def test_hints_follow_their_buffer() -> None:
    """A change of a buffer's layout left hints for the buffer it was."""
    x = td.placeholder((6, 5), name="x")
    h = td.compute((6, 5), lambda i, j: x[i, j] + 1.0, name="h")
    y = td.compute((6, 5), lambda i, j: h[i, j] * 2.0, name="y")
    s = Schedule(td.Program([x], [y])).prefetch("y", "h", "i")
    for t in (s.storage_align("h", 8), s.set_scope("h", "stack"), s.fold("h", 0, 6), s.compute_inline("h")):
        assert find_violation(t.nest) is None


def test_empty_loops_split_and_fuse() -> None:
    x = td.placeholder((0, 4), name="x")
    y = td.compute((0, 4), lambda i, j: x[i, j] * 2.0, name="y")
    t = td.compute((4, 0), lambda i, j: x[j, i] * 2.0, name="t")
    s = Schedule(td.Program([x], [y, t]))
    for new in (s.split("y", "i", most=4), s.fuse("t", "i", "j"), s.fuse("y", "i", "j")):
        assert interpret(new.nest, {"x": np.zeros((0, 4))})["t"].shape == (4, 0)


def test_a_skewed_loop_is_fused() -> None:
    s = Schedule(doubled()).skew("z", "j", "i").fuse("z", "i", "j")
    x = np.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(interpret(s.nest, {"x": x})["z"], 2 * x)


def test_an_output_in_place_is_tiled() -> None:
    """The copy out of a tile said that it restores the input."""
    x, z = td.placeholder((4, 6), name="x"), td.placeholder((4,), name="z")
    k = td.reduce_axis(6, "k")
    c = td.compute((4,), lambda i: td.sum(x[i, k], axis=k), name="c")
    y = td.compute((4,), lambda i: c[i] + z[i], name="y")
    summed = td.Program([x, z], [c], inplace={"c": "z"})
    Schedule(summed).rfactor("c", "k", 4).pad("c_rf", "k.o", 4).cache_write("c", "i")
    added = td.Program([x, z], [y], inplace={"y": "z"})
    s = Schedule(added).cache_read("y", "z", "i").cache_write("y", "i")
    s = Schedule(added).reverse_compute_at("y", "c", "i").cache_write("c", "i")
    given = {"x": np.arange(24.0).reshape(4, 6), "z": np.ones(4)}
    np.testing.assert_array_equal(interpret(s.nest, given)["y"], given["x"].sum(1) + 1)
    with pytest.raises(td.ScheduleError, match="takes over the memory of z"):
        Schedule(added).compute_at("y", "c", "i")


def test_definitions_change_before_anything_is_placed_inside() -> None:
    """Steps that rebuild a stage lost the caches in it, or built its loops inside loops of their names."""
    x = td.placeholder((5, 7), name="x")
    k = td.reduce_axis(7, "k")
    c = td.compute((5,), lambda i: td.sum(x[i, k] * 2.0, axis=k), name="c")
    y = td.compute((5,), lambda i: c[i] + 1.0, name="y")
    plain = Schedule(td.Program([x], [y]))
    for s in (plain.cache_read("c", "x", "i"), plain.compute_at("c", "y", "i"), plain.vectorize("c", "i")):
        for change in (lambda s: s.rfactor("c", "k", 4), lambda s: s.pad("c", "k", 4)):
            with pytest.raises(td.ScheduleError, match="already ordered"):
                change(s)
    kept = plain.cache_read("y", "c", "i").pad("c", "i", 8)  # a copy of c is no part of c
    assert "c_r[] = c[i]" in str(kept)


def test_data_conditions_ruled_out_by_an_index() -> None:
    """The nest decides a condition on data where an index leaves no data to look at."""
    x = td.placeholder((1, 5), name="x")

    def value(i: Any) -> Any:
        old = td.select(i >= 1, x[0, i - 1], 0.0)
        return td.select(td.cast(old, "int64") > 0, old, 0.0)

    y = td.compute((1,), value, name="y")
    z = td.compute(
        (3,), lambda i: td.select(td.cast(td.select(i >= 1, x[0, i - 1], 0.0), "int64") > 0, 1.0, 2.0), name="z"
    )
    s = Schedule(td.Program([x], [y, z])).annotate("y", "i", "simplified").peel("z", "i", "first")
    assert find_violation(s.nest) is None
