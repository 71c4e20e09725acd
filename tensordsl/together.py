"""Several tensors of one definition: a reduction that they share is computed once."""

from __future__ import annotations

from collections.abc import Sequence

from tensordsl import combination, expr, tensor
from tensordsl.errors import ProgramError
from tensordsl.expr import Axis, Expr, ExprLike
from tensordsl.tensor import OrderLike, Tensor


def computed(
    axes: tuple[Axis, ...], found: tuple[ExprLike, ...], names: str | Sequence[str] | None, order: OrderLike | None
) -> tuple[Tensor, ...]:
    """The tensors of a function that gives a tuple (see `tensor.compute`)."""
    if isinstance(names, str) or (names is not None and len(names) != len(found)):
        raise ProgramError(f"compute: {len(found)} expressions need as many names, got {names!r}")
    if order is not None:
        raise ProgramError("compute: several tensors in an order are td.recurrences")
    return several(axes, [expr.expression(e) for e in found], names, names[0] if names else "t")


def several(
    axes: tuple[Axis, ...], bodies: Sequence[Expr], names: Sequence[str] | None, label: str
) -> tuple[Tensor, ...]:
    """A tensor for each of some expressions; a reduction that several of them use is computed once."""
    hoisted = tensor.hoist(combination.pack(bodies), axes, label, (), [])
    return tuple(
        tensor.define(axes, body, None if names is None else names[n], label=label)
        for n, body in enumerate(expr.children(hoisted))
    )
