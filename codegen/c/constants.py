"""Constants in C: their elements as static data beside the kernel."""

from __future__ import annotations

from tensordsl.codegen.c.types import literal

from tensordsl.errors import BuildError
from tensordsl.tensor import Tensor

#: Bytes past which the text of a constant is more than compilers read in a few seconds.
MOST_BYTES = 16 << 20
_PER_LINE = 16


def data(t: Tensor, symbol: str, name: str) -> str:
    """The definition of a constant's elements, in the order of memory.  Raises BuildError for very large ones."""
    if t.value.nbytes > MOST_BYTES:
        raise BuildError(
            f"the constant {t} has {t.value.nbytes} bytes, more than {MOST_BYTES}",
            hint="make it an input, and give the array with each call",
        )
    texts = [literal(v, t.dtype) for v in t.value.ravel().tolist()] or ["0"]
    lines = [", ".join(texts[k : k + _PER_LINE]) for k in range(0, len(texts), _PER_LINE)]
    head = f"static const {t.dtype.c_name} {symbol}_{name}[{len(texts)}] __attribute__((aligned(64))) = {{"
    return "\n".join([head, *(f"    {line}," for line in lines), "};", ""])


def reference(t: Tensor, symbol: str, name: str) -> str:
    """The name by which the kernel knows the elements."""
    return f"    const {t.dtype.c_name} *const {name} = {symbol}_{name};"
