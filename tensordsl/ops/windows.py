"""Sliding windows over images: layouts, paddings and sizes shared by convolution and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union

from tensordsl.affine import Affine
from tensordsl.array import derived, inside
from tensordsl.errors import ProgramError, user_location
from tensordsl.expr import Axis, Const, Read, select
from tensordsl.tensor import Tensor, define

Pair = Union[int, Sequence[int]]
LAYOUTS = ("NCHW", "NHWC")


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of ``size`` at every ``stride`` of an image of height and width ``image``, padded."""

    what: str
    layout: str
    image: tuple[int, int]
    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def count(self) -> tuple[int, int]:
        """Windows down and across."""
        result = []
        for n, size, stride, padding, dilation in zip(self.image, self.size, self.stride, self.padding, self.dilation):
            room = n + 2 * padding - dilation * (size - 1) - 1
            if room < 0:
                raise ProgramError(
                    f"{self.what}: a window of {dilation * (size - 1) + 1} does not fit into {n + 2 * padding} pixels"
                )
            result.append(room // stride + 1)
        return result[0], result[1]

    def shape(self, batch: int, channels: int, image: tuple[int, int]) -> tuple[int, ...]:
        return (batch, channels, *image) if self.layout == "NCHW" else (batch, *image, channels)

    def axes(self, batch: int, channel: Axis, image: tuple[int, int]) -> tuple[Axis, ...]:
        rows, columns = Axis("h", image[0]), Axis("w", image[1])
        n = Axis("n", batch)
        return (n, channel, rows, columns) if self.layout == "NCHW" else (n, rows, columns, channel)

    def index(self, channel: Affine, row: Affine, column: Affine) -> tuple[Affine, ...]:
        n = Affine.of("n")
        return (n, channel, row, column) if self.layout == "NCHW" else (n, row, column, channel)

    def pixel(self, row: str, column: str) -> tuple[Affine, Affine]:
        """The pixel of the padded image that window (h, w) covers at (row, column)."""
        h, w = Affine.of("h") * self.stride[0], Affine.of("w") * self.stride[1]
        return h + Affine.of(row) * self.dilation[0], w + Affine.of(column) * self.dilation[1]


def windows(
    what: str, x: Tensor, layout: str, size: tuple[int, int], stride: Pair, padding: Pair | str, dilation: Pair
) -> Windows:
    """Checked windows over an image tensor of rank 4."""
    if layout not in LAYOUTS:
        raise ProgramError(f"{what}: unknown layout {layout!r}", legal=LAYOUTS)
    if x.ndim != 4:
        raise ProgramError(f"{what}: {x} is not a batch of images {layout}")
    steps, spread = pair(what, "stride", stride, 1), pair(what, "dilation", dilation, 1)
    image = (x.shape[2], x.shape[3]) if layout == "NCHW" else (x.shape[1], x.shape[2])
    if padding == "valid":
        border = (0, 0)
    elif padding == "same":
        if steps != (1, 1) or any(d * (s - 1) % 2 for d, s in zip(spread, size)):
            raise ProgramError(f'{what}: padding "same" needs stride 1 and windows of odd size')
        border = (spread[0] * (size[0] - 1) // 2, spread[1] * (size[1] - 1) // 2)
    elif isinstance(padding, str):
        raise ProgramError(f"{what}: unknown padding {padding!r}", legal='a size, two sizes, "same" or "valid"')
    else:
        border = pair(what, "padding", padding, 0)
    return Windows(what, layout, image, size, steps, border, spread)


def pair(what: str, name: str, value: Pair, least: int) -> tuple[int, int]:
    """One size for both directions, or (height, width)."""
    both: list[Any] = list(value) if isinstance(value, (tuple, list)) else [value, value]
    if len(both) != 2 or any(isinstance(v, bool) or not hasattr(v, "__index__") or v < least for v in both):
        raise ProgramError(f"{what}: {name}={value!r} is not one or two integers of at least {least}")
    return int(both[0]), int(both[1])


def padded(x: Tensor, w: Windows, border: float) -> Tensor:
    """The image with its border, as a tensor of its own (x itself without padding)."""
    if w.padding == (0, 0):
        return x
    down, across = w.padding
    image = (w.image[0] + 2 * down, w.image[1] + 2 * across)
    channels = x.shape[1] if w.layout == "NCHW" else x.shape[3]
    axes = w.axes(x.shape[0], Axis("c", channels), image)
    index = w.index(Affine.of("c"), Affine.of("h") - down, Affine.of("w") - across)
    widths = [(p, p) for p in ((0, 0, down, across) if w.layout == "NCHW" else (0, down, across, 0))]
    body = select(inside(index, x.shape, widths), Read(x, index, user_location()), Const(border, x.dtype))
    return define(axes, body, None, label=derived(x, "pad"))
