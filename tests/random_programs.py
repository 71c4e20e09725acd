"""Seeded random programs whose float arithmetic is exact on small integers.

Every tensor carries a bound on its magnitude, so that no value (nor a partial sum of it, in any
order) needs more bits than its type has: results can be compared bit by bit under any reassociation.
With ``smooth=True`` the programs also use division and functions of reals; then a tolerance applies.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import tensordsl as td
from tensordsl import expr
from tensordsl.affine import Affine, Interval, interval
from tensordsl.expr import Axis, Expr, Index, Reduce, select
from tensordsl.tensor import Tensor, define
from tensordsl.together import several

#: Extents: one, primes, vector lengths and their neighbours (no multiple of 16 lanes but 16 itself).
EXTENTS = (1, 2, 3, 4, 5, 7, 8, 9, 11, 13, 16, 17, 19, 23, 33)
#: Elements of one definition, reduction points included: the interpreters visit each.
MOST_POINTS = 6000
#: Integers up to this magnitude are exact in the type; a margin of two bits for sums of two.
LIMIT = {
    "float32": 2**22, "float64": 2**50, "int8": 2**5, "int16": 2**13, "int32": 2**29, "int64": 2**50, "uint8": 2**6,
    "uint16": 2**13, "uint32": 2**29, "float16": 2**9, "bfloat16": 2**6,
    "float8_e4m3fn": 2**2, "float8_e5m2": 2**1,
}  # fmt: skip
DTYPES = ("float32",) * 8 + ("float64", "int32", "int64", "int16", "int8", "uint8", "uint16", "uint32", "bool")
#: With the types that kernels compute in another one.
NARROW = (
    ("float16", "bfloat16") * 3
    + ("float8_e4m3fn", "float8_e5m2")
    + ("float32", "float32", "float64", "int32", "int8", "uint8", "bool")
)
#: Names that C, the printer or the loops of a nest use as well.
HOSTILE = ("i", "k", "t", "float", "t1", "call", "workspace", "x0_r")
KINDS = (
    *("pointwise", "pointwise", "reduction", "contraction", "stencil", "recurrence", "normalised", "system"),
    "monoid",
)  # fmt: skip


def _larger(a: Sequence[Expr], b: Sequence[Expr]) -> tuple[Expr, Expr]:
    """The larger value with its position, the lower of two."""
    take = (b[0] > a[0]) | (td.equal(b[0], a[0]) & (b[1] < a[1]))
    return select(take, b[0], a[0]), select(take, b[1], a[1])


#: Reducers whose results are exact on small integers; the last one keeps the order of its terms.
REDUCERS = {
    "largest": td.reducer("largest", (-math.inf, math.inf), _larger),
    "range": td.reducer("range", (math.inf, -math.inf), lambda a, b: (td.min(a[0], b[0]), td.max(a[1], b[1]))),
    "total": td.reducer("total", (0, 0), lambda a, b: (a[0] + b[0], a[1] + b[1])),
    "last": td.reducer(
        "last", (False, 0), lambda a, b: (a[0] | b[0], select(b[0], b[1], a[1])), lift=lambda e: (True, e),
        commutative=False,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A tensor and the greatest magnitude of its elements."""

    tensor: Tensor
    bound: int


def _sources(t: Tensor) -> set[int]:
    """The tensors that a definition reads, also by way of reductions that became tensors of their own."""
    found: dict[int, Tensor] = {}
    todo = [t]
    while todo:
        d = todo.pop().definition
        for r in d.reads if d is not None else []:
            if r.source is not t and id(r.source) not in found:
                found[id(r.source)] = r.source  # type: ignore[assignment]
                todo.append(r.source)  # type: ignore[arg-type]
    return set(found)


@dataclass(slots=True)
class Generator:
    """Builds one program from a seed.

    stages: definitions.  smooth: use division and functions of reals.  mixed: several dtypes.
    narrow: several dtypes, float16 and bfloat16 among them.
    small: few elements, for oracles that look at every one.  odd: sizes of zero and hostile names too.
    """

    seed: int
    stages: int = 3
    smooth: bool = False
    mixed: bool = True
    small: bool = False
    odd: bool = True
    kinds: tuple[str, ...] = KINDS
    narrow: bool = False
    rng: random.Random = field(init=False)
    pool: list[Known] = field(default_factory=list)
    inputs: list[Known] = field(default_factory=list)
    extents: list[int] = field(default_factory=list)
    most: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        count = self.rng.randint(2, 4)
        self.extents = [self.rng.choice(EXTENTS[:6] if self.small else EXTENTS) for _ in range(count)]
        if self.odd and self.rng.random() < 0.04:
            self.extents[0] = 0
        self.most = 150 if self.small else MOST_POINTS

    def program(self) -> td.Program:
        for k in range(self.rng.randint(1, 3)):
            self.input(k)
        defined: list[Known] = []
        for k in range(self.rng.randint(1, self.stages)):
            kind = self.rng.choice(self.kinds)
            made = getattr(self, kind)(f"{kind[0]}{k}")
            for known in made if isinstance(made, tuple) else (made,):
                defined.append(known)
                self.pool.append(known)
        every = _needed([d.tensor for d in defined])
        read = {i for t in every for i in _sources(t)}
        outputs = [d.tensor for d in defined if id(d.tensor) not in read or self.rng.random() < 0.2]
        outputs = outputs or [defined[-1].tensor]  # two recurrences read each other
        inputs = [i.tensor for i in self.inputs if id(i.tensor) in read]
        name = f"random{self.seed}"
        if self.rng.random() < 0.2:
            same = [(o, i) for o in outputs for i in inputs if (o.shape, o.dtype) == (i.shape, i.dtype) and o.shape]
            if same:
                output, source = self.rng.choice(same)
                with contextlib.suppress(td.ProgramError):  # the input is read later on
                    return td.Program(inputs, outputs, name, inplace={output.name: source.name})
        return td.Program(inputs, outputs, name)

    def input(self, k: int) -> None:
        rank = self.rng.choice((0, 1, 1, 2, 2, 2, 3))
        name = self.rng.choice(NARROW if self.narrow else DTYPES) if self.mixed else "float32"
        shape = tuple(self.rng.choice(self.extents) for _ in range(rank))
        while math.prod(shape) > self.most:
            shape = shape[1:]
        hostile = self.odd and self.rng.random() < 0.05
        label = self.rng.choice(HOSTILE) if hostile else f"x{k}"
        label = f"x{k}" if any(i.tensor.name == label for i in self.inputs) else label
        known = Known(td.placeholder(shape, name, name=label), 1 if name == "bool" else 3)
        self.inputs.append(known)
        self.pool.append(known)

    # ------------------------------------------------------------ definitions

    def axes(self, most: int, names: str = "ijl", least: int = 0) -> tuple[Axis, ...]:
        """Some axes whose volume is at most ``most``."""
        rank = max(least, self.rng.choice((0, 1, 1, 2, 2, 2, 3)))
        model = self.rng.choice(self.pool).tensor.shape if self.rng.random() < 0.6 else ()
        sizes = [*model[:rank], *[self.rng.choice(self.extents) for _ in range(rank)]]
        chosen = [Axis(names[d], sizes[d]) for d in range(rank)]
        while math.prod(a.extent for a in chosen) > most:
            k = self.rng.randrange(rank)
            chosen[k] = Axis(chosen[k].name, (1 + chosen[k].extent) // 2)
        return tuple(chosen)

    def pointwise(self, name: str) -> Known:
        axes = self.axes(self.most)
        e, bound = self.value(axes, self.rng.randint(1, 3))
        return Known(define(axes, e, name), bound)

    def reduction(self, name: str) -> Known:
        return self._reduce(name, 1, self.rng.choice(("sum", "max", "min", "sum", "prod")))

    def contraction(self, name: str) -> Known:
        return self._reduce(name, 2, "sum")

    def _reduce(self, name: str, factors: int, reducer: str) -> Known:
        axes = self.axes(self.most // 20)
        rest = max(1, self.most // max(1, math.prod(a.extent for a in axes)))
        reduced = self.axes(rest, "krs", 1)
        points = math.prod(a.extent for a in reduced)
        reducer = reducer if points else "sum"  # an empty maximum is infinite
        for _ in range(20):
            e, bound = self.value(axes + reduced, factors, product=factors > 1)
            e = expr.operand(e)
            total = bound
            limit = LIMIT.get(e.dtype.name, 0)
            if e.dtype.kind == "b" and self.rng.random() < 0.5:  # any and all
                reducer = self.rng.choice(("max", "min"))
                return Known(define(axes, Reduce(expr.REDUCERS[reducer], reduced, e), name), 1)
            total = bound * points if reducer == "sum" else bound
            if reducer == "prod":
                total = bound**points if points <= 12 and bound > 1 else bound
                if bound > 1 and points > 12:
                    continue
            if e.dtype.kind != "b" and total <= limit:
                break
        else:
            reducer, total = "max", bound
            if e.dtype.kind == "b":
                e = expr.cast(e, "int32")
        return Known(define(axes, Reduce(expr.REDUCERS[reducer], reduced, e), name), total)

    def monoid(self, name: str) -> tuple[Known, ...]:
        """The components of a reduction by a reducer of one's own, one tensor each."""
        axes = self.axes(self.most // 20)
        reduced = self.axes(max(1, self.most // max(1, math.prod(a.extent for a in axes))), "krs", 1)
        points = math.prod(a.extent for a in reduced)
        e, bound = self.value(axes + reduced, self.rng.choice((1, 1, 2)))
        if e.dtype.kind == "b" or e.dtype.bits < 32:
            e = expr.cast(e, "int32")
        if self.rng.random() < 0.2:
            e, bound = self.combine(e, bound, *self.element(axes + reduced), "max")
        which = self.rng.choice(("largest", "range", "total", "last"))
        if not points or (which == "total" and bound * points > LIMIT[e.dtype.name]):
            return (self.settle(axes, self.element(axes)[0] * 1, LIMIT["int8"], name),)
        position = sum((Index(_v(a)) for a in reduced[1:]), Index(_v(reduced[0])))
        where = position >= 1 if self.rng.random() < 0.2 and which in ("total", "last") else None
        terms = {"largest": (e, position), "range": (e, e), "total": (e, 1), "last": (e,)}[which]
        parts = REDUCERS[which].reduction(terms, reduced, where, None)
        bounds = {"largest": (bound, points + 1), "range": (bound, bound), "total": (bound * points, points)}
        found = several(axes, parts, [f"{name}p{n}" for n in range(2)], name)
        return tuple(Known(t, b) for t, b in zip(found, bounds.get(which, (1, bound))))

    def stencil(self, name: str) -> Known:
        """A sum of guarded neighbours of one tensor."""
        sources = [p for p in self.pool if p.tensor.shape]
        if not sources:
            return self.pointwise(name)
        source = self.rng.choice(sources)
        axes = tuple(Axis("ijl"[d], n) for d, n in enumerate(source.tensor.shape))
        total, bound = None, 0
        for _ in range(self.rng.randint(2, 4)):
            shifts = [self.rng.choice((-2, -1, 0, 0, 1)) for _ in axes]
            index = [Index(_v(a)) + s for a, s in zip(axes, shifts)]
            term = self.guarded(axes, source.tensor, index)
            total = term if total is None else total + term
            bound += source.bound
        assert total is not None
        return self.settle(axes, total, bound, name)

    def recurrence(self, name: str) -> Known:
        """Clamped running values along one axis."""
        axes = self.axes(self.most // 4, least=1)
        order = self.rng.randrange(len(axes))
        step = self.rng.choice((1, 1, 2))
        fresh, _ = self.value(axes, 1)
        fresh = expr.cast(fresh, "float32")

        def body(t: Tensor, *index: Index) -> Expr:
            before = [i - step if d == order else i for d, i in enumerate(index)]
            old = select(index[order] >= step, t[tuple(before)], 0.0)
            moved = expr.substitute(fresh, {a.name: i.affine for a, i in zip(axes, index)})
            return _clamp(old - moved if self.rng.random() < 0.3 else old + moved, 100)

        names = ", ".join(a.name for a in axes)
        function = eval(f"lambda t, {names}: body(t, {names})", {"body": body})  # parameters name the loops
        shape = [a.extent for a in axes]
        return Known(td.recurrence(shape, function, name, order=axes[order].name), 100)

    def normalised(self, name: str) -> Known:
        """A value scaled (or, in smooth programs, divided) by one that does not change along the last axis."""
        axes = self.axes(self.most, least=1)
        e, bound = self.value(axes, 1)
        steady, limit = self.element(axes[:-1])
        if self.smooth and e.dtype.is_float:
            return Known(define(axes, e / (abs(expr.cast(steady, e.dtype)) + 1.5), name), bound)
        e, bound = self.combine(e, bound, steady, limit, "mul")
        return self.settle(axes, e, bound, name)

    def system(self, name: str) -> tuple[Known, Known]:
        """Two recurrences that read each other, the second one also in the same step."""
        size, steps = self.rng.choice(self.extents), self.rng.choice(self.extents)
        k = td.reduce_axis(size, "k")
        drive = self.element((Axis("t", steps), Axis("i", size)))[0]
        drive = expr.cast(drive, "float32")
        mixed = self.rng.random() < 0.5  # a reduction over the state of the step before

        def first(a: Tensor, b: Tensor, t: Index, i: Index) -> Expr:
            old = select(t >= 1, b[t - 1, i], 0.0)
            total = td.sum(select(t >= 1, a[t - 1, k], 0.0), axis=k) if mixed else select(t >= 2, a[t - 2, i], 1.0)
            return _clamp(total - old + drive, 9)

        def second(a: Tensor, b: Tensor, t: Index, i: Index) -> Expr:
            return _clamp(a[t, i] + select(t >= 1, b[t - 1, i] * 2.0, 0.0), 9)

        names = [f"{name}a", f"{name}b"]
        a, b = td.recurrences([(steps, size)] * 2, [first, second], names, order="t")
        return Known(a, 9), Known(b, 9)

    def settle(self, axes: tuple[Axis, ...], e: Expr, bound: int, name: str) -> Known:
        if e.dtype.kind != "b" and bound > LIMIT[e.dtype.name]:
            e, bound = _clamp(e, 20), 20
        return Known(define(axes, e, name), bound)

    # ------------------------------------------------------------ expressions

    def value(self, axes: tuple[Axis, ...], reads: int, product: bool = False) -> tuple[Expr, int]:
        """An expression of elements of known tensors, and the bound of its magnitude."""
        e, bound = self.element(axes)
        for _ in range(reads - 1):
            other, limit = self.element(axes)
            e, bound = self.combine(e, bound, other, limit, "mul" if product else None)
        for _ in range(0 if product else self.rng.choice((0, 1, 1, 2))):
            e, bound = self.change(axes, e, bound)
        return e, bound

    def element(self, axes: tuple[Axis, ...]) -> tuple[Expr, int]:
        """One element of a known tensor, at an index made of the axes."""
        source = self.rng.choice(self.pool[-3:] if self.rng.random() < 0.6 else self.pool)
        if self.rng.random() < 0.05 and axes:
            a = self.rng.choice(axes)
            return Index(_v(a)), a.extent
        index = [self.subscript(axes, n) for n in source.tensor.shape]
        return self.guarded(axes, source.tensor, index), source.bound

    def subscript(self, axes: tuple[Axis, ...], size: int) -> Expr:
        """An affine index of a dimension; it may lie outside (see `guarded`)."""
        if not axes or self.rng.random() < 0.05:
            return Index(_v(self.rng.randrange(max(1, size))))
        if not size:
            return Index(_v(self.rng.choice(axes)))
        same = [a for a in axes if a.extent == size]
        fits = [a for a in axes if a.extent <= size]
        a = self.rng.choice(same if same and self.rng.random() < 0.7 else fits or axes)
        i: Expr = Index(_v(a))
        pick = self.rng.random()
        if a.extent <= size:
            if pick < 0.6:
                return i
            if pick < 0.7:
                return size - 1 - i
            if pick < 0.8:
                return i + (size - a.extent)
            if pick < 0.9 and len(axes) > 1:
                b = self.rng.choice([x for x in axes if x is not a])
                if 2 * a.extent + b.extent - 2 <= size and self.rng.random() < 0.7:
                    return i * 2 + Index(_v(b))  # a strided one
                if a.extent + b.extent - 1 <= size:
                    return i + Index(_v(b))  # a window
            return i - 1
        if pick < 0.4:
            return i % size
        if pick < 0.8:
            return i // -(-a.extent // size)
        return i

    def guarded(self, axes: tuple[Axis, ...], t: Tensor, index: Sequence[Expr]) -> Expr:
        """``t[index]``, or 0 where an index lies outside."""
        condition: Expr | None = None
        ranges: dict[str, Interval] = {a.name: (0, a.extent - 1) for a in axes}
        for i, n in zip(index, t.shape):
            low, high = interval(i.affine, ranges)  # type: ignore[attr-defined]
            assert low is not None and high is not None
            if not n:  # there is no element at all
                return expr.constant(0, t.dtype)
            for bad, test in ((low < 0, i >= 0), (high >= n, i < n)):
                if bad:
                    condition = test if condition is None else condition & test
        plain = expr.Read(t, tuple(i.affine for i in index))  # type: ignore[attr-defined]
        if condition is None:
            return plain
        return select(condition, plain, expr.constant(0, t.dtype))

    def combine(self, a: Expr, x: int, b: Expr, y: int, name: str | None = None) -> tuple[Expr, int]:
        t = expr.binary("add", a, b).dtype
        options = [("add", x + y), ("sub", x + y), ("mul", x * y), ("max", max(x, y)), ("min", max(x, y))]
        name = name or self.rng.choice(("add", "add", "sub", "mul", "max", "min"))
        bound = dict(options)[name]
        if bound > LIMIT.get(t.name, 1):
            name, bound = "max", max(x, y)
        return expr.binary(name, a, b), bound

    def change(self, axes: tuple[Axis, ...], e: Expr, bound: int) -> tuple[Expr, int]:
        """Apply a function to a value."""
        pick = self.rng.randrange(8)
        if e.dtype.kind == "b":
            return (select(e, 3, -1), 3) if self.rng.random() < 0.7 else (~e, 1)
        if self.rng.random() < 0.06:
            return expr.binary(self.rng.choice(("lt", "ge", "eq", "ne")), e, expr.constant(1, e.dtype)), 1
        if self.smooth and e.dtype.is_float and pick < 6:
            return self.curve(e), bound
        if pick == 0 and bound * 2 + 1 <= LIMIT.get(e.dtype.name, 1):
            return e * 2 + 1, bound * 2 + 1
        if pick == 1 and e.dtype.kind != "u":
            return abs(e), bound
        if pick == 2 and e.dtype.kind != "u":
            return -e, bound
        if pick == 3 and e.dtype.kind == "i" and not isinstance(e, Index):
            return (e // 3, bound) if self.rng.random() < 0.5 else (e % 3, 2)
        if pick == 4 and axes:
            a = self.rng.choice(axes)
            return select(Index(_v(a)) >= a.extent // 2, e, expr.constant(1, e.dtype)), max(bound, 1)
        if pick == 5:
            return select(e > 0, e, expr.constant(0, e.dtype)), bound
        if pick == 6 and self.mixed and e.dtype.kind != "u":
            known = [t for t in LIMIT if self.narrow or t not in NARROW or t in DTYPES]
            to = self.rng.choice([t for t in known if LIMIT[t] >= bound and t[0] != "u"])
            return expr.cast(e, to), bound
        return _clamp(e, 5), 5

    def curve(self, e: Expr) -> Expr:
        """A smooth function that is well conditioned on the small values there are."""
        name = self.rng.choice(
            ("exp", "exp2", "tanh", "erf", "sqrt", "div", "sin", "cos", "rsqrt", "log", "log2", "pow")
        )
        small = e * (1.0 / 16)
        if name == "div":
            return e / (abs(e) + 1.5)
        if name in ("sqrt", "rsqrt", "log", "log2"):
            return expr.unary(name, abs(small) + 1.25)
        if name in ("exp", "exp2"):
            return expr.unary(name, expr.binary("min", small, 4.0))
        if name == "pow":
            return (abs(_clamp(e, 3)) + 0.5) ** 1.5
        return expr.unary(name, small)


def _v(a: Axis | int) -> Any:
    return Affine.of(a if isinstance(a, int) else a.name)


def _clamp(e: Expr, most: int) -> Expr:
    least = 0 if e.dtype.kind == "u" else -most
    return expr.binary("min", expr.binary("max", e, expr.constant(least, e.dtype)), expr.constant(most, e.dtype))


#: Seeds from here on are programs of every node kind (see random_language.py).
WHOLE = 10**9
#: Programs that replace those of their seed and options: the ones that failures keep.
STORED: dict[tuple[Any, ...], td.Program] = {}


def _needed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Some definitions and those they read, directly or through others."""
    found: list[Tensor] = []
    seen: set[int] = set()
    todo = list(tensors)
    while todo:
        t = todo.pop()
        if t.definition is not None and id(t) not in seen:
            seen.add(id(t))
            found.append(t)
            todo += [r.source for r in t.definition.reads]  # type: ignore[misc]
    return found


def random_program(seed: int, **options: Any) -> td.Program:
    """The program of a seed (see `Generator`)."""
    stored = STORED.get((seed, *sorted(options.items())))
    if stored is not None:
        return stored
    if seed >= WHOLE:
        from tests.random_language import Language

        return Language(seed, **options).program()
    return Generator(seed, **options).program()


def small_integers(program: td.Program, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs of -3..3 (0..3 for unsigned types), or in their stated range: every result of a plain program is
    exact."""
    rng = np.random.default_rng(seed)

    def draw(t: td.Tensor) -> np.ndarray[Any, Any]:
        low, high = t.values if t.stated and t.values is not None else (0 if t.dtype.kind in "ub" else -3, 3)
        return np.asarray(rng.integers(low, high + 1, t.shape)).astype(t.dtype.numpy)

    return {t.name: draw(t) for t in program.arguments}


def smooth_values(program: td.Program, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs of any value in -3..3 (integers for integer types)."""
    rng = np.random.default_rng(seed)
    ints = small_integers(program, seed)
    return {
        t.name: np.asarray(rng.uniform(-3, 3, t.shape)).astype(t.dtype.numpy) if t.dtype.is_float else ints[t.name]
        for t in program.inputs
    }


def reproducer(seed: int, trace: object, **options: Any) -> str:
    """Python that repeats a failing case."""
    arguments = "".join(f", {k}={v!r}" for k, v in options.items())
    steps = trace.to_python() if hasattr(trace, "to_python") else str(trace)  # type: ignore[attr-defined]
    return "\n".join(
        [
            "from tests.random_programs import random_program",
            f"s = td.Schedule(random_program({seed}{arguments}))",
            steps,
        ]
    )
