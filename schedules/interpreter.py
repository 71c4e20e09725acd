"""The meaning of a loop nest: `interpret` runs it in order, cell by cell, and checks every access.

The nest is translated to Python loops over flat lists (nest_python.py) and compiled, so that small
sizes run at a few million stores a second.  A cell that was never written holds None: reading one
raises ScheduleError, and so does an index outside the logical shape of its buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NoReturn

import numpy as np
from tensordsl.schedules.at_sizes import at_sizes
from tensordsl.schedules.loopnest import LoopNest
from tensordsl.schedules.nest_python import Marked, Memory, NestCode, cells_of
from tensordsl.schedules.scalar_python import GLOBALS

from tensordsl.arithmetic import numpy_type
from tensordsl.errors import ScheduleError, closest
from tensordsl.instances import sizes_of

Precision = Literal["float64", "float32"]
Arrays = Mapping[str, Any]


def interpret(
    nest: LoopNest, arrays: Arrays, lockstep: bool = False, dtype: Precision = "float64", lanes: int = 16
) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs of a nest run in order, by name.

    arrays: the inputs by name, in their logical shapes.
    lockstep: vector loops run as printed (chunks of ``lanes``, statement by statement, loads before
        stores, guards as masks), and iterations of one parallel loop may not share a cell that one
        of them writes.  Equal to the plain meaning iff the kinds are legal on these data.
    dtype: "float64": floats are not rounded to their types; "float32": every float32 operation is.
    Integers are exact and wrap around as in their types.
    Raises ScheduleError for a cell outside its buffer, read before it is written, or never written
    in an output, and for a race of a parallel loop.
    """
    if nest.program.free:
        given = [(t, np.shape(arrays[t.name])) for t in nest.program.inputs if t.name in arrays]
        nest = at_sizes(nest, sizes_of(nest.program, given))
    return Meaning(nest, lockstep, dtype, lanes)(arrays)


class Meaning:
    """A nest compiled to Python: call it with the inputs by name (see `interpret`).

    text: the generated Python.
    """

    def __init__(self, nest: LoopNest, lockstep: bool = False, dtype: Precision = "float64", lanes: int = 16) -> None:
        if dtype not in ("float64", "float32"):
            raise ScheduleError(f"interpret: unknown precision {dtype!r}", legal=("float64", "float32"))
        self.nest, self.dtype = nest, dtype
        writer = NestCode(nest, lockstep, dtype == "float32", lanes)
        self.memory = writer.memory
        self.text = writer.text()
        self._sites = writer.sites
        scope: dict[str, Any] = {**GLOBALS, "fail": self._fail, "touch": _touch, "known": _known}
        exec(compile(self.text, f"<nest {nest.name}>", "exec"), scope)
        self._run: Callable[..., None] = scope["nest"]

    def __call__(self, arrays: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        arrays = {**arrays, **{t.name: t.value for t in self.nest.program.constants}}
        unknown = [n for n in arrays if n not in {m.buffer.name for m in self.memory}]
        if unknown:
            names = [m.buffer.name for m in self.memory]
            like = closest(unknown[0], names)
            raise ScheduleError(
                f"interpret: {self.nest.name} has no buffer {unknown[0]!r}",
                legal=names,
                hint=f"did you mean {like!r}?" if like else None,
            )
        cells = [self._load(m, arrays) for m in self.memory]
        try:
            self._run(*cells)
        except ZeroDivisionError:
            raise ScheduleError(f"{self.nest.name}: integer division by zero") from None
        except ArithmeticError as e:
            raise ScheduleError(f"{self.nest.name}: {e}") from None
        return {m.output: self._unload(m, c) for m, c in zip(self.memory, cells) if m.output}

    def _load(self, m: Memory, arrays: Arrays) -> list[Any]:
        b = m.buffer
        if not m.given:
            return [None] * cells_of(b)
        if b.name not in arrays:
            raise ScheduleError(f"interpret: no array for input {b}")
        a = np.asarray(arrays[b.name])
        if a.shape != b.shape:
            raise ScheduleError(f"interpret: input {b} got an array of shape {a.shape}")
        if b.dtype.is_inexact and self.dtype == "float64":
            return a.astype(numpy_type(b.dtype, "float64")).ravel().tolist()  # type: ignore[no-any-return]
        a = a.astype(b.dtype.numpy)
        return a.astype(numpy_type(b.dtype, "float64")).ravel().tolist()  # type: ignore[no-any-return]

    def _unload(self, m: Memory, cells: list[Any]) -> np.ndarray[Any, Any]:
        b = m.buffer
        if any(c is None for c in cells):
            at = np.unravel_index(cells.index(None), b.extents())
            raise ScheduleError(
                f"{self.nest.name}: output {b.name}{[int(x) for x in at]} is never written", context=self.nest
            )
        kind = numpy_type(b.dtype, "float64") if self.dtype == "float64" else b.dtype.numpy
        return np.array(cells, dtype=kind).reshape(b.extents())

    def _fail(self, number: int, values: tuple[int, ...]) -> NoReturn:
        site = self._sites[number]
        env = dict(zip(site.variables, values))
        at = [i.evaluate(env) for i in site.cell]
        verb = "writes" if site.kind == "write" else "reads"
        problem = {
            "bounds": f"outside its shape {list(site.buffer.shape)}",
            "unwritten": "before it is written",
            "race": f"which another iteration of {site.loop} uses too",
        }[site.problem]
        raise ScheduleError(
            f"{site.store.instance}: {verb} {site.buffer.name}{at}, {problem}",
            context=Marked(self.nest, site.store),
            counterexample="when " + ", ".join(f"{k} = {v}" for k, v in env.items()) if env else None,
        )


def _known(cells: list[Any], k: int) -> int:
    """An integer that an index reads."""
    if not 0 <= k < len(cells) or cells[k] is None:
        raise ArithmeticError(f"an index reads cell {k}, which is outside its buffer or not written yet")
    return int(cells[k])


def _touch(log: dict[Any, Any], cells: list[Any], k: int, iteration: int, writes: bool) -> bool:
    """Notes an access of one iteration of a parallel loop; True where it conflicts with another's."""
    key = id(cells), k
    seen = log.get(key)
    if seen is None:
        log[key] = (iteration, writes)
        return False
    owner, written = seen
    if owner == iteration:
        if writes and not written:
            log[key] = (iteration, True)
        return False
    if writes or written:
        return True
    log[key] = (None, False)  # several readers
    return False
