"""Programs of many structures for the default schedule, written in the language itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensordsl as td

PROGRAMS: dict[str, Callable[[], td.Program]] = {}


def program(*shapes: Any, **sizes: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function of input tensors (a shape, or a shape and a dtype) as a program."""

    def declare(fn: Callable[..., Any]) -> Callable[..., Any]:
        def build() -> td.Program:
            inputs = []
            for n, s in enumerate(shapes):
                shape, dtype = s if isinstance(s[-1], str) else (s, "float32")
                inputs.append(td.placeholder(shape, dtype, f"x{n}"))
            outputs = fn(*inputs)
            return td.Program(inputs, outputs if isinstance(outputs, tuple) else (outputs,), fn.__name__)

        PROGRAMS[fn.__name__] = build
        return fn

    return declare


def typed(dtype: str, *shape: int) -> tuple[tuple[int, ...], str]:
    return shape, dtype


# ---------------------------------------------------------------- element by element


@program((64,), (64,))
def add_tiny(x, y):
    return x + y


@program((1 << 22,), (1 << 22,))
def add_large(x, y):
    return x + y


@program((512, 512), (512,), (512, 1))
def broadcast_both(x, row, column):
    return (x + row) * column


@program((512, 1), (1, 512))
def outer_sum(x, y):
    return x + y * 2.0


@program((100, 100, 3), (3,))
def broadcast_short_row(x, scale):
    return x * scale


@program((1 << 16,))
def polynomial(x):
    return ((x * 0.3 + 0.5) * x - 1.25) * x + 2.0


@program((1 << 16,))
def gelu_chain(x):
    return td.ops.gelu(x) * td.tanh(x) + td.exp(-x * x)


@program((37, 41))
def odd_sigmoid(x):
    return td.sigmoid(x)


@program((1 << 16,), (1 << 16,))
def choose(x, y):
    return td.where(x > y, x * 2.0, y - x)


@program((512, 512))
def lower_triangle(x):
    return td.compute((512, 512), lambda i, j: td.select(j <= i, x[i, j], 0.0))


@program(typed("float64", 1 << 16), typed("float64", 1 << 16))
def hypot64(x, y):
    return td.sqrt(x * x + y * y)


@program(typed("uint8", 480, 640, 3))
def image_to_float(x):
    return (x.astype("float32") - 127.5) * 0.0078431


@program(typed("float32", 480, 640))
def float_to_image(x):
    return td.cast(td.min(td.max(x * 127.5 + 127.5, 0.0), 255.0), "uint8")


@program(typed("int32", 1 << 16), typed("int32", 1 << 16))
def int_mix(x, y):
    return td.max(x * 3 + y, x - y)


@program(typed("uint8", 1 << 18), typed("uint8", 1 << 18))
def average_u8(x, y):
    return ((x.astype("uint16") + y.astype("uint16")) // 2).astype("uint8")


@program((512, 512), (512, 512))
def several_outputs(x, y):
    total = x + y
    return total, total * x, td.sum(total, axis=1)


# ---------------------------------------------------------------- moving data


@program((1024, 1024))
def transpose_large(x):
    return x.T


@program((64, 64))
def transpose_small(x):
    return x.T


@program((16, 128, 64))
def transpose_batched(x):
    return x.transpose(0, 2, 1)


@program((8, 64, 12, 64))
def heads_first(x):
    return x.transpose(0, 2, 1, 3)


@program((512, 512))
def add_transpose(x):
    return x + x.T


@program((512, 1024))
def every_other(x):
    return x[::2, ::2]


@program((1 << 16,))
def reversed_(x):
    return x[::-1]


@program((300, 200), (300, 312))
def join_columns(x, y):
    return td.concatenate([x, y], axis=1)


@program((200, 512), (312, 512))
def join_rows(x, y):
    return td.concatenate([x, y], axis=0)


@program((1, 32, 56, 56))
def pad_image(x):
    return td.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])


@program((256, 3, 64))
def interleave(x):
    return td.compute((256, 192), lambda i, j: x[i, j % 3, j // 3])


@program((64, 64, 16))
def diagonal(x):
    return td.einsum("iik->ik", x)


# ---------------------------------------------------------------- reductions


@program((1024, 1024))
def row_sum(x):
    return td.sum(x, axis=1)


@program((1024, 1024))
def column_sum(x):
    return td.sum(x, axis=0)


@program((4096, 4096))
def column_sum_large(x):
    return td.sum(x, axis=0)


@program((2048, 7))
def short_row_sum(x):
    return td.sum(x, axis=1)


@program((64, 64, 64))
def middle_sum(x):
    return td.sum(x, axis=1)


@program((1 << 20,))
def total_sum(x):
    return td.sum(x)


@program((16, 256, 16))
def sum_outer_axes(x):
    return td.sum(x, axis=(0, 2))


@program((512, 512))
def row_max(x):
    return td.max(x, axis=1)


@program((512, 1000))
def argmax_rows(x):
    top = td.max(x, axis=1)
    k = td.reduce_axis(1000, "k")
    return td.compute((512,), lambda i: td.min(td.select(x[i, k] >= top[i], td.cast(k, "int32"), 1000), axis=k))


@program((512, 64))
def row_product(x):
    return td.prod(x * 0.1 + 1.0, axis=1)


@program(typed("int32", 1000, 1000))
def int_column_max(x):
    return td.max(x, axis=0)


@program(typed("uint8", 512, 512))
def u8_row_sum(x):
    return td.sum(x.astype("int32"), axis=1)


@program(typed("float64", 300, 500))
def mean64(x):
    return td.mean(x, axis=1)


@program((512, 512), (512, 512))
def row_distances(x, y):
    return td.sqrt(td.sum((x - y) * (x - y), axis=1))


@program((256, 64), (200, 64))
def all_distances(x, y):
    k = td.reduce_axis(64, "k")
    return td.compute((256, 200), lambda i, j: td.sum((x[i, k] - y[j, k]) * (x[i, k] - y[j, k]), axis=k))


@program((512, 512))
def frobenius(x):
    return td.sqrt(td.sum(x * x))


# ---------------------------------------------------------------- products


@program((1 << 16,), (1 << 16,))
def dot(x, y):
    return td.sum(x * y)


@program((1024, 1024), (1024,))
def matvec(a, x):
    return a @ x


@program((1024,), (1024, 1024))
def vecmat(x, a):
    return x @ a


@program((512,), (512,), (512, 512))
def rank_one_update(x, y, a):
    return a + td.einsum("i,j->ij", x, y) * 0.5


def gemm(name: str, rule: str, a: tuple[int, ...], b: tuple[int, ...], dtype: str = "float32") -> None:
    def fn(x, y):
        return td.einsum(rule, x, y)

    fn.__name__ = name
    program((a, dtype), (b, dtype))(fn)


gemm("gemm_nn", "ik,kj->ij", (256, 256), (256, 256))
gemm("gemm_nt", "ik,jk->ij", (256, 256), (256, 256))
gemm("gemm_tn", "ki,kj->ij", (256, 256), (256, 256))
gemm("gemm_tt", "ki,jk->ij", (256, 256), (256, 256))
gemm("gemm_8", "ik,kj->ij", (8, 8), (8, 8))
gemm("gemm_17", "ik,kj->ij", (17, 17), (17, 17))
gemm("gemm_64", "ik,kj->ij", (64, 64), (64, 64))
gemm("gemm_batched", "bik,bkj->bij", (32, 48, 48), (32, 48, 48))
gemm("gemm_batched_nt", "bik,bjk->bij", (12, 64, 64), (12, 64, 64))
gemm("gemm_tall", "ik,kj->ij", (4096, 32), (32, 16))
gemm("gemm_skinny", "ik,kj->ij", (512, 512), (512, 4))
gemm("gemm_one_row", "ik,kj->ij", (1, 1024), (1024, 1024))
gemm("gemm_small_k", "ik,kj->ij", (256, 3), (3, 256))
gemm("gemm_tn_tall", "ki,kj->ij", (4096, 32), (4096, 32))
gemm("gemm_64bit", "ik,kj->ij", (200, 200), (200, 200), "float64")
gemm("gemm_int32", "ik,kj->ij", (128, 128), (128, 128), "int32")
gemm("tensor_contraction", "abcd,dbe->ace", (24, 16, 20, 12), (12, 16, 32))


@program(typed("uint8", 128, 256), typed("int8", 256, 128))
def gemm_u8(x, y):
    k = td.reduce_axis(256, "k")
    return td.compute((128, 128), lambda i, j: td.sum(td.cast(x[i, k], "int32") * td.cast(y[k, j], "int32"), axis=k))


@program((128, 256), (256, 512), (512,))
def linear_relu(x, w, b):
    return td.ops.relu(x @ w + b)


# ---------------------------------------------------------------- windows


@program((4096 + 8,), (9,))
def conv1d(x, w):
    k = td.reduce_axis(9, "k")
    return td.compute((4096,), lambda i: td.sum(x[i + k] * w[k], axis=k))


@program((8, 32, 258), (32, 32, 3))
def conv1d_channels(x, w):
    c, k = td.reduce_axis(32, "c"), td.reduce_axis(3, "k")
    return td.compute((8, 32, 256), lambda n, o, i: td.sum(x[n, c, i + k] * w[o, c, k], axis=(c, k)))


@program((1, 32, 28, 28), (32, 32, 3, 3))
def conv2d_nchw(x, w):
    return td.ops.conv2d(x, w, padding=1)


@program((1, 28, 28, 32), (3, 3, 32, 32))
def conv2d_nhwc(x, w):
    return td.ops.conv2d(x, w, padding=1, layout="NHWC")


@program((1, 64, 28, 28), (64, 16, 3, 3))
def conv2d_grouped(x, w):
    return td.ops.conv2d(x, w, groups=4)


@program((1, 64, 56, 56), (64, 1, 3, 3))
def depthwise_nchw(x, w):
    return td.ops.conv2d(x, w, padding=1, groups=64)


@program((1, 56, 56, 64), (3, 3, 1, 64))
def depthwise_nhwc(x, w):
    return td.ops.conv2d(x, w, padding=1, groups=64, layout="NHWC")


@program((1, 16, 57, 57), (32, 16, 3, 3))
def conv2d_strided(x, w):
    return td.ops.conv2d(x, w, stride=2)


@program((1, 16, 40, 40), (16, 16, 3, 3))
def conv2d_dilated(x, w):
    return td.ops.conv2d(x, w, dilation=2)


@program((1, 3, 112, 112), (32, 3, 7, 7))
def conv2d_first_layer(x, w):
    return td.ops.relu(td.ops.conv2d(x, w, stride=2, padding=3))


@program((1, 64, 56, 56), (64, 64, 1, 1))
def conv2d_pointwise(x, w):
    return td.ops.conv2d(x, w)


@program((1, 64, 56, 56))
def max_pool(x):
    return td.ops.max_pool2d(x, 2)


@program((1, 56, 56, 64))
def avg_pool_nhwc(x):
    return td.ops.avg_pool2d(x, 3, stride=2, padding=1, layout="NHWC")


@program((64, 7, 7, 32))
def global_pool(x):
    return td.mean(x, axis=(1, 2))


# ---------------------------------------------------------------- rows


@program((256, 512))
def softmax_rows(x):
    return td.ops.softmax(x, axis=1)


@program((512, 256))
def softmax_columns(x):
    return td.ops.softmax(x, axis=0)


@program((16, 64, 64))
def softmax_middle(x):
    return td.ops.softmax(x, axis=1)


@program((2048, 10))
def softmax_short(x):
    return td.ops.softmax(x, axis=1)


@program((256, 768), (768,), (768,))
def layer_norm(x, g, b):
    return td.ops.layer_norm(x, g, b)


@program((256, 1000), (1000,))
def rms_norm(x, g):
    return td.ops.rms_norm(x, g)


@program((8, 32, 28, 28), (32,), (32,))
def batch_norm(x, g, b):
    n, h, w = 8, 28, 28
    mean = td.mean(x, axis=(0, 2, 3))
    k = [td.reduce_axis(e, name) for e, name in ((n, "rn"), (h, "rh"), (w, "rw"))]
    square = td.compute(
        (32,),
        lambda c: td.sum((x[k[0], c, k[1], k[2]] - mean[c]) * (x[k[0], c, k[1], k[2]] - mean[c]), axis=k),
    )
    scale = td.compute((32,), lambda c: g[c] / td.sqrt(square[c] / float(n * h * w) + 1e-5))
    return td.compute((n, 32, h, w), lambda a, c, i, j: (x[a, c, i, j] - mean[c]) * scale[c] + b[c])


# ---------------------------------------------------------------- stencils


@program((1 << 16,))
def stencil_1d(x):
    n = (1 << 16) - 4
    return td.compute((n,), lambda i: (x[i] + x[i + 4]) * 0.1 + (x[i + 1] + x[i + 3]) * 0.2 + x[i + 2] * 0.4)


@program((514, 514))
def stencil_2d(x):
    return td.compute(
        (512, 512),
        lambda i, j: 0.2 * (x[i + 1, j + 1] + x[i, j + 1] + x[i + 2, j + 1] + x[i + 1, j] + x[i + 1, j + 2]),
    )


@program((66, 66, 66))
def stencil_3d(x):
    def point(i, j, k):
        across = x[i, j + 1, k + 1] + x[i + 2, j + 1, k + 1] + x[i + 1, j, k + 1] + x[i + 1, j + 2, k + 1]
        return x[i + 1, j + 1, k + 1] * 0.4 + 0.1 * (across + x[i + 1, j + 1, k] + x[i + 1, j + 1, k + 2])

    return td.compute((64, 64, 64), point)


@program((1026, 1026))
def blur_chain(x):
    rows = td.compute((1026, 1024), lambda i, j: (x[i, j] + x[i, j + 1] + x[i, j + 2]) / 3.0)
    return td.compute((1024, 1024), lambda i, j: (rows[i, j] + rows[i + 1, j] + rows[i + 2, j]) / 3.0)


@program(typed("uint8", 514, 514))
def blur_u8(x):
    w = x.astype("uint16")
    rows = td.compute((514, 512), lambda i, j: w[i, j] + w[i, j + 1] * 2 + w[i, j + 2])
    return td.compute(
        (512, 512), lambda i, j: td.cast((rows[i, j] + rows[i + 1, j] * 2 + rows[i + 2, j]) // 16, "uint8")
    )


@program((256, 256))
def upsample(x):
    return td.compute((512, 512), lambda i, j: x[i // 2, j // 2])


@program((514, 514))
def sobel_magnitude(x):
    dx = td.compute((512, 512), lambda i, j: x[i, j + 2] - x[i, j] + 2.0 * (x[i + 1, j + 2] - x[i + 1, j]))
    dy = td.compute((512, 512), lambda i, j: x[i + 2, j] - x[i, j] + 2.0 * (x[i + 2, j + 1] - x[i, j + 1]))
    return td.sqrt(dx * dx + dy * dy)
