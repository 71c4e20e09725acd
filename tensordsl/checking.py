"""Does a program mean what somebody says it means?  The interpreter against a function of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tensordsl.arithmetic import Array, numpy_type
from tensordsl.errors import ProgramError, traceback_location
from tensordsl.interpreter import error_bound, interpret
from tensordsl.program import Program
from tensordsl.sampling import random_inputs, small_integer_inputs
from tensordsl.tensor import Tensor


def check(
    program: Program,
    reference: Callable[..., Any],
    inputs: Mapping[str, Any] | None = None,
    *,
    draws: int = 3,
    seed: int = 0,
) -> None:
    """Compare a program with a function of numpy arrays.

    reference: takes the inputs in order, floats as float64, and returns the output, or several in order.
    inputs: arrays by name to compare on (None: small integers, then ``draws`` random ones).
    Raises ProgramError with the first element that differs by more than the bound of `error_bound`,
    where a shape differs, and for whatever the reference raises.
    """
    rng = np.random.default_rng(seed)
    if inputs is not None:
        cases = [("the given inputs", dict(inputs))]
    else:
        cases = [("small integers", small_integer_inputs(program, rng))]
        cases += [(f"random inputs {n} of seed {seed}", random_inputs(program, rng)) for n in range(draws)]
    for label, arrays in cases:
        found, bound = interpret(program, arrays), error_bound(program, arrays)
        for t, expected in zip(program.outputs, _call(program, reference, arrays)):
            _compare(t, found[t.name], expected, bound[t.name], label)


def _call(program: Program, reference: Callable[..., Any], arrays: Mapping[str, Any]) -> list[Array]:
    given = [np.asarray(arrays[t.name], numpy_type(t.dtype, "float64")) for t in program.arguments]
    try:
        result = reference(*given)
    except Exception as e:
        raise ProgramError(
            f"the reference of {program.name} raised {type(e).__name__}: {e}", location=traceback_location(e)
        ) from e
    results = list(result) if isinstance(result, (tuple, list)) else [result]
    if len(results) != len(program.outputs):
        raise ProgramError(f"{program.name} has {len(program.outputs)} outputs, its reference returns {len(results)}")
    return [np.asarray(r) for r in results]


def _compare(t: Tensor, found: Array, expected: Array, bound: Array, label: str) -> None:
    if found.shape != expected.shape:
        raise ProgramError(
            f"{t.name} has the shape {list(found.shape)}, its reference {list(expected.shape)}", location=t.location
        )
    with np.errstate(invalid="ignore"):
        allowed = bound + 1e-12 * np.abs(np.where(np.isfinite(expected), expected, 0))
        wide = np.result_type(found, expected, np.float64)
        same = (found == expected) | (np.abs(found.astype(wide) - expected.astype(wide)) <= allowed)
    same |= (found != found) & (expected != expected)
    if not same.all():
        at = tuple(int(i) for i in np.argwhere(~same)[0])
        raise ProgramError(
            f"{t.name}{list(at)} is {found[at]:.9g}, its reference says {expected[at]:.9g}",
            location=t.location,
            counterexample=f"with {label}; {np.count_nonzero(~same)} of {same.size} elements differ",
        )
