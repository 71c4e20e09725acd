"""One kernel for all sizes: a feed-forward layer whose batch is known only when it is called.

The loops are proven for every size that the assumptions allow; a size that matters more gets a kernel
of its own beside the general one.
"""

import numpy as np

import tensordsl as td


@td.operator("x: float32[T, D], w: float32[D, F], b: float32[F]; D % 16 == 0; F % 16 == 0; T >= 1")
def layer(x, w, b):
    """gelu(x w + b) for T tokens of D features."""
    d = td.reduce_axis("D")
    h = td.compute(("T", "F"), lambda t, f: td.sum(x[t, d] * w[d, f], axis=d) + b[f], name="h")
    return td.ops.gelu(h)


@td.operator("q: float32[T, D], k: float32[S, D:ldk]; S >= T; D >= 1")
def causal_weights(q, k):
    """softmax of the scores of T queries at the end of S keys, of which a cache holds rows that lie apart."""
    d = td.reduce_axis("D")
    ahead = k.shape[0] - q.shape[0]
    scores = td.compute(
        ("T", "S"),
        lambda t, s: td.select(
            s <= t + ahead, td.sum(q[t, d] * k[s, d], axis=d) / td.sqrt(td.cast(q.shape[1], "float32")), -1e30
        ),
        name="scores",
    )
    return td.ops.softmax(scores)


def main() -> None:
    rng = np.random.default_rng(0)
    kernel = td.compile(layer, sizes=[{"T": 1}])
    w, b = rng.standard_normal((64, 48), np.float32), rng.standard_normal(48, np.float32)
    for tokens in (1, 7, 200):
        x = rng.standard_normal((tokens, 64), np.float32)
        inputs = {"x": x, "w": w, "b": b}
        exact = td.interpret(layer.symbolic(), inputs)["gelu"]
        bound = td.error_bound(layer.symbolic(), inputs)["gelu"]
        print(f"layer, {tokens} tokens:", "agrees" if (abs(kernel(x, w, b) - exact) <= bound).all() else "WRONG")
    try:
        kernel(rng.standard_normal((3, 60), np.float32), w[:60], b)
    except td.BuildError as error:
        print(error.message)
    weights = td.compile(causal_weights)
    cache = rng.standard_normal((300, 80), np.float32)
    for known in (5, 64, 300):
        q = rng.standard_normal((3, 64), np.float32)
        p = weights(q, cache[:known, :64])
        print(f"causal_weights, {known} keys: rows sum to 1:", bool(np.allclose(p.sum(1), 1, atol=1e-5)))


if __name__ == "__main__":
    main()
