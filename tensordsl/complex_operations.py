"""Which operations complex numbers have, and what the functions of one complex number give."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensordsl.errors import ProgramError

if TYPE_CHECKING:
    from tensordsl.expr import Expr

#: One-argument functions of a complex number that give a real one.
PARTS = frozenset({"real", "imag"})
#: What complex numbers have: no order, and few functions.
COMPLEX = frozenset({"add", "sub", "mul", "div", "eq", "ne", "neg", "abs", "exp", "conj"}) | PARTS


def refused(name: str) -> ProgramError:
    return ProgramError(f"{name} is not defined for complex numbers", legal=sorted(COMPLEX))


def complex_unary(name: str, e: Expr) -> Expr:
    """A function of a complex number; the parts and the conjugate of a real one are known."""
    from tensordsl.expr import Op, cast, constant

    if name not in COMPLEX:
        raise refused(name)
    if not e.dtype.is_complex:
        return cast(constant(0), e.dtype) if name == "imag" else e
    return Op(name, (e,), e.dtype.real if name in PARTS or name == "abs" else e.dtype)
