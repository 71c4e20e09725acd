"""Sizes of a reduction that reads a large operand once: the order of memory counts, not registers.

A few rows of the operand are read side by side and added into the row of results, which stays in
the first-level cache; a strip held in registers over all rows would jump from row to row instead,
page after page.  (Several streams at once keep the hardware's prefetchers busy.)
"""

from __future__ import annotations

from tensordsl.schedules.analysis import Tile, definition_of, depends, stride
from tensordsl.schedules.sketches.contraction import TileSizes, elements_of

from tensordsl.targets import Target
from tensordsl.tensor import Tensor

#: Rows read side by side, and vectors of each.
ROWS, VECTORS = 8, 2


def streaming_sizes(t: Tensor, tile: Tile, target: Target) -> TileSizes | None:
    """The sizes, or None where the operand is small, is read again, or does not run along rows."""
    d = definition_of(t)
    streams = [r for r in d.reads if depends(r, tile.vector)]
    if tile.row is not None or len(d.reduce_axes) != 1 or d.reduce_axes[0].extent < 2 * ROWS:
        return None
    if len(streams) != 1 or stride(streams[0], tile.vector) != 1 or len(target.caches) < 2:
        return None
    operand, row = streams[0].source, t.shape[-1] * t.dtype.bytes
    large = elements_of(operand.shape) * operand.dtype.bytes > target.caches[1]
    vectors = t.shape[-1] // target.lanes(t.dtype)
    if not large or vectors < VECTORS or 2 * row > target.caches[0]:
        return None
    return TileSizes(1, VECTORS, ROWS, 1, False)
