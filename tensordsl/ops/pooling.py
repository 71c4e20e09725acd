"""Pooling of images: one value per window."""

from __future__ import annotations

from tensordsl import expr
from tensordsl.affine import Affine
from tensordsl.errors import ProgramError, user_location
from tensordsl.expr import REDUCERS, Axis, Expr, Index, Read, Reduce
from tensordsl.ops.windows import Pair, Windows, padded, pair, windows
from tensordsl.tensor import Tensor, define


def max_pool2d(
    x: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    layout: str = "NCHW",
) -> Tensor:
    """The maximum of each window, as torch.nn.functional.max_pool2d.

    x: (n, c, h, w), or (n, h, w, c) with layout "NHWC".  stride: kernel_size where None.
    padding: pixels that count as minus infinity, at most half a window.
    Raises ProgramError for other ranks, and windows larger than the image.
    """
    w = _windows("max_pool2d", x, kernel_size, stride, padding, dilation, layout)
    lowest = REDUCERS["max"].identity(x.dtype).value
    axes, body = _pool("max", padded(x, w, lowest), w)
    return define(axes, body, None, label="max_pool2d")


def avg_pool2d(
    x: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    count_include_pad: bool = True,
    layout: str = "NCHW",
) -> Tensor:
    """The mean of each window, as torch.nn.functional.avg_pool2d; x as in `max_pool2d`, floats.

    count_include_pad: whether padding counts as zeros (True) or not at all.
    Raises ProgramError for other ranks or integers, and windows larger than the image.
    """
    if not x.dtype.is_float:
        raise ProgramError(f"avg_pool2d: {x} is not of a float type", hint='convert it: x.astype("float32")')
    w = _windows("avg_pool2d", x, kernel_size, stride, padding, 1, layout)
    axes, total = _pool("sum", padded(x, w, 0.0), w)
    if count_include_pad or w.padding == (0, 0):
        return define(axes, total / float(w.size[0] * w.size[1]), None, label="avg_pool2d")
    count = _covered("h", w, 0) * _covered("w", w, 1)
    return define(axes, total / expr.cast(count, x.dtype), None, label="avg_pool2d")


def _windows(
    what: str, x: Tensor, kernel_size: Pair, stride: Pair | None, padding: Pair, dilation: Pair, layout: str
) -> Windows:
    size = pair(what, "kernel_size", kernel_size, 1)
    w = windows(what, x, layout, size, size if stride is None else stride, padding, dilation)
    if any(2 * p > s for p, s in zip(w.padding, size)):
        raise ProgramError(f"{what}: padding {w.padding} is more than half of the window {size}")
    return w


def _pool(reducer: str, image: Tensor, w: Windows) -> tuple[tuple[Axis, ...], Expr]:
    channels = image.shape[1] if w.layout == "NCHW" else image.shape[3]
    pixel = Read(image, w.index(Affine.of("c"), *w.pixel("r", "s")), user_location())
    inner = (Axis("r", w.size[0]), Axis("s", w.size[1]))
    axes = w.axes(image.shape[0], Axis("c", channels), w.count)
    return axes, Reduce(REDUCERS[reducer], inner, pixel, user_location())


def _covered(axis: str, w: Windows, d: int) -> Expr:
    """How many pixels of a window lie in the image along one direction."""
    start = Affine.of(axis) * w.stride[d] - w.padding[d]
    end = expr.binary("min", Index(start + w.size[d]), w.image[d])
    return end - expr.binary("max", Index(start), 0)
