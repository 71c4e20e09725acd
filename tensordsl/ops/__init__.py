"""The operator library, written in the language itself.

Names and arguments follow torch.nn.functional and the array API standard.  Every function takes
tensors and returns a tensor; nothing here is known to the compiler by name.
"""

from tensordsl.array import matmul
from tensordsl.functions import sigmoid
from tensordsl.ops.activations import gelu, relu, silu
from tensordsl.ops.convolution import conv2d
from tensordsl.ops.normalization import layer_norm, log_softmax, rms_norm, softmax
from tensordsl.ops.pooling import avg_pool2d, max_pool2d
from tensordsl.ops.products import batched_matmul, linear

__all__ = [
    "avg_pool2d",
    "batched_matmul",
    "conv2d",
    "gelu",
    "layer_norm",
    "linear",
    "log_softmax",
    "matmul",
    "max_pool2d",
    "relu",
    "rms_norm",
    "sigmoid",
    "silu",
    "softmax",
]
