"""Activation functions, element by element."""

from __future__ import annotations

import math

from tensordsl import expr
from tensordsl.array import elementwise
from tensordsl.errors import ProgramError
from tensordsl.expr import Expr
from tensordsl.tensor import Tensor


def relu(x: Tensor) -> Tensor:
    """max(x, 0), any shape and dtype."""
    return elementwise("relu", lambda e: expr.binary("max", e, 0), x)


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x times the normal distribution function of x, any shape, floats.

    approximate: "none" by the error function, "tanh" by a polynomial inside tanh (5e-4 off).
    Raises ProgramError for another approximation.  Hendrycks and Gimpel, 2016 (arXiv 1606.08415).
    """
    formulas = {"none": _gelu, "tanh": _gelu_tanh}
    if approximate not in formulas:
        raise ProgramError(f"gelu: unknown approximation {approximate!r}", legal=list(formulas))
    return elementwise("gelu", formulas[approximate], x)


def _gelu(x: Expr) -> Expr:
    return 0.5 * x * (1.0 + expr.unary("erf", x * math.sqrt(0.5)))


def _gelu_tanh(x: Expr) -> Expr:
    return 0.5 * x * (1.0 + expr.unary("tanh", math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x), any shape, floats.  Elfwing et al., 2017 (arXiv 1702.03118)."""
    return elementwise("silu", lambda e: e / (1.0 + expr.unary("exp", -e)), x)
