"""The pipelined shared-memory GEMM of examples/cuda_gemm.py: proven, interpreted, emulated, compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from tensordsl.codegen.cuda.emulate import Emulation, compile_emulation
from tensordsl.codegen.cuda.nvcc import compile_cubin
from tensordsl.codegen.cuda.printer import CudaSource, to_cuda
from tensordsl.codegen.cuda.sync import check_sync, insert_sync
from tensordsl.schedules.interpreter import interpret
from tensordsl.schedules.loopnest import LoopNest, Seq, Stmt, Sync, rewrite, walk
from tensordsl.schedules.trace import Trace

import tensordsl as td
from examples.cuda_gemm import schedule
from tensordsl.errors import BuildError, ScheduleError
from tensordsl.targets.cuda import cuda_target

SM80 = cuda_target("sm_80")
TILE = {"bm": 16, "bn": 16, "bk": 8, "tm": 4, "tn": 4}


@dataclass(frozen=True)
class Case:
    """A kernel of some sizes; wrong: how its text was broken."""

    shape: tuple[int, int, int]
    source: CudaSource
    wrong: str = ""


def with_syncs(nest: LoopNest, change: Callable[[Sync, int], Stmt | None]) -> LoopNest:
    """The nest with its syncs changed, given their number in the text."""
    order = {id(s): i for i, s in enumerate(s for s, _ in walk(nest.body) if isinstance(s, Sync))}
    return replace(nest, body=rewrite(nest.body, lambda s: change(s, order[id(s)]) if id(s) in order else None))  # type: ignore[arg-type]


def mutants(nest: LoopNest) -> dict[str, LoopNest]:
    """The nest with each barrier dropped and each wait one too weak."""
    found = {}
    for i, s in enumerate(s for s, _ in walk(nest.body) if isinstance(s, Sync)):
        if s.kind == "barrier":
            found[f"barrier {i} dropped"] = with_syncs(nest, lambda x, n, i=i: Seq(()) if n == i else None)  # type: ignore[misc]
        elif s.kind == "wait":
            weak = Sync("wait", s.count + 1)
            found[f"wait {i} too weak"] = with_syncs(nest, lambda x, n, i=i, w=weak: w if n == i else None)  # type: ignore[misc]
    return found


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    shapes = [(48, 32, 32, {}), (32, 16, 40, {"stages": 3}), (16, 32, 48, {"stages": 4, "tn": 2}), (21, 19, 30, {})]
    found = []
    for i, (m, n, k, options) in enumerate(shapes):
        nest = insert_sync(schedule(m, n, k, **{**TILE, **options}).nest)
        found.append(Case((m, n, k), to_cuda(nest, SM80, f"gemm_{i}")))
        if i < 2:
            for j, (name, wrong) in enumerate(mutants(nest).items()):
                found.append(Case((m, n, k), to_cuda(wrong, SM80, f"gemm_{i}_mutant_{j}"), name))
    return found


@pytest.fixture(scope="module")
def emulation(cases: list[Case]) -> Emulation:
    return compile_emulation([c.source for c in cases])


def is_right(emulation: Emulation, case: Case, order: str | int, late: bool) -> bool:
    """Small integers: float arithmetic is exact, so results are equal bit by bit."""
    m, n, k = case.shape
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-8, 9, s).astype("float32") for s in ((m, k), (k, n)))
    c = np.full((m, n), np.nan, "float32")
    emulation.run(case.source, {"A": a, "B": b, "C": c}, order, late)
    return bool((c == a @ b).all())


RUNS = [(order, late) for order in ("forward", "reverse", 1, 2) for late in (False, True)]


def test_right_in_every_order(cases: list[Case], emulation: Emulation) -> None:
    for case in cases:
        if not case.wrong:
            for order, late in RUNS:
                assert is_right(emulation, case, order, late), (case.source.symbol, order, late)


def test_every_mutant_is_wrong_in_some_order_and_refused(cases: list[Case], emulation: Emulation) -> None:
    wrong = [c for c in cases if c.wrong]
    assert len(wrong) >= 8
    for case in wrong:
        assert not all(is_right(emulation, case, order, late) for order, late in RUNS), case.wrong
    for m, n, k, options in ((48, 32, 32, {}), (32, 16, 40, {"stages": 3})):
        for name, nest in mutants(insert_sync(schedule(m, n, k, **{**TILE, **options}).nest)).items():
            with pytest.raises(ScheduleError, match="missing") as refused:
                check_sync(nest)
            assert refused.value.counterexample, name


def test_interpreted_nest_equals_numpy() -> None:
    rng = np.random.default_rng(1)
    for m, n, k in ((16, 16, 24), (9, 7, 20)):
        s = schedule(m, n, k, bm=8, bn=8, bk=8, tm=2, tn=2)
        a, b = (rng.integers(-8, 9, shape).astype("float32") for shape in ((m, k), (k, n)))
        assert (interpret(insert_sync(s.nest), {"A": a, "B": b})["C"] == a @ b).all()


def test_classical_form() -> None:
    text = to_cuda(insert_sync(schedule(256, 256, 256).nest), SM80).text
    loop = text[text.index("for (int k_o = 0; k_o < 15; k_o++)") :]
    loop = loop[: loop.index("\n  }\n")]
    assert loop.count("__syncthreads();") == 1 and loop.count("td_wait<0>();") == 1
    assert loop.index("td_wait<0>();") < loop.index("__syncthreads();") < loop.index("td_copy_async<16>")
    assert loop.count("td_copy_async<16>") == 2 and "td_load<4>(&As[" in loop and "td_load<4>(&Bs[" in loop
    assert "float acc[16];" in text and "float ra[16];" in text and "TD_SHARED(float, As, 2560);" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.fold("As", 0, 1), "finds A"),  # one slot for two stages
        (lambda s: s.pipeline("C", "k.o", 1), "stages=1"),
        (lambda s: s.pipeline("C", "k.o", 99), "less than 99 stages"),
        (lambda s: s.pipeline("C", "k.m", 2), 'no shared buffer is filled in the body of "k.m"'),
    ],
)
def test_wrong_stages_are_refused(change: Callable[[td.Schedule], td.Schedule], message: str) -> None:
    s = schedule(16, 16, 24, bm=8, bn=8, bk=8, tm=2, tn=2)
    with pytest.raises(ScheduleError, match=message):
        change(s).validate()


def test_schedule_replays_from_its_trace() -> None:
    s = schedule(32, 32, 32, **TILE)
    again = td.Schedule.replay(s.program, s.trace)
    assert str(again) == str(s)


def test_decompose_reduction_starts_before_the_loop() -> None:
    def plain() -> td.Schedule:
        x = td.placeholder((6, 8), name="x")
        k = td.reduce_axis(8, name="k")
        s = td.Schedule(td.Program([x], [td.compute((6,), lambda i: td.sum(x[i, k], axis=k), name="y")], name="rows"))
        return s.split("y", "i", 4).split("y", "k", 4).reorder("y", "i.o", "k.o", "i.i", "k.i")

    s = plain().decompose_reduction("y", "k.o")
    lines = [line.strip() for line in str(s).splitlines()]
    start = lines.index("for k.o in 0..2:")
    assert lines[start - 2] == "for i.i in 0..min(4, -4*i.o + 6):" and lines[start - 1] == "y[i.i + 4*i.o] = 0"
    assert not any(line.startswith("if") for line in lines)
    assert str(td.Schedule.replay(s.program, Trace.from_json(s.trace.to_json()))) == str(s)
    for loop, message in (("k.i", 'y starts outside "k.i"'), ("q", 'has no loop "q"')):
        with pytest.raises(ScheduleError, match=message):
            plain().decompose_reduction("y", loop)


def test_too_much_for_the_device_is_refused() -> None:
    nest = insert_sync(schedule(256, 256, 256, bm=128, bn=128, bk=32, tm=8, tn=8, stages=3).nest)
    assert to_cuda(nest, SM80).dynamic_bytes > 48 * 1024
    with pytest.raises(BuildError, match="bytes of shared memory, cuda-sm_86 has 101376"):
        to_cuda(nest, cuda_target("sm_86"))
    with pytest.raises(BuildError, match="cuda-sm_75 has no asynchronous copies"):
        to_cuda(insert_sync(schedule(64, 64, 64, **TILE).nest), cuda_target("sm_75"))


@pytest.mark.nvcc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
def test_compiles_for_devices_without_spills(architecture: str) -> None:
    sources = []
    for i, options in enumerate([{}, {"bm": 128, "bn": 128, "tm": 8, "tn": 8, "stages": 3}]):
        nest = insert_sync(schedule(1024, 1024, 1024, **options).nest)
        sources.append(to_cuda(nest, cuda_target(architecture), f"gemm_{i}"))
    cubin = compile_cubin(sources, cuda_target(architecture))
    assert cubin.code[:4] == b"\x7fELF"
    for source in sources:
        used = cubin.resources[source.symbol]
        assert (used.stack_bytes, used.spill_store_bytes, used.spill_load_bytes) == (0, 0, 0)
        assert used.registers * source.block[0] <= SM80.registers_per_block
