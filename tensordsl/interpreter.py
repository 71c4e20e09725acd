"""The meaning of a program: `interpret` evaluates every definition over its whole domain with numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tensordsl.arithmetic import Array, Precision
from tensordsl.dtypes import ALL
from tensordsl.errors import ProgramError, closest
from tensordsl.evaluation import Evaluator
from tensordsl.instances import sizes_of
from tensordsl.program import Program
from tensordsl.sampling import random_inputs, small_integer_inputs
from tensordsl.tensor import Tensor
from tensordsl.tolerance import SAFETY, ErrorRules

__all__ = ["error_bound", "interpret", "random_inputs", "small_integer_inputs"]


def interpret(program: Program, inputs: Mapping[str, Any], dtype: Precision = "float64") -> dict[str, Array]:
    """The outputs of a program by name.

    inputs: arrays (or scalars, for rank 0) by name.
    dtype: "float64": every float is computed and returned in float64, the reference; "float32":
        floats keep their own types, each operation rounded.
    Integers are exact and wrap around as in their types.  Reductions run in blocks, so memory is
    bounded by the tensors of the program.
    Raises ProgramError for missing, unknown or misshapen inputs, and with a counterexample for an
    integer division by zero or a read outside a tensor.
    """
    if dtype not in ("float64", "float32"):
        raise ProgramError(f"interpret: unknown precision {dtype!r}", legal=("float64", "float32"))
    program = at_shapes(program, inputs)
    cells = Evaluator(program, dtype).run(checked(program, inputs))
    found = {t.name: cells[t.name].value for t in program.outputs}
    return found if dtype == "float64" else {t.name: found[t.name].astype(t.dtype.numpy) for t in program.outputs}


def error_bound(program: Program, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """The tolerance of each output element: how far a correct kernel may lie from `interpret`.

    Derived by running error analysis with the same inputs (the rules are in tolerance.py); zero
    where float arithmetic is exact in any order, so those outputs compare bitwise.
    """
    program = at_shapes(program, inputs)
    cells = Evaluator(program, "float64", ErrorRules()).run(checked(program, inputs))
    return {t.name: _tolerance(cells[t.name].error, t.shape) for t in program.outputs}


def at_shapes(program: Program, inputs: Mapping[str, Any]) -> Program:
    """The program for the sizes of these arrays.  Raises ProgramError where they are not legal ones."""
    if not program.free:
        return program
    given = [(t, np.shape(inputs[t.name])) for t in program.inputs if t.name in inputs]
    return program.at(**sizes_of(program, given))


def _tolerance(error: Array | None, shape: tuple[int, ...]) -> Array:
    return np.zeros(shape) if error is None else SAFETY * np.broadcast_to(error, shape)


def checked(program: Program, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """The arrays of the inputs by name, after a check of names, shapes and kinds."""
    names = [t.name for t in program.arguments]
    for name in inputs:
        if name not in names:
            like = closest(name, names)
            hint = f"did you mean {like!r}?" if like else None
            raise ProgramError(f"{program.name} has no input {name!r}", legal=names, hint=hint)
    arrays: dict[str, Array] = {}
    for t in program.inputs:
        if t.value is not None:
            arrays[t.name] = t.value
            continue
        if t.name not in inputs:
            raise ProgramError(f"{program.name}: no array for input {t}")
        array = np.asarray(inputs[t.name])
        if array.shape != t.shape:
            raise ProgramError(f"{program.name}: input {t} got an array of shape {list(array.shape)}")
        kind = array.dtype.kind if array.dtype.name not in ALL else ALL[array.dtype.name].kind
        inexact = "f" if t.dtype.is_float else "fc" if t.dtype.is_complex else ""
        if kind not in "biu" + inexact:
            raise ProgramError(f"{program.name}: input {t} got an array of {array.dtype}")
        check_values(program.name, t, array)
        arrays[t.name] = array
    return arrays


def check_values(name: str, t: Tensor, array: Array) -> None:
    """Raises ProgramError where the elements of an input do not lie where the program ``name`` says."""
    if not t.stated or t.values is None:
        return
    outside = np.argwhere((array < t.values[0]) | (array > t.values[1]))
    if len(outside):
        at = tuple(int(i) for i in outside[0])
        raise ProgramError(
            f"{name}: input {t} holds a value outside its range",
            counterexample=f"{t.name}[{', '.join(map(str, at))}] = {array[at]}",
        )
