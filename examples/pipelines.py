"""Image pipelines, each in a few lines: blur, unsharp mask, Harris corners, pyramids, a bilateral grid.

Every function takes the size of its result and returns a `td.Program` on a grey image in float32.
Stages are tensors; which of them are stored, and how much of each, is up to the schedule.
"""

from __future__ import annotations

import tensordsl as td


def image(height: int, width: int, border: int = 0) -> td.Tensor:
    """A grey image with some pixels more on each side than the result has."""
    return td.placeholder((height + 2 * border, width + 2 * border), name="image")


def smooth(x: td.Tensor, name: str) -> td.Tensor:
    """The binomial filter 1 4 6 4 1 along columns, then along rows; four rows and columns less."""
    h, w = x.shape

    def taps(at):  # type: ignore[no-untyped-def]
        return (at(0) + at(4) + 4 * (at(1) + at(3)) + 6 * at(2)) / 16

    rows = td.compute((h, w - 4), lambda i, j: taps(lambda k: x[i, j + k]), name=f"{name}_rows")
    return td.compute((h - 4, w - 4), lambda i, j: taps(lambda k: rows[i + k, j]), name=name)


def blur(height: int, width: int) -> td.Program:
    """A separable blur, 5 by 5."""
    x = image(height, width, 2)
    return td.Program([x], [smooth(x, "blurred")], "blur")


def unsharp(height: int, width: int, amount: float = 0.75) -> td.Program:
    """x + amount (x - blurred), within 0..1."""
    x = image(height, width, 2)
    soft = smooth(x, "soft")

    def pixel(i: td.Expr, j: td.Expr) -> td.Expr:
        here = x[i + 2, j + 2]
        return td.minimum(td.maximum(here + amount * (here - soft[i, j]), 0.0), 1.0)

    return td.Program([x], [td.compute((height, width), pixel, name="sharp")], "unsharp")


def harris(height: int, width: int) -> td.Program:
    """det(S) - 0.04 trace(S)^2 of the gradients' products S, summed over 3 by 3 pixels."""
    x = image(height, width, 2)
    shape = height + 2, width + 2

    def across(i: td.Expr, j: td.Expr) -> td.Expr:
        return (x[i, j + 2] - x[i, j] + 2 * (x[i + 1, j + 2] - x[i + 1, j]) + x[i + 2, j + 2] - x[i + 2, j]) / 8

    def down(i: td.Expr, j: td.Expr) -> td.Expr:
        return (x[i + 2, j] - x[i, j] + 2 * (x[i + 2, j + 1] - x[i, j + 1]) + x[i + 2, j + 2] - x[i, j + 2]) / 8

    dx, dy = td.compute(shape, across, name="dx"), td.compute(shape, down, name="dy")

    def summed(a: td.Tensor, b: td.Tensor, name: str) -> td.Tensor:
        r, s = td.reduce_axis(3, "r"), td.reduce_axis(3, "s")
        term = lambda i, j: td.sum(a[i + r, j + s] * b[i + r, j + s], axis=(r, s))  # noqa: E731
        return td.compute((height, width), term, name=name)

    xx, xy, yy = summed(dx, dx, "xx"), summed(dx, dy, "xy"), summed(dy, dy, "yy")
    corners = td.compute(
        (height, width),
        lambda i, j: xx[i, j] * yy[i, j] - td.square(xy[i, j]) - 0.04 * td.square(xx[i, j] + yy[i, j]),
        name="corners",
    )
    return td.Program([x], [corners], "harris")


def halved(x: td.Tensor, name: str) -> td.Tensor:
    """Every second pixel of the image smoothed by 1 2 1: sizes 2 m + 1 become m."""
    h, w = (n // 2 for n in x.shape)
    rows = td.compute(
        (x.shape[0], w), lambda i, j: (x[i, 2 * j] + 2 * x[i, 2 * j + 1] + x[i, 2 * j + 2]) / 4, name=f"{name}_rows"
    )
    return td.compute(
        (h, w), lambda i, j: (rows[2 * i, j] + 2 * rows[2 * i + 1, j] + rows[2 * i + 2, j]) / 4, name=name
    )


def doubled(x: td.Tensor, name: str) -> td.Tensor:
    """Pixels in between by interpolation: sizes m become 2 m - 1; pixel i lies at i / 2."""
    h, w = (2 * n - 1 for n in x.shape)
    rows = td.compute((h, x.shape[1]), lambda i, j: (x[i // 2, j] + x[(i + 1) // 2, j]) / 2, name=f"{name}_rows")
    return td.compute((h, w), lambda i, j: (rows[i, j // 2] + rows[i, (j + 1) // 2]) / 2, name=name)


def pyramid(height: int, width: int, levels: int = 3) -> td.Program:
    """A Laplacian pyramid: each level is the image less what its half says of it, the last is what is left.

    height, width: of the smallest level.
    """
    for _ in range(levels):
        height, width = 2 * height + 1, 2 * width + 1
    x = image(height, width)
    outputs = []
    here = x
    for n in range(levels):
        half = halved(here, f"gauss{n + 1}")
        up = doubled(half, f"up{n}")
        outputs.append(
            td.compute(up.shape, lambda i, j, here=here, up=up: here[i + 1, j + 1] - up[i, j], name=f"laplace{n}")
        )
        here = half
    return td.Program([x], [*outputs, here], "pyramid")


def bilateral_grid(height: int, width: int, cell: int = 8, bins: int = 8) -> td.Program:
    """An edge-preserving blur: pixels are averaged with pixels near in place and in brightness.

    The grid counts and sums, for each cell of the image and each bin of brightness, the pixels of the cell by a
    tent over their brightness; it is blurred, and read back by the same tents.  No index depends on data.
    Chen, Paris and Durand, 2007.  height, width: multiples of the cell.  Pixels are in 0..1.
    """
    x = image(height, width)
    h, w = height // cell, width // cell
    r, s = td.reduce_axis(cell, "r"), td.reduce_axis(cell, "s")

    def tent(v: td.Expr, z: td.Expr) -> td.Expr:
        return td.maximum(1.0 - td.abs(v * (bins - 1) - z), 0.0)

    def gathered(value, name: str) -> td.Tensor:  # type: ignore[no-untyped-def]
        def pixel(z, i, j):  # type: ignore[no-untyped-def]
            v = x[i * cell + r, j * cell + s]
            return td.sum(tent(v, z) * value(v), axis=(r, s))

        grid = td.compute((bins, h, w), pixel, name=f"{name}_grid")
        near = td.pad(grid, 1)
        a, b, c = (td.reduce_axis(3, n) for n in "abc")
        return td.compute(
            (bins, h, w), lambda z, i, j: td.sum(near[z + a, i + b, j + c], axis=(a, b, c)), name=f"{name}_blurred"
        )

    total, count = gathered(lambda v: v, "total"), gathered(lambda v: 1.0, "count")
    k = td.reduce_axis(bins, "k")

    def read(grid: td.Tensor, name: str) -> td.Tensor:
        return td.compute(
            (height, width), lambda i, j: td.sum(tent(x[i, j], k) * grid[k, i // cell, j // cell], axis=k), name=name
        )

    weight, value = read(count, "weight"), read(total, "value")
    y = td.compute((height, width), lambda i, j: value[i, j] / td.maximum(weight[i, j], 1e-6), name="smoothed")
    return td.Program([x], [y], "bilateral_grid")


PIPELINES = {f.__name__: f for f in (blur, unsharp, harris, pyramid, bilateral_grid)}
