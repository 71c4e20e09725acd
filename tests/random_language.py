"""Random programs of every node kind: compound conditions, causal orders of several axes, views, operators.

`Language` adds to the kinds of `Generator` what the whole language can say.  The seeds from `WHOLE` on are
its programs, for every test and command that makes a random program of a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensordsl as td
from tensordsl import array, expr
from tensordsl.affine import Affine
from tensordsl.expr import Axis, Expr, Index, Read, Reduce, select
from tensordsl.tensor import Tensor, define
from tests.random_programs import KINDS, LIMIT, Generator, Known

ADDED = (
    *("choice", "wedge", "nested", "ordered", "opposed", "view", "view", "library"),
    *("lookup", "ragged", "scattered"),
)  # fmt: skip
_COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")


class Language(Generator):
    """A generator whose definitions are of every kind."""

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(seed, kinds=(*KINDS, *ADDED), **options)

    # ------------------------------------------------------------ indices that are data

    def number(self, axes: Sequence[Axis], least: int, most: int) -> Expr:
        """An integer between two ends that depends on data, and perhaps on an axis."""
        rng = self.rng
        known = [k.tensor for k in self.pool if k.tensor.dtype.name in ("int32", "int64") and k.tensor.ndim == 1]
        over = [a for a in axes if rng.random() < 0.7] or list(axes[:1])
        fitting = [t for t in known if over and t.shape == (over[0].extent,)]
        if fitting and rng.random() < 0.5:
            t, over = rng.choice(fitting), over[:1]
        else:
            t = td.placeholder(
                tuple(a.extent for a in over), rng.choice(("int32", "int64", "int16")), f"q{len(self.inputs)}",
                values=range(-2, 6),
            )  # fmt: skip
            self.inputs.append(Known(t, 5))
            self.pool.append(self.inputs[-1])
        e: Expr = Read(t, tuple(Affine.of(a.name) for a in over))
        if axes and rng.random() < 0.3:
            e = expr.cast(e, "int64") + Index(Affine.of(rng.choice(list(axes)).name))
        return expr.operand(td.clip(e, least, most))

    def lookup(self, name: str) -> Known:
        """Elements at indices that are data, some of them guarded instead of clamped."""
        axes = self.axes(self.most)
        full = [k for k in self.pool if k.tensor.ndim and all(k.tensor.shape)]
        if not full:
            return self.pointwise(name)
        source = self.rng.choice(full)
        t = source.tensor
        index = [self.number(axes, 0, n - 1) if self.rng.random() < 0.7 else self.rng.randrange(n) for n in t.shape]
        if self.rng.random() < 0.7 or not isinstance(index[0], Expr):
            return Known(define(axes, expr.operand(t[tuple(index)]), name), source.bound)
        bare = self.number(axes, -1, t.shape[0] - 1)
        read = t[(bare, *index[1:])]
        return Known(define(axes, select(bare >= 0, read, expr.constant(0, t.dtype)), name), source.bound)

    def ragged(self, name: str) -> Known:
        """A sum over a range that is data."""
        axes = self.axes(self.most // 20)
        reduced = self.axes(max(1, self.most // max(1, math.prod(a.extent for a in axes))), "krs", 1)
        e, bound = self.value(axes + reduced, 2)
        e = expr.operand(e)
        points = math.prod(a.extent for a in reduced)
        if e.dtype.kind == "b" or bound * points > LIMIT.get(e.dtype.name, 0):
            return self.pointwise(name)
        k = Index(Affine.of(reduced[0].name))
        low, high = (self.number(axes, 0, reduced[0].extent) for _ in range(2))
        within = expr.binary("and", expr.binary("le", low, k), expr.binary("lt", k, high))
        body = expr.where(Reduce(expr.REDUCERS["sum"], reduced, e), within)
        return Known(define(axes, body, name), bound * points)

    def scattered(self, name: str) -> Known:
        """A sum, or an extreme of at least zero, by destination."""
        axes = self.axes(self.most // 20, least=1)
        reduced = self.axes(max(1, self.most // max(1, math.prod(a.extent for a in axes))), "krs", 1)[:1]
        e, bound = self.value(axes[1:] + reduced, 2)
        e = expr.operand(e)
        points = reduced[0].extent
        if e.dtype.kind == "b" or bound * points > LIMIT.get(e.dtype.name, 0):
            return self.pointwise(name)
        to = self.number(reduced, -1, axes[0].extent)
        here = expr.binary("eq", to, Index(Affine.of(axes[0].name)))
        body = expr.where(Reduce(expr.REDUCERS["sum"], reduced, e), here)
        return Known(define(axes, body, name), bound * points)

    # ------------------------------------------------------------ conditions

    def comparison(self, axes: Sequence[Axis]) -> Expr:
        """A comparison of indices, or of data."""
        rng = self.rng
        if not axes or rng.random() < 0.25:
            e, _ = self.element(tuple(axes))
            return e if e.dtype.kind == "b" else expr.binary(rng.choice(_COMPARISONS), e, expr.constant(1, e.dtype))
        a = rng.choice(list(axes))
        left: Expr = Index(Affine.of(a.name))
        if rng.random() < 0.3:
            left = rng.choice([left % 2, left // 2, left * 2 - 1, left + Index(Affine.of(rng.choice(list(axes)).name))])
        right: Any = rng.choice([rng.randint(-1, a.extent), rng.choice(list(axes)), rng.randint(0, a.extent) + 0.5])
        right = Index(Affine.of(right.name)) if isinstance(right, Axis) else right
        return expr.binary(rng.choice(_COMPARISONS), left, right)

    def condition(self, axes: Sequence[Axis], depth: int) -> Expr:
        if not depth or self.rng.random() < 0.2:
            return self.comparison(axes)
        name = self.rng.choice(("and", "and", "or", "or", "not", "select"))
        parts = [self.condition(axes, depth - 1) for _ in range(3)]
        if name == "not":
            return ~parts[0]
        return select(*parts) if name == "select" else expr.binary(name, *parts[:2])

    def choose(self, parts: list[Expr], extra: Expr, then: Expr, otherwise: Expr) -> Expr:
        """``then`` where all parts hold (and perhaps a further condition), said in one of several ways."""
        rng = self.rng
        rng.shuffle(parts)
        all_of = _chain("and", parts)
        none_of = _chain("or", [~p for p in parts])
        return rng.choice(
            [
                lambda: select(all_of & extra, then, otherwise),
                lambda: select(extra & all_of, then, otherwise),
                lambda: select(~all_of, otherwise, then),
                lambda: select(none_of, otherwise, then),
                lambda: select(none_of | extra, otherwise, then),
                lambda: select(extra, otherwise, select(all_of, then, otherwise)),
                lambda: select(select(extra, all_of, all_of & ~extra), then, otherwise),
            ]
        )()

    def inside(self, axes: tuple[Axis, ...], index: Sequence[Expr], shape: Sequence[int]) -> list[Expr]:
        """Comparisons that say that an index lies in a shape, each put in one of several ways."""
        found: list[Expr] = []
        for i, n in zip(index, shape):
            found.append(self.rng.choice([lambda i=i: i >= 0, lambda i=i: ~(i < 0), lambda i=i: i > -1])())  # type: ignore[misc]
            found.append(self.rng.choice([lambda i=i, n=n: i < n, lambda i=i, n=n: ~(i >= n), lambda i=i, n=n: i <= n - 1])())  # type: ignore[misc]  # fmt: skip
        return found

    # ------------------------------------------------------------ definitions

    def choice(self, name: str) -> Known:
        """An element that is out of bounds elsewhere, guarded by compound conditions."""
        axes = self.axes(self.most, least=1)
        sources = [p for p in self.pool if p.tensor.shape and math.prod(p.tensor.shape)]
        if not sources:
            return self.pointwise(name)
        source = self.rng.choice(sources)
        index = [
            Index(Affine.of(self.rng.choice(axes).name)) * self.rng.choice((1, 1, 2)) + self.rng.randint(-2, 2)
            for _ in source.tensor.shape
        ]
        read = Read(source.tensor, tuple(i.affine for i in index))  # type: ignore[attr-defined]
        other, bound = self.element(axes)
        parts = self.inside(axes, index, source.tensor.shape)
        e = self.choose(parts, self.condition(axes, self.rng.randint(0, 2)), read, expr.cast(other, read.dtype))
        return self.settle(axes, e, max(bound, source.bound), name)

    def wedge(self, name: str) -> Known:
        """A reduction with terms only where a compound condition holds."""
        axes = self.axes(self.most // 20, least=1)
        reduced = self.axes(max(1, self.most // max(1, math.prod(a.extent for a in axes))), "krs", 1)
        e, bound = self.value(axes + reduced, 1)
        if e.dtype.kind in "bu":
            e, bound = expr.cast(e, "int32"), max(bound, 1)
        points = max(1, math.prod(a.extent for a in reduced))
        reducer = "sum" if bound * points <= LIMIT.get(e.dtype.name, 0) else "max"
        total = expr.where(Reduce(expr.REDUCERS[reducer], reduced, e), self.condition(axes + reduced, 2))
        limit = bound * points if reducer == "sum" else bound
        if reducer == "max":  # without terms it is the least value of its type
            return Known(define(axes, _clamped(total, limit), name), limit)
        return Known(define(axes, total, name), limit)

    def nested(self, name: str) -> Known:
        """Reductions inside a formula, under conditions, over axes without names."""
        axes = self.axes(self.most // 20)
        size = self.rng.choice(self.extents)
        if not size:
            return self.pointwise(name)
        k, r = td.reduce_axis(size), td.reduce_axis(min(size, 4))
        inner, bound = self.element((*axes, k.axis))
        other, limit = self.element((*axes, k.axis, r.axis))
        top = td.max(_clamped(expr.cast(inner, "float32"), bound), axis=k)
        count = td.sum(_clamped(expr.cast(other, "float32"), 2), axis=(k, r))
        e = select(self.condition(axes, 1), top, count * 2) + select(self.condition(axes, 1), count, 1.0)
        return self.settle(axes, e, bound + 6 * limit * size * 4 + 1, name)

    def ordered(self, name: str) -> Known:
        """A recurrence along several axes, some of them from their ends."""
        axes = self.axes(self.most // 4, least=2)
        down = [self.rng.random() < 0.4 for _ in axes]
        fresh = expr.cast(self.element(axes)[0], "float32")
        plans = []  # offsets of earlier elements: before along one level, anything further in
        for _ in range(self.rng.randint(1, 3)):
            level = self.rng.randrange(len(axes))
            steps = [0] * level + [-self.rng.randint(1, 2)] + [self.rng.randint(-1, 1) for _ in axes[level + 1 :]]
            plans.append([-s if d else s for s, d in zip(steps, down)])

        def body(t: Tensor, *index: Index) -> Expr:
            total = expr.substitute(fresh, {a.name: i.affine for a, i in zip(axes, index)})
            for offsets in plans:
                at = [i + s for i, s in zip(index, offsets)]
                read = Read(t, tuple(i.affine for i in at))  # type: ignore[attr-defined]
                parts = self.inside(axes, at, t.shape)
                total = total + self.choose(parts, self.condition(axes, 1), read, expr.constant(1.0))
            return _clamped(total, 50)

        order = tuple(f"-{a.name}" if d else a.name for a, d in zip(axes, down))
        shape = [a.extent for a in axes]
        return Known(td.recurrence(shape, _parameters(body, axes, 1), name, order=order), 50)

    def opposed(self, name: str) -> tuple[Known, Known]:
        """Two recurrences of one time, each along an axis of its own within a step."""
        steps, size = self.rng.choice(self.extents[:2]), self.rng.choice(self.extents)
        axes = (Axis("t", steps), Axis("i", size))
        drive = expr.cast(self.element(axes)[0], "float32")

        def there(a: Tensor, b: Tensor, t: Index, i: Index) -> Expr:
            old = select(td.not_equal(t, 0), b[t - 1, i], 1.0)
            return _clamped(old + drive + select((i < 1) | (t < 0), 0.0, a[t, i - 1]), 20)

        def back(a: Tensor, b: Tensor, t: Index, i: Index) -> Expr:
            return _clamped(a[t, i] - select(~(i >= size - 1), b[t, i + 1], 0.0), 20)

        names = [f"{name}a", f"{name}b"]
        a, b = td.recurrences([(steps, size)] * 2, [there, back], names, order=[("t", "i"), ("t", "-i")])
        return Known(a, 20), Known(b, 20)

    def view(self, name: str) -> Known:
        """Array notation: views, joins, sums and products of tensors."""
        known = self.rng.choice(self.pool)
        for _ in range(self.rng.randint(1, 3)):
            known = self.rng.choice(_VIEWS)(self, known)
            if math.prod(known.tensor.shape) > self.most:
                return self.pointwise(name)
        if known.tensor.definition is None or any(known.tensor is p.tensor for p in self.pool):
            return self.pointwise(name)
        return known

    def library(self, name: str) -> Known:
        """An operator of td.ops."""
        sources = [p for p in self.pool if p.tensor.dtype.is_float and p.tensor.ndim and math.prod(p.tensor.shape)]
        if not sources:
            return self.pointwise(name)
        x = self.rng.choice(sources)
        if self.smooth and self.rng.random() < 0.6:
            made = self.rng.choice(
                [td.ops.softmax, td.ops.log_softmax, td.ops.gelu, td.ops.silu, td.ops.sigmoid, td.ops.layer_norm]
            )(_small(x.tensor))
            return Known(made, 60)
        if x.tensor.ndim == 2:
            image = x.tensor.reshape(1, 1, *x.tensor.shape)
            if min(x.tensor.shape) >= 2 and self.rng.random() < 0.4:
                return Known(td.ops.max_pool2d(image, 2, stride=self.rng.choice((1, 2))), x.bound)
            rows = x.tensor.shape[0]
            if (
                x.bound**2 * x.tensor.shape[1] <= LIMIT[x.tensor.dtype.name]
                and rows**2 * x.tensor.shape[1] <= self.most
            ):
                made = self.rng.choice([lambda t: td.ops.linear(t, t), lambda t: t @ t.T])(x.tensor)
                return Known(made, x.bound**2 * x.tensor.shape[1])
        return Known(td.ops.relu(x.tensor), x.bound)


def _chain(name: str, parts: Sequence[Expr]) -> Expr:
    result = parts[0]
    for p in parts[1:]:
        result = expr.binary(name, result, p)
    return result


def _clamped(e: Expr, most: int) -> Expr:
    return expr.binary("min", expr.binary("max", e, expr.constant(-most, e.dtype)), expr.constant(most, e.dtype))


def _small(t: Tensor) -> Tensor:
    """Values of -4..4: functions of reals are well conditioned there."""
    return array.elementwise("small", lambda e: _clamped(e, 4), t)


def _parameters(body: Callable[..., Expr], axes: Sequence[Axis], tensors: int) -> Callable[..., Expr]:
    """A function whose parameters name the loops."""
    names = ", ".join([*(f"t{k}" for k in range(tensors)), *(a.name for a in axes)])
    function: Callable[..., Expr] = eval(f"lambda {names}: body({names})", {"body": body})
    return function


# ---------------------------------------------------------------- array notation


def _slice(g: Generator, x: Known) -> Known:
    t = x.tensor
    key: list[Any] = []
    for n in t.shape:
        start, step = g.rng.randint(0, max(0, n - 1)), g.rng.choice((1, 1, 2, -1))
        key.append(g.rng.choice([slice(None), slice(start, None, abs(step)), slice(None, None, step)]))
    if g.rng.random() < 0.2:
        key.append(None)
    elif t.shape and t.shape[0] and g.rng.random() < 0.3:
        key[0] = g.rng.randrange(t.shape[0])
    return Known(t[tuple(key)] if not all(isinstance(k, int) for k in key) else t.reshape(-1), x.bound)


def _transpose(g: Generator, x: Known) -> Known:
    order = g.rng.sample(range(x.tensor.ndim), x.tensor.ndim)
    return Known(x.tensor.transpose(*order) if order else x.tensor.reshape(1), x.bound)


def _reshape(g: Generator, x: Known) -> Known:
    count = math.prod(x.tensor.shape)
    first = g.rng.choice([d for d in range(1, max(2, count + 1)) if count % d == 0])
    return Known(
        x.tensor.reshape(*g.rng.choice([(count,), (first, count // first), (count // first, 1, first)])), x.bound
    )


def _pad(g: Generator, x: Known) -> Known:
    widths = [(g.rng.randint(0, 2), g.rng.randint(0, 2)) for _ in x.tensor.shape]
    return Known(td.pad(x.tensor, widths) if widths else x.tensor.reshape(1), x.bound)


def _join(g: Generator, x: Known) -> Known:
    d = g.rng.randrange(max(1, x.tensor.ndim))
    other = array.elementwise("other", lambda e: ~e if e.dtype.kind == "b" else expr.binary("max", e, 0), x.tensor)
    if not x.tensor.ndim or g.rng.random() < 0.4:
        return Known(td.stack([x.tensor, other], axis=-1), x.bound)
    return Known(td.concatenate([x.tensor, other, x.tensor], axis=d), x.bound)


def _broadcast(g: Generator, x: Known) -> Known:
    return Known(td.broadcast_to(x.tensor, (g.rng.choice((1, 2, 3)), *x.tensor.shape)), x.bound)


def _reduced(g: Generator, x: Known) -> Known:
    t = x.tensor
    if not t.ndim or not math.prod(t.shape):
        return _broadcast(g, x)
    axis = g.rng.randrange(t.ndim)
    keep = g.rng.random() < 0.5
    if t.dtype.kind in "bu" or x.bound * t.shape[axis] > LIMIT[t.dtype.name] or g.rng.random() < 0.4:
        return Known(g.rng.choice([t.max, t.min])(axis=axis, keepdims=keep), x.bound)
    return Known(t.sum(axis=axis, keepdims=keep), x.bound * t.shape[axis])


def _choose(g: Generator, x: Known) -> Known:
    t = x.tensor
    condition = t if t.dtype.kind == "b" else t > 0
    return Known(td.where(condition, t, t if t.dtype.kind == "b" else t * 0), x.bound)


def _converted(g: Generator, x: Known) -> Known:
    if x.tensor.dtype.kind == "u":
        return _choose(g, x)
    names = [n for n, limit in LIMIT.items() if limit >= x.bound and n[0] != "u"]
    return Known(x.tensor.astype(g.rng.choice(names)), x.bound)


_VIEWS: tuple[Callable[[Generator, Known], Known], ...] = (
    _slice, _slice, _transpose, _reshape, _pad, _join, _broadcast, _reduced, _choose, _converted,
)  # fmt: skip
