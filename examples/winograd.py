"""A convolution by Winograd's minimal filtering: fewer products, a somewhat larger rounding error.

The filter is a constant: its transform is computed when the kernel is built.
"""

from __future__ import annotations

import numpy as np

import tensordsl as td


def convolution(height: int, width: int, channels: int, weights: np.ndarray) -> td.Program:
    """A 3x3 correlation of an image (height, width, channels), zeros around it, in index notation.

    weights: (3, 3, channels, filters) -> (height, width, filters).
    """
    image = td.placeholder((height, width, channels), name="image")
    w = td.constant(weights, name="w")

    def at(i: td.Expr, j: td.Expr, c: td.Expr) -> td.Expr:
        inside = (i >= 1) & (i <= height) & (j >= 1) & (j <= width)
        return td.select(inside, image[i - 1, j - 1, c], 0.0)

    padded = td.compute((height + 2, width + 2, channels), at, name="padded")
    r, s, c = td.reduce_axis(3, "r"), td.reduce_axis(3, "s"), td.reduce_axis(channels, "c")
    shape = (height, width, weights.shape[3])
    y = td.compute(shape, lambda i, j, o: td.sum(padded[i + r, j + s, c] * w[r, s, c, o], axis=(r, s, c)), name="y")
    return td.Program([image], [y], name="convolution")


def with_winograd(program: td.Program, m: int) -> td.Program:
    """The same by F(m x m, 3 x 3): (m + 2)^2 products for m^2 results instead of 9 m^2."""
    result: td.Program = td.Schedule(program).winograd("y", m).program
    return result


def main() -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((3, 3, 32, 32)).astype(np.float32) / 17
    image = rng.standard_normal((28, 28, 32)).astype(np.float32)
    plain = convolution(28, 28, 32, weights)
    exact = td.interpret(plain, {"image": image})["y"]
    for name, program in (("plain", plain), *((f"F({m}, 3)", with_winograd(plain, m)) for m in (2, 4))):
        error = np.abs(td.compile(program)(image) - exact).max()
        print(f"{name}: largest error {error:.1e}")


if __name__ == "__main__":
    main()
