"""Attention as it is defined: softmax(q k' / sqrt(d) + mask) v for one head.

No schedule is written.  The compiler finds that the scores, as large as rows times rows, are read by a
chain of reductions alone, and computes them a tile at a time (schedules/sketches/one_pass.py).
"""

from __future__ import annotations

import numpy as np

import tensordsl as td


def attention_program(n: int, d: int, *, causal: bool = False) -> td.Program:
    """q, k, v: (n, d) -> (n, d).  causal: a row uses the rows up to its own."""
    q, k, v = (td.placeholder((n, d), name=x) for x in "qkv")
    scores = q @ k.T / d**0.5
    if causal:
        scores = td.compute((n, n), lambda i, j: td.select(j <= i, scores[i, j], float("-inf")), name="masked")
    return td.Program([q, k, v], [td.ops.softmax(scores, axis=-1) @ v], name="attention")


def numpy_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, causal: bool = False) -> np.ndarray:
    """The same in numpy, with all scores."""
    scores = q @ k.T / q.shape[1] ** 0.5
    if causal:
        scores = np.where(np.tri(len(q), dtype=bool), scores, -np.inf)
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True) @ v


def main() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1024, 64)).astype(np.float32) for _ in range(3))
    for causal in (False, True):
        kernel = td.compile(attention_program(1024, 64, causal=causal))
        error = np.abs(kernel(q, k, v) - numpy_attention(q, k, v, causal=causal)).max()
        print(f"causal={causal}: {kernel.source.workspace_bytes >> 10} KiB of workspace, error {error:.1e}")


if __name__ == "__main__":
    main()
