"""Running printed C in tests: many kernels in one unit, arguments inside red zones."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensordsl.codegen.c.printer import to_c
from tensordsl.codegen.source import Source, unit
from tensordsl.schedules.loopnest import LoopNest

from tensordsl.targets import Target

FLAGS = ("-std=gnu11", "-O2", "-fPIC", "-fno-math-errno", "-shared",
         "-Wall", "-Werror", "-Wno-psabi", "-Wno-unused-but-set-variable",
         "-Wno-uninitialized")  # fmt: skip
#: bytes around every array that a kernel must leave alone
ZONE = 512
PARALLEL_FOR = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.c_void_p, ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64),
    ctypes.c_void_p, ctypes.c_int64,
)  # fmt: skip


class Call(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_uint64),
        ("parallel_for", PARALLEL_FOR),
        ("pool", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
    )


#: The compiler of tests that do not choose one.
COMPILER = next((c for c in ("gcc", "clang") if shutil.which(c)), "gcc")


def compile_text(text: str, target: Target, compiler: str = COMPILER, flags: Sequence[str] = ()) -> ctypes.CDLL:
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    folder = Path(tempfile.mkdtemp(prefix="printed_"))
    (folder / "unit.c").write_text(text)
    command = [compiler, *FLAGS, *target.compiler_flags, *flags, "-o", "unit.so", "unit.c", "-lm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert not done.returncode, f"{' '.join(command)} in {folder}\n{done.stderr[:6000]}"
    return ctypes.CDLL(str(folder / "unit.so"))


class Printed:
    """Kernels of several nests, by name, printed for one target and compiled together."""

    def __init__(self, nests: Mapping[str, LoopNest], target: Target, compiler: str = COMPILER) -> None:
        self.nests = dict(nests)
        self.sources: dict[str, Source] = {name: to_c(nest, target, f"k_{name}") for name, nest in nests.items()}
        self.library = compile_text(unit(self.sources.values()), target, compiler)

    def run(
        self, name: str, arrays: Mapping[str, Any], *, shift: int = 0, threads: bool = False
    ) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs of one kernel.  shift: elements by which every pointer is off a vector's alignment."""
        nest, source = self.nests[name], self.sources[name]
        outputs = {t.name for t in nest.program.outputs} | set(nest.program.inplace.values())
        zones: list[Callable[[], None]] = []
        placed: dict[str, np.ndarray[Any, Any]] = {}
        arguments: list[Any] = []
        for b in source.parameters:
            given = arrays.get(b.name)
            if not b.shape and b.name not in outputs:
                arguments.append(np.ctypeslib.as_ctypes_type(np.dtype(b.dtype.name))(np.asarray(given).item()))
                continue
            view, check = zoned(b.shape, b.dtype.name, shift)
            zones.append(check)
            if given is not None:
                view[...] = given
            placed[b.name] = view
            arguments.append(ctypes.c_void_p(view.ctypes.data))
        call, check = self.call(source, threads)
        zones.append(check)
        f = getattr(self.library, source.symbol)
        f.restype = ctypes.c_int32
        code = f(call and ctypes.byref(call), *arguments)
        assert code == 0, f"{name} returned {code}"
        for zone in zones:
            zone()
        for name, given in arrays.items():
            if name in placed and name not in outputs:
                np.testing.assert_array_equal(placed[name], given, err_msg=f"input {name} was written")
        return {n: placed[n].copy() for n in placed if n in outputs}

    def call(self, source: Source, threads: bool) -> tuple[Call | None, Callable[[], None]]:
        """What the kernel needs from its caller: scratch with red zones, and threads run one after another."""
        if not source.workspace_bytes and not threads:
            return None, lambda: None
        scratch, check = zoned((source.workspace_bytes,), "uint8", 3)
        run = PARALLEL_FOR(_backwards) if threads else PARALLEL_FOR()
        call = Call(ctypes.sizeof(Call), 0, scratch.ctypes.data, source.workspace_bytes, run, None, None)
        self._alive = (scratch, run)
        return call, check


def _backwards(pool: Any, task: Any, context: Any, count: int) -> int:
    """Every trip by itself, the last first: what depends on the order of a parallel loop shows."""
    for trip in reversed(range(count)):
        task(context, trip, trip + 1)
    return 0


def zoned(shape: tuple[int, ...], dtype: str, shift: int) -> tuple[np.ndarray[Any, Any], Callable[[], None]]:
    """An array of NaN (integers: a pattern) between red zones, and the check that these are untouched."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    memory = np.zeros(size + 2 * ZONE + 128, np.uint8)
    start = (-memory.ctypes.data) % 64 + ZONE + shift * kind.itemsize
    fill = np.array([np.nan], kind) if kind.kind == "f" else np.array([0x5A], np.uint8)
    pattern = np.tile(fill.view(np.uint8), memory.size // fill.nbytes + 1)[: memory.size]
    memory[...] = np.roll(pattern, start % fill.nbytes)
    before, after = memory[:start].copy(), memory[start + size :].copy()
    view = memory[start : start + size].view(kind).reshape(shape)

    def check() -> None:
        assert np.array_equal(memory[:start], before), "a cell before the array was written"
        assert np.array_equal(memory[start + size :], after), "a cell behind the array was written"

    return view, check
