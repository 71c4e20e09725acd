"""Convolution of images."""

from __future__ import annotations

from tensordsl.affine import Affine
from tensordsl.errors import ProgramError, user_location
from tensordsl.expr import REDUCERS, Axis, Read, Reduce
from tensordsl.ops.windows import Pair, padded, windows
from tensordsl.tensor import Tensor, define


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
    layout: str = "NCHW",
) -> Tensor:
    """The correlation of images with filters, as torch.nn.functional.conv2d.

    layout "NCHW": x (n, c, h, w), weight (o, c / groups, r, s) -> (n, o, h', w');
    layout "NHWC": x (n, h, w, c), weight (r, s, c / groups, o) -> (n, h', w', o); bias (o,).
    stride, padding, dilation: pixels, or (down, across); padding also "same" or "valid".
    Raises ProgramError for shapes that do not fit, unknown layouts, and windows larger than the image.
    """
    if weight.ndim != 4:
        raise ProgramError(f"conv2d: weight {weight} is not of rank 4")
    first = layout == "NCHW"
    out, each, *size = weight.shape if first else (weight.shape[3], weight.shape[2], *weight.shape[:2])
    w = windows("conv2d", x, layout, (size[0], size[1]), stride, padding, dilation)
    channels = x.shape[1] if first else x.shape[3]
    if groups < 1 or channels != each * groups or out % groups:
        raise ProgramError(
            f"conv2d: {channels} channels of x, {each} of weight and {out} filters do not fit {groups} groups"
        )
    if bias is not None and bias.shape != (out,):
        raise ProgramError(f"conv2d: {bias} does not fit {out} filters")
    image = padded(x, w, 0.0 if x.dtype.is_float else 0)
    # with one filter a group (depthwise) or one group this stays free of divisions
    group = Affine.of("o") // (out // groups) if groups > 1 else Affine()
    pixel = Read(image, w.index(group * each + Affine.of("c"), *w.pixel("r", "s")), user_location())
    names = "ocrs" if first else "rsco"
    term = pixel * Read(weight, tuple(Affine.of(n) for n in names), user_location())
    inner = (Axis("c", each), Axis("r", size[0]), Axis("s", size[1]))
    axes = w.axes(x.shape[0], Axis("o", out), w.count)
    y = define(axes, Reduce(REDUCERS["sum"], inner, term, user_location()), None, label="conv2d")
    if bias is None:
        return y
    sum_ = Read(y, tuple(Affine.of(a.name) for a in axes), user_location())
    return define(axes, sum_ + Read(bias, (Affine.of("o"),), user_location()), None, label="conv2d_bias")
