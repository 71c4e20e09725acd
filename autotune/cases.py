"""What a candidate must compute: inputs, expected outputs and how far off they may be.

Two cases for every workload: small integers, for which sums and products are exact, so that any
order of evaluation gives the same bits; and random numbers with the tolerance derived from the
program.  Computed once per workload, shared with the measuring process
as files.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensordsl.autotune.measure import measuring_core, room_for_files
from tensordsl.autotune.timing_c import REFERENCE_STEPS, timing_library
from tensordsl.autotune.worker import Case, Parameter, Workplace
from tensordsl.codegen.packed import is_packed, packed, packed_shape
from tensordsl.codegen.runtime import parameters as kernel_parameters
from tensordsl.codegen.toolchain import Toolchain
from tensordsl.schedules.loopnest import LoopNest

from tensordsl import dtypes
from tensordsl.errors import TuneError
from tensordsl.program import Program
from tensordsl.targets import Target


@contextlib.contextmanager
def case_folder() -> Iterator[Path]:
    """A temporary folder for cases.  Raises TuneError where there can be none."""
    with room_for_files():
        folder = tempfile.TemporaryDirectory(prefix="tensordsl-cases-", ignore_cleanup_errors=True)
    with folder:
        yield Path(folder.name)


Arrays = Mapping[str, np.ndarray[Any, Any]]

#: The cases there are (see `case_inputs`).
CASES = ("integers", "random", "special")

_SEED = 20260101


def workplace(
    program: Program,
    nest: LoopNest,
    target: Target,
    folder: Path,
    tools: Toolchain,
    cold: bool = False,
    names: Sequence[str] = ("integers", "random"),
) -> Workplace:
    """Write the cases of a program into a folder and describe them to the measuring process.

    names: of cases, see `case_inputs`; kernels are timed on the last one.
    """
    parameters = tuple(
        Parameter(p.name, packed_shape(p.shape), "uint8", p.role)
        if is_packed(p.dtype)
        else Parameter(p.name, p.shape, p.dtype.name, p.role)
        for p in kernel_parameters(nest)
    )
    by_value = [_c_type(program, p.name) if p.role == "scalar" else "" for p in parameters]
    cases = tuple(_write(program, parameters, folder, name) for name in names)
    return Workplace(
        folder=str(folder),
        parameters=parameters,
        cases=cases,
        timing_library=str(timing_library(by_value, target, tools)),
        reference_steps=REFERENCE_STEPS,
        cold_bytes=2 * max(target.caches) if cold else 0,
        core=measuring_core(),
    )


def _c_type(program: Program, name: str) -> str:
    return program[name].dtype.c_name


def _write(program: Program, parameters: Iterable[Parameter], folder: Path, name: str) -> Case:
    """The files of one case (see `worker.Case`)."""
    inputs = case_inputs(program, name)
    expected, tolerance, exact = reference(program, inputs)
    taken_over = {source: output for output, source in program.inplace.items()}
    with room_for_files():
        for p in parameters:
            if p.role != "output":
                given = packed(inputs[p.name]) if is_packed(program[p.name].dtype) else inputs[p.name]
                bits = given if given.dtype.isbuiltin == 1 else given.view(f"u{given.itemsize}")
                np.save(folder / f"{name}.in.{p.name}.npy", bits)  # numpy's files know its own types only
            if p.role in ("output", "inplace"):
                output = taken_over.get(p.name, p.name)
                np.save(folder / f"{name}.out.{p.name}.npy", expected[output])
                np.save(folder / f"{name}.tol.{p.name}.npy", tolerance[output])
    return Case(name, exact)


def case_inputs(program: Program, name: str, seed: int = _SEED) -> Arrays:
    """Inputs by name.  ``integers``: small ones.  ``random``.  ``special``: random ones with zeros of
    both signs, denormal numbers and numbers near the limits of the type among them."""
    from tensordsl.interpreter import random_inputs, small_integer_inputs

    rng = np.random.default_rng(seed)
    if name == "integers":
        return small_integer_inputs(program, rng)
    inputs = dict(random_inputs(program, rng))
    if name == "special":
        for t in program.arguments:
            if t.dtype.is_float and inputs[t.name].size:
                inputs[t.name] = _with_specials(inputs[t.name], rng)
    return inputs


def _with_specials(values: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """One element in sixteen replaced."""
    facts = dtypes.dtype(values.dtype).limits
    least, tiny = float(facts.smallest_subnormal), float(facts.tiny)
    large = min(1e15, float(facts.max) ** 0.4)
    specials = np.array([0.0, -0.0, least, -3 * least, tiny, 1e-20, large, -large]).astype(values.dtype)
    chosen = specials[rng.integers(0, len(specials), values.shape)]
    if (values > 0).all():  # the program needs positive numbers
        chosen = np.maximum(np.abs(chosen), facts.tiny)
    replaced: np.ndarray[Any, Any] = np.where(rng.random(values.shape) < 1 / 16, chosen, values)
    return replaced.astype(values.dtype)


def reference(program: Program, inputs: Arrays) -> tuple[Arrays, Arrays, bool]:
    """(expected outputs, allowed differences, whether results must agree bit by bit: where no
    operation rounds, whatever the order)."""
    from tensordsl.interpreter import error_bound, interpret

    expected = interpret(program, inputs)
    bound = error_bound(program, inputs)
    for t in program.outputs:
        if t.dtype.is_float and expected[t.name].size and np.isnan(expected[t.name]).all():
            raise TuneError(
                f"{program.name}: every element of {t.name} is NaN, so no candidate can be checked",
                hint="inputs are random numbers around 0 and small integers; the operator is defined for neither",
            )
    return expected, bound, not any(bound[t.name].any() for t in program.outputs)
