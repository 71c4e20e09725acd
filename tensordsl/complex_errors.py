"""Rounding errors of complex arithmetic, in the modulus, for kernels that compute with real and imaginary parts.

Sources: N. Higham, Accuracy and Stability of Numerical Algorithms, section 3.6, for products (sqrt(8) u |a b|) and
quotients; Smith's division, which does not overflow early, within 16 u |v|; an absolute value or an exponential is made
of a few functions good to 4 u each.
"""

from __future__ import annotations

import numpy as np

from tensordsl.arithmetic import Array

#: operation -> its error in units of u |value|, where operands are exact
UNITS = {"add": 1.0, "sub": 1.0, "cast": 1.0, "mul": 3.0, "div": 16.0, "abs": 8.0, "exp": 16.0}
#: Results that are always representable when the operands are.
EXACT = frozenset({"neg", "conj", "real", "imag"})


def whole(value: Array) -> Array:
    """Where both parts are integers."""
    holds: Array = value == np.rint(value)
    return holds


def exact_product(a: Array, b: Array, limit: float) -> Array:
    """Where the products of the parts are integers that are added without rounding."""
    return whole(a) & whole(b) & (2 * np.abs(a) * np.abs(b) < limit)


def exponential_change(value: Array, error: Array) -> Array:
    """The widest change of exp z over the disc of the error."""
    change: Array = np.abs(value) * np.expm1(error)
    return change
