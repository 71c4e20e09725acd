"""Array notation: numpy's operators on tensors, each an ordinary definition with affine indices.

Nothing here is executed: a result is a `Tensor` whose elements are defined by those of the
operands, so slices, transposes and reshapes cost nothing once they are computed inside their reader.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tensordsl import expr
from tensordsl.affine import Affine, Interval
from tensordsl.counts import number
from tensordsl.dimensions import MOST, Extent, extent, sizes
from tensordsl.dtypes import DTypeLike
from tensordsl.errors import ProgramError, user_location
from tensordsl.expr import REDUCERS, Axis, Expr, Index, Read, Reduce
from tensordsl.sizes import Size
from tensordsl.slices import positions
from tensordsl.tensor import Axes, Tensor, define

_NAMES = "ijklmn"


# ---------------------------------------------------------------- element by element


def lift(name: str, fn: Callable[..., Expr], *operands: Any, label: str | None = None) -> Any:
    """A scalar function applied to scalars, or to tensors element by element."""
    if any(isinstance(o, Tensor) for o in operands) and not any(isinstance(o, Expr) for o in operands):
        return elementwise(label or name, fn, *operands)
    return fn(*[expr.expression(o) if isinstance(o, Tensor) or len(operands) == 1 else o for o in operands])


def binary(name: str, left: Any, right: Any) -> Any:
    """A two-argument operation of tensors and numbers (or of a rank-0 tensor and an expression)."""
    return lift(name, functools.partial(expr.binary, name), left, right)


def elementwise(label: str, fn: Callable[..., Expr], *operands: Tensor | float) -> Tensor:
    """The tensor of ``fn`` applied to the elements of operands that broadcast together (numpy's rules)."""
    tensors = [_tensor(o, label) for o in operands if not _is_number(o)]
    shape = broadcast_shapes(label, *[t.shape for t in tensors])
    axes = axes_like(shape, *tensors)
    index = [Affine.of(a.name) for a in axes]
    return define(axes, fn(*[o if _is_number(o) else element(o, index) for o in operands]), None, label=label)  # type: ignore[arg-type]


def element(t: Tensor, index: Sequence[Affine]) -> Read:
    """The element of a tensor that broadcasts to an index: sizes of 1 repeat, missing dimensions too."""
    own = index[len(index) - t.ndim :]
    return Read(t, tuple(Affine() if n == 1 else i for i, n in zip(own, t.shape)), user_location())


def broadcast_shapes(what: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The common shape of operands.  Raises ProgramError where sizes differ and neither is 1."""
    rank = max((len(s) for s in shapes), default=0)
    result = []
    for d in range(rank):
        found = {s[d - rank] for s in shapes if len(s) >= rank - d} - {1}
        if len(found) > 1:
            listed = " and ".join(str(list(s)) for s in shapes)
            raise ProgramError(
                f"{what}: shapes {listed} do not broadcast: {sorted(found, key=_rank)} in dimension {d - rank}"
            )
        result.append(found.pop() if found else 1)
    return tuple(result)


def _rank(n: int) -> tuple[int, str]:
    """An order of sizes for people: numbers first."""
    return (MOST + 1, str(n)) if isinstance(n, Size) else (n, "")


def axes_like(shape: Sequence[int], *models: Tensor) -> tuple[Axis, ...]:
    """Axes for a shape, named as in the first operand that is defined with this shape."""
    for t in models:
        if t.definition is not None and t.shape == tuple(shape):
            return t.definition.axes
    names = _NAMES[: len(shape)] if len(shape) <= len(_NAMES) else [f"i{d}" for d in range(len(shape))]
    return tuple(Axis(n, e) for n, e in zip(names, shape))


def axis_names(t: Tensor) -> list[str]:
    return [a.name for a in axes_like(t.shape, t)]


def _is_number(value: object) -> bool:
    return isinstance(value, (bool, int, float)) or (
        getattr(value, "shape", None) == () and hasattr(value, "item") and not isinstance(value, Tensor)
    )


def _tensor(value: Any, what: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Expr):
        raise ProgramError(f"{what}: {value} is a scalar expression, not a tensor", hint="index the tensors: x[i, j]")
    hint = "pass it as an input: td.placeholder" if hasattr(value, "shape") else None
    raise ProgramError(f"{what}: a {type(value).__name__} is not a tensor", hint=hint)


def astype(x: Tensor, dtype: DTypeLike) -> Tensor:
    """The tensor converted to a dtype."""
    return elementwise("cast", lambda e: expr.cast(e, dtype), _tensor(x, "astype"))


# ---------------------------------------------------------------- reductions


def dimensions(t: Tensor, axis: Axes, what: str) -> list[int]:
    """``axis=`` as ascending dimensions: None is all, negative ones count from the end."""
    given = range(t.ndim) if axis is None else (axis,) if hasattr(axis, "__index__") else axis
    result: list[int] = []
    for a in given:
        if isinstance(a, bool) or not hasattr(a, "__index__"):
            raise ProgramError(f"{what}: axis {a!r} is not an integer")
        d = a.__index__()
        if not -t.ndim <= d < t.ndim:
            legal = f"{-t.ndim}..{t.ndim - 1}" if t.ndim else "a tensor of rank 0 has no axes"
            raise ProgramError(f"{what}: {t} has no axis {d}", legal=legal)
        if d % t.ndim in result:
            raise ProgramError(f"{what}: axis {d} is given twice")
        result.append(d % t.ndim)
    return sorted(result)


def _reduction(name: str, x: Tensor, axis: Axes, keepdims: bool) -> tuple[tuple[Axis, ...], Expr]:
    """The axes of a reduced tensor, and the reduction as an expression in them."""
    over = dimensions(_tensor(x, name), axis, name)
    names = axis_names(x)
    kept = [Axis(names[d], x.shape[d]) for d in range(x.ndim) if d not in over]
    if keepdims:
        kept = [Axis(f"{n}_" if d in over else n, 1 if d in over else x.shape[d]) for d, n in enumerate(names)]
    body: Expr = Read(x, tuple(Affine.of(n) for n in names), user_location())
    if body.dtype.kind == "b" and name in ("sum", "prod"):
        body = expr.cast(body, "int64")
    if body.dtype.is_complex and name in ("max", "min"):
        raise ProgramError(f"{name}: complex numbers have no order", hint="reduce td.abs, td.real or td.imag")
    if over:
        axes = tuple(Axis(names[d], x.shape[d]) for d in over)
        body = Reduce(REDUCERS[name], axes, expr.operand(body), user_location())
    return tuple(kept), body


def reduce(name: str, x: Tensor, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """sum, prod, max or min over dimensions (all of them where ``axis`` is None)."""
    axes, body = _reduction(name, x, axis, keepdims)
    return define(axes, body, None, label=derived(x, name))


def mean(x: Tensor, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The mean over dimensions, a float."""
    source = _tensor(x, "mean")
    if not source.dtype.is_inexact:
        source = astype(source, "float32")
    axes, total = _reduction("sum", source, axis, keepdims)
    count = 1
    for d in dimensions(source, axis, "mean"):
        count *= source.shape[d]
    if count == 0:
        raise ProgramError(f"mean: {x} has no elements along these axes")
    return define(axes, total / number(count, source.dtype), None, label=derived(source, "mean"))


# ---------------------------------------------------------------- products


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` as numpy defines it: (..., m, k) @ (..., k, n), leading dimensions broadcast."""
    a, b = _tensor(a, "matmul"), _tensor(b, "matmul")
    if not a.ndim or not b.ndim:
        raise ProgramError(f"matmul: {a if not a.ndim else b} has rank 0")
    size, other = a.shape[-1], b.shape[-2] if b.ndim > 1 else b.shape[0]
    if size != other:
        raise ProgramError(f"matmul: {a} has {size} columns, {b} has {other} rows")
    batch = broadcast_shapes("matmul", a.shape[:-2], b.shape[:-2])
    outer = [Axis(f"b{d}" if len(batch) > 1 else "b", n) for d, n in enumerate(batch)]
    rows = [Axis("i", a.shape[-2])] if a.ndim > 1 else []
    columns = [Axis("j", b.shape[-1])] if b.ndim > 1 else []
    k = Axis("k", size)
    left = _batched(a, outer, [*rows, k])
    right = _batched(b, outer, [k, *columns])
    body = Reduce(REDUCERS["sum"], (k,), _product([left, right]), user_location())
    return define((*outer, *rows, *columns), body, None, label="matmul")


def _batched(t: Tensor, batch: Sequence[Axis], own: Sequence[Axis]) -> Read:
    """An element of a matrix of a batch; the own axes are never repeated."""
    count = max(0, t.ndim - len(own))
    lead = batch[len(batch) - count :]
    index = [Affine() if n == 1 and a.extent != 1 else Affine.of(a.name) for a, n in zip(lead, t.shape)]
    return Read(t, (*index, *(Affine.of(a.name) for a in own)), user_location())


def _product(factors: Sequence[Expr]) -> Expr:
    body = functools.reduce(lambda x, y: x * y, factors)
    return expr.cast(body, "int64") if body.dtype.kind == "b" else body


def einsum(subscripts: str, *operands: Tensor) -> Tensor:
    """A sum of products by Einstein's rule, as numpy defines it: "ik,kj->ij", "bii", "...ij->...ji".

    A letter repeated in one operand takes its diagonal; without "->" the letters that occur once
    are kept, in alphabetical order.
    """
    inputs, output = _subscripts(subscripts, len(operands))
    extents: dict[str, int] = {}
    reads: list[Expr] = []
    dots = ["" if "..." not in term else "x" * (t.ndim - len(term) + 3) for term, t in zip(inputs, operands)]
    rank = max(map(len, dots), default=0)
    for term, t in zip(inputs, operands):
        labels = _expand(term, t, rank, subscripts)
        for label, n in zip(labels, t.shape):
            known = extents.setdefault(label, n)
            if known != n and label.startswith("e") and 1 in (known, n):
                extents[label] = max(known, n)
            elif known != n:
                raise ProgramError(f"einsum {subscripts!r}: {label!r} has sizes {known} and {n}")
    for term, t in zip(inputs, operands):
        labels = _expand(term, t, rank, subscripts)
        index = [Affine() if n == 1 and extents[c] != 1 else Affine.of(c) for c, n in zip(labels, t.shape)]
        reads.append(Read(t, tuple(index), user_location()))
    ellipsis = [f"e{d}" for d in range(rank)]
    kept = _result_labels(inputs, output, ellipsis, subscripts)
    for label in kept:
        if label not in extents:
            raise ProgramError(f"einsum {subscripts!r}: {label!r} of the result is in no operand")
    axes = tuple(Axis(label, extents[label]) for label in kept)
    reduced = tuple(Axis(label, n) for label, n in extents.items() if label not in kept)
    body = _product(reads)
    if reduced:
        body = Reduce(REDUCERS["sum"], reduced, expr.operand(body), user_location())
    return define(axes, body, None, label="einsum")


def _subscripts(text: str, count: int) -> tuple[list[str], str | None]:
    clean = text.replace(" ", "")
    left, arrow, right = clean.partition("->")
    terms = left.split(",")
    for term in [*terms, right]:
        letters = term.replace("...", "", 1)
        if not all(c.isascii() and c.isalpha() for c in letters):
            raise ProgramError(f"einsum: {text!r} is not a list of subscripts", hint='as in "ik,kj->ij"')
    if len(terms) != count:
        raise ProgramError(f"einsum {text!r} has {len(terms)} operands, got {count}")
    return terms, right if arrow else None


def _expand(term: str, t: Tensor, rank: int, text: str) -> list[str]:
    """One label per dimension of an operand; an ellipsis stands for the last of ``rank`` labels e0, e1, ..."""
    before, dots, after = term.partition("...")
    count = t.ndim - len(before) - len(after)
    if count < 0 or (count and not dots):
        raise ProgramError(f"einsum {text!r}: {term!r} does not fit {t} of rank {t.ndim}")
    return [*before, *(f"e{d}" for d in range(rank - count, rank)), *after]


def _result_labels(inputs: list[str], output: str | None, ellipsis: list[str], text: str) -> list[str]:
    if output is None:
        letters = "".join(inputs).replace(".", "")
        return [*ellipsis, *sorted(c for c in set(letters) if letters.count(c) == 1)]
    before, dots, after = output.partition("...")
    if len(set(before + after)) < len(before + after):
        raise ProgramError(f"einsum {text!r}: a letter of the result is repeated")
    if ellipsis and not dots:
        raise ProgramError(f"einsum {text!r}: the result has no ellipsis", hint="write ->...")
    return [*before, *(ellipsis if dots else []), *after]


# ---------------------------------------------------------------- views


def _view(t: Tensor, axes: Sequence[Axis], index: Sequence[Affine], what: str) -> Tensor:
    return define(tuple(axes), Read(t, tuple(index), user_location()), None, label=derived(t, what))


def derived(t: Tensor, what: str) -> str:
    """What to call a tensor made of one other: x_max, of x as well as of x_pad."""
    stem = t.name if t.named else t.name.partition("_")[0]
    return f"{stem}_{what}"


def getitem(t: Tensor, key: tuple[Any, ...]) -> Tensor:
    """A slice: integers drop a dimension, slices with any step keep it, None adds one, ... fills up.

    Tensors of integers pick elements (see gather.py); what else the key says is done first.
    """
    used = sum(k is not None and k is not Ellipsis for k in key)
    if used > t.ndim:
        raise ProgramError(f"{t.name} has rank {t.ndim}, sliced with {used} indices", hint=f"the shape is {t}")
    if sum(k is Ellipsis for k in key) > 1:
        raise ProgramError(f"{t.name}: an index has one ellipsis at most")
    if not any(k is Ellipsis for k in key):
        key = (*key, Ellipsis)
    at = next(i for i, k in enumerate(key) if k is Ellipsis)
    full = (*key[:at], *[slice(None)] * (t.ndim - used), *key[at + 1 :])
    if any(isinstance(k, Tensor) for k in full):
        return _picked(t, full)
    shape: list[int] = []
    index: list[Callable[[Affine], Affine] | int] = []  # per dimension of t: of its own axis, or fixed
    places: list[int] = []  # result dimension of each kept dimension of t
    for k in full:
        if k is None:
            shape.append(1)
            continue
        d = len(index)
        if isinstance(k, slice):
            start, count, step = _slice(k, t, d)
            places.append(len(shape))
            shape.append(count)
            index.append(functools.partial(lambda start, step, i: i * step + start, start, step))
        else:
            index.append(_position(k, t, d))
    names = [a.name for a in axes_like(shape)]
    rest = iter(places)
    where = [Affine.of(i) if isinstance(i, int) else i(Affine.of(names[next(rest)])) for i in index]
    return _view(t, [Axis(n, e) for n, e in zip(names, shape)], where, "part")


def _picked(t: Tensor, full: tuple[Any, ...]) -> Tensor:
    from tensordsl.gather import gather

    plain = [slice(None) if isinstance(k, Tensor) else k for k in full]
    if any(k != slice(None) for k in plain):
        t = getitem(t, tuple(plain))
    return gather(t, [k if isinstance(k, Tensor) else slice(None) for k in full if k is None or not _drops(k)])


def _drops(k: Any) -> bool:
    """Does an index take a dimension away?"""
    return not isinstance(k, (slice, Tensor))


def _slice(k: slice, t: Tensor, d: int) -> tuple[int, int, int]:
    for part in (k.start, k.stop, k.step):
        if part is not None and (isinstance(part, (bool, Expr)) or not hasattr(part, "__index__")):
            raise ProgramError(f"{t.name}: slice bound {part} of dimension {d} is not an integer")
    if k.step == 0:
        raise ProgramError(f"{t.name}: the slice of dimension {d} has step 0")
    return positions(k, t.shape[d])


def _position(k: Any, t: Tensor, d: int) -> int:
    if isinstance(k, bool) or not hasattr(k, "__index__"):
        raise ProgramError(
            f"{t.name}: a {type(k).__name__} is not an index of dimension {d}",
            legal="integers, slices, None, ... and tensors of integers",
        )
    i, n = k if isinstance(k, Size) else k.__index__(), t.shape[d]
    if not -n <= i < n:
        raise ProgramError(f"{t.name}: index {i} of dimension {d} is outside {-n}..{n - 1}")
    return i if i >= 0 else i + n


def transpose(t: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """The dimensions in another order (reversed where none is given)."""
    order = list(range(t.ndim))[::-1] if axes is None else [_dimension(t, a, "transpose") for a in axes]
    if sorted(order) != list(range(t.ndim)):
        raise ProgramError(f"transpose: {list(axes or ())} is not an order of the {t.ndim} dimensions of {t}")
    names = axis_names(t)
    return _view(t, [Axis(names[d], t.shape[d]) for d in order], [Affine.of(n) for n in names], "t")


def _dimension(t: Tensor, a: int, what: str) -> int:
    return dimensions(t, a, what)[0]


def reshape(t: Tensor, shape: Extent | Sequence[Extent]) -> Tensor:
    """The same elements in row-major order under another shape; one size may be -1."""
    given = [s if s == -1 else extent(s) for s in (shape if isinstance(shape, (tuple, list)) else (shape,))]
    count, rest = _count(t.shape), _count([int(s) for s in given if s != -1])
    if given.count(-1) > 1:
        raise ProgramError(f"reshape: {given} has two unknown sizes")
    target = tuple(int(count // max(1, rest) if s == -1 else s) for s in given)
    if _count(target) != count:
        raise ProgramError(f"reshape: {t} has {count} elements, {given} has {rest if -1 in given else _count(target)}")
    axes = axes_like(target)
    flat = Affine()
    for a, step in zip(axes, _steps(target)):
        flat = flat + Affine.of(a.name) * step
    ranges: dict[str, Interval] = {a.name: (0, a.extent - 1) for a in axes}
    index = []
    for n, step in zip(t.shape, _steps(t.shape)):
        position = (flat // step).within(ranges) if step else flat
        index.append((position % n).within(ranges) if n else position)
    return _view(t, axes, index, "reshaped")


def _count(shape: Sequence[int]) -> int:
    return functools.reduce(lambda a, b: a * b, shape, 1)


def _steps(shape: Sequence[int]) -> list[int]:
    return [_count(shape[d + 1 :]) for d in range(len(shape))]


def broadcast_to(t: Tensor | float, shape: Extent | Sequence[Extent]) -> Tensor:
    """The tensor (or a number) repeated to a shape by numpy's rules."""
    target = sizes(shape)
    axes = axes_like(target)
    if not isinstance(t, Tensor):
        return define(axes, expr.expression(t), None, label="full")
    if len(target) < t.ndim or broadcast_shapes("broadcast_to", t.shape, target) != target:
        raise ProgramError(f"broadcast_to: {t} does not broadcast to {list(target)}")
    return define(axes, element(t, [Affine.of(a.name) for a in axes]), None, label=derived(t, "repeated"))


def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """The tensors one after the other along a dimension; the other sizes agree."""
    parts = [_tensor(t, "concatenate") for t in tensors]
    if not parts:
        raise ProgramError("concatenate: no tensors")
    d = _dimension(parts[0], axis, "concatenate")
    for t in parts[1:]:
        if t.ndim != parts[0].ndim or t.shape[:d] + t.shape[d + 1 :] != parts[0].shape[:d] + parts[0].shape[d + 1 :]:
            raise ProgramError(f"concatenate: {parts[0]} and {t} differ in a dimension other than {d}")
    total = sum(t.shape[d] for t in parts)
    axes = axes_like((*parts[0].shape[:d], total, *parts[0].shape[d + 1 :]))
    index = [Affine.of(a.name) for a in axes]
    start = total
    body: Expr | None = None
    for t in reversed(parts):
        start -= t.shape[d]
        read = Read(t, tuple(i - start if n == d else i for n, i in enumerate(index)), user_location())
        body = read if body is None else expr.select(Index(index[d]) < start + t.shape[d], read, body)
    assert body is not None
    return define(axes, body, None, label="concatenated")


def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Tensors of one shape along a new dimension."""
    parts = [_tensor(t, "stack") for t in tensors]
    if not parts:
        raise ProgramError("stack: no tensors")
    if any(t.shape != parts[0].shape for t in parts):
        raise ProgramError(f"stack: shapes {' and '.join(str(list(t.shape)) for t in parts)} differ")
    rank = parts[0].ndim + 1
    if not -rank <= axis < rank:
        raise ProgramError(f"stack: no axis {axis} in a result of rank {rank}")
    d = axis % rank
    axes = axes_like((*parts[0].shape[:d], len(parts), *parts[0].shape[d:]))
    index = [Affine.of(a.name) for a in axes]
    reads: list[Expr] = [Read(t, tuple(index[:d] + index[d + 1 :]), user_location()) for t in parts]
    body = reads[-1]
    for n, read in reversed(list(enumerate(reads[:-1]))):
        body = expr.select(Index(index[d]) <= n, read, body)
    return define(axes, body, None, label="stacked")


def pad(t: Tensor, pad_width: Any, constant_values: float = 0) -> Tensor:
    """A border of a constant: ``pad_width`` is one size, (before, after), or a pair per dimension."""
    widths = _widths(_tensor(t, "pad"), pad_width)
    axes = axes_like([b + n + a for n, (b, a) in zip(t.shape, widths)])
    index = [Affine.of(a.name) - before for a, (before, _) in zip(axes, widths)]
    body: Expr = Read(t, tuple(index), user_location())
    outside = expr.constant(constant_values, t.dtype)
    if any(w != (0, 0) for w in widths):
        body = expr.select(inside(index, t.shape, widths), body, outside)
    return define(axes, body, None, label=derived(t, "pad"))


def inside(index: Sequence[Affine], shape: Sequence[int], widths: Sequence[tuple[int, int]]) -> Expr:
    """The condition that an index lies in a shape, in the dimensions that are padded."""
    conditions: list[Expr] = []
    for i, n, (before, after) in zip(index, shape, widths):
        conditions += [Index(i) >= 0] if before else []
        conditions += [Index(i) < n] if after else []
    return functools.reduce(lambda a, b: a & b, conditions)


def _widths(t: Tensor, pad_width: Any) -> list[tuple[int, int]]:
    try:
        given = list(pad_width) if isinstance(pad_width, (tuple, list)) else [pad_width, pad_width]
        if all(isinstance(w, (tuple, list)) for w in given):
            pairs = [(int(b), int(a)) for b, a in (given * t.ndim if len(given) == 1 else given)]
        else:
            pairs = [(int(given[0]), int(given[1]))] * t.ndim
    except (TypeError, ValueError, IndexError):
        pairs = []
    if len(pairs) != t.ndim or any(w < 0 for pair in pairs for w in pair):
        raise ProgramError(
            f"pad: {pad_width!r} does not pad the {t.ndim} dimensions of {t}",
            legal="a size, (before, after), or one such pair per dimension, none negative",
        )
    return pairs
