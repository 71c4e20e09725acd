"""Matrix products beyond `@`."""

from __future__ import annotations

from tensordsl.affine import Affine
from tensordsl.array import matmul
from tensordsl.errors import ProgramError
from tensordsl.expr import REDUCERS, Axis, Index, Reduce
from tensordsl.tensor import Tensor, define


def batched_matmul(a: Tensor, b: Tensor) -> Tensor:
    """(b, m, k) @ (b, k, n) -> (b, m, n), as torch.bmm.  Raises ProgramError for other ranks or sizes."""
    if a.ndim != 3 or b.ndim != 3 or a.shape[0] != b.shape[0]:
        raise ProgramError(f"batched_matmul: {a} and {b} are not batches of matrices of one size")
    return matmul(a, b)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias: (..., k), (n, k), (n,) -> (..., n), as torch.nn.functional.linear.

    Raises ProgramError for other ranks or sizes.
    """
    if not x.ndim or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        raise ProgramError(f"linear: {x} does not fit weight {weight}", hint="x is (..., k), weight is (n, k)")
    if bias is not None and bias.shape != (weight.shape[0],):
        raise ProgramError(f"linear: {bias} does not fit weight {weight}", hint="bias is (n,)")
    rows = tuple(Axis(n, e) for n, e in zip("ihgfedcb", x.shape[-2::-1]))[::-1]
    column, k = Axis("j", weight.shape[0]), Axis("k", weight.shape[1])
    index = {a.name: Index(Affine.of(a.name)) for a in (*rows, column, k)}
    term = x[tuple(index[a.name] for a in (*rows, k))] * weight[index["j"], index["k"]]
    y = define((*rows, column), Reduce(REDUCERS["sum"], (k,), term), None, label="linear")
    return y if bias is None else y + bias
