"""Three operators to tune, ship and call from C.

tensordsl tune examples/operators.py:bert_ffn
tensordsl build examples/operators.py -o out --name demo
"""

import tensordsl as td


@td.operator("x: float32[M, K], w: float32[K, N], b: float32[N]")
def linear_gelu(x, w, b):
    """gelu(x @ w + b): the first half of a transformer's feed-forward layer."""
    k = td.reduce_axis("K")
    y = td.compute(("M", "N"), lambda m, n: td.sum(x[m, k] * w[k, n], axis=k), name="y")
    return td.ops.gelu(y + b)


@td.operator("x: float32[M, N]")
def softmax(x):
    """Softmax along rows."""
    return td.ops.softmax(x, axis=-1)


@td.operator("x: float32[N, C, H, W], w: float32[O, C, R, S]")
def conv2d(x, w):
    """A convolution that keeps height and width (kernel sizes odd)."""
    return td.ops.conv2d(x, w, padding=1)


bert_ffn = linear_gelu.bind(M=128, K=768, N=3072)
attention_softmax = softmax.bind(M=512, N=1024)
resnet_conv = conv2d.bind(N=1, C=64, H=56, W=56, O=64, R=3, S=3)
