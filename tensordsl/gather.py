"""Array notation with tensors as indices: ``x[i]`` picks elements where an integer tensor says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensordsl.affine import Affine
from tensordsl.array import axes_like, broadcast_shapes, derived, element
from tensordsl.data_index import subscript
from tensordsl.errors import ProgramError, user_location
from tensordsl.expr import Read
from tensordsl.tensor import Tensor, define


def gather(t: Tensor, key: Sequence[Any]) -> Tensor:
    """The elements of ``t`` at a key of integer tensors and whole slices, one for each dimension.

    The tensors broadcast together; their dimensions stand where the first of them stands, as in numpy.
    Raises ProgramError where slices lie between them, or for an index of unknown range.
    """
    at = [d for d, k in enumerate(key) if isinstance(k, Tensor)]
    if at != list(range(at[0], at[-1] + 1)):
        raise ProgramError(
            f"{t.name}: the tensors that index it are not beside each other", hint="transpose first, or use td.compute"
        )
    for d in at:
        if key[d].dtype.kind not in "iu":
            raise ProgramError(
                f"{t.name}: dimension {d} is indexed by {key[d]}, which has no integers",
                hint="the shape of a result cannot depend on data: use td.where(condition, x, 0)",
            )
    shared = broadcast_shapes("index", *[key[d].shape for d in at])
    kept = [n for d, n in enumerate(t.shape) if d not in at]
    axes = axes_like([*kept[: at[0]], *shared, *kept[at[0] :]])
    names = [Affine.of(a.name) for a in axes]
    inner = names[at[0] : at[0] + len(shared)]
    rest = iter(names[: at[0]] + names[at[0] + len(shared) :])
    where = user_location()
    index = [
        subscript(element(k, inner), f"{t.name} (dimension {d})", where) if d in at else next(rest)
        for d, k in enumerate(key)
    ]
    return define(axes, Read(t, tuple(index), where), None, label=derived(t, "at"))


def take_along_axis(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """The elements of ``x`` at ``indices`` along a dimension, as numpy.take_along_axis.

    indices: integers of known range and of x's rank; the other sizes are those of x.
    """
    d = axis + x.ndim if axis < 0 else axis
    if not 0 <= d < x.ndim:
        raise ProgramError(f"take_along_axis: {x} has no dimension {axis}")
    if indices.dtype.kind not in "iu":
        raise ProgramError(f"take_along_axis: {indices} has no integers")
    if len(indices.shape) != x.ndim or any(a != b for k, (a, b) in enumerate(zip(indices.shape, x.shape)) if k != d):
        raise ProgramError(f"take_along_axis: {indices} does not have the shape of {x} but for dimension {axis}")
    axes = axes_like(indices.shape)
    names = [Affine.of(a.name) for a in axes]
    where = user_location()
    names[d] = subscript(element(indices, names), f"{x.name} (dimension {d})", where)
    return define(axes, Read(x, tuple(names), where), None, label=derived(x, "at"))
