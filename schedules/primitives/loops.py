"""Order primitives on loops: the same statements in another order.

Each step applies to every loop of that name around the stage, so that copies made by `peel` or an
even split stay alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tensordsl.schedules.locate import edit, find_loops, stage_loops, stage_of, stage_stores
from tensordsl.schedules.loopnest import (
    For,
    If,
    Seq,
    Stmt,
    Store,
    children,
    items,
    loop,
    seq,
    stores,
    substitute,
    variables,
    walk,
    with_children,
)  # fmt: skip
from tensordsl.schedules.primitives.copies import renamed
from tensordsl.schedules.schedule import Schedule, primitive
from tensordsl.schedules.simplify import Context, context

from tensordsl.affine import Affine, is_symbolic
from tensordsl.errors import ScheduleError, closest


def constant_extent(f: For) -> int:
    """The number of iterations.  Raises ScheduleError where it is not one constant."""
    if len(f.lo) == len(f.hi) == 1:
        size = f.hi[0] - f.lo[0]
        if not size.terms:
            return size.const
    raise ScheduleError(
        f'loop "{f.var}" has no constant number of iterations',
        hint="split or peel it first, so that full tiles stand alone",
    )


def fixed_extent(f: For) -> Affine:
    """The number of iterations, which may depend on sizes known at the call.  Raises ScheduleError where it varies."""
    if len(f.lo) == len(f.hi) == 1 and is_symbolic(f.hi[0] - f.lo[0]):
        return f.hi[0] - f.lo[0]
    return Affine((), constant_extent(f))


def _positive(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ScheduleError(f"{name}={value!r} is not a positive integer")
    return value


@primitive
def split(
    s: Schedule,
    stage: str,
    loop: str,
    factor: int | None = None,
    *,
    factors: Sequence[int | None] | None = None,
    most: int | None = None,
    names: Sequence[str] | None = None,
) -> Schedule:
    """Split a loop into an outer and an inner one.

    factor: iterations of the inner loop.  factors: of every new loop, outermost first, the first
    may be None.  most: an even split into pieces of q+1 and q iterations, none over ``most``.

    Requires: one lower bound; for ``most`` a constant number of iterations.
    Rewrite: ``for v: S``  ->  ``for v.o in 0..ceil(n/f): for v.i in 0..min(f, n - f*v.o): S[v = f*v.o + v.i]``
    Raises: ScheduleError for an unknown loop or a factor that is not a positive integer.
    """
    if (factor is not None) + (factors is not None) + (most is not None) != 1:
        raise ScheduleError("give exactly one of factor=, factors=, most=")
    targets = find_loops(s.nest, stage, loop)
    var = next(iter(targets.values()))[0].var
    if most is not None:
        if names is not None and len(names) != 2:
            raise ScheduleError(f"names={list(names)!r}: 2 names are needed")
        even = (names[0], names[1]) if names else (f"{var}.o", f"{var}.i")
        _free(targets, even)
        return s.with_nest(edit(s.nest.body, targets, lambda f: _even(f, _positive("most", most), even)))
    sizes = [None, factor] if factors is None else list(factors)
    if len(sizes) < 2 or any(x is None for x in sizes[1:]):
        raise ScheduleError(f"factors={sizes!r}: at least two, and only the first may be None")
    inner = [_positive("factor", x) for x in sizes[1:]]
    if names is None:
        middle = [f"{var}.{'m' * k}" for k in range(1, len(inner))]
        names = [f"{var}.o", *middle, f"{var}.i"]
    if len(names) != len(sizes):
        raise ScheduleError(f"names={list(names)!r}: {len(sizes)} names are needed")
    if sizes[0] is not None:
        for f, _ in targets.values():
            product = _positive("factor", sizes[0])
            for x in inner:
                product *= x
            if product < constant_extent(f):
                raise ScheduleError(
                    f"the product {product} of factors={sizes!r} is less than "
                    f"the {constant_extent(f)} iterations of {var}"
                )
    labels = tuple(names)
    _free(targets, labels)

    def cut(f: Stmt) -> Stmt:
        assert isinstance(f, For)
        for k in range(len(inner)):
            size = 1
            for x in inner[k:]:
                size *= x
            rest = labels[k + 1] if k + 1 == len(inner) else f"{var}..{k}"
            f = _cut(f, size, labels[k], rest, k)
        return f

    return s.with_nest(edit(s.nest.body, targets, cut))


def _free(targets: Mapping[int, tuple[For, tuple[Stmt, ...]]], names: Sequence[str]) -> None:
    """The names are different, and no other loop around or inside has one of them."""
    for k, name in enumerate(names):
        if name in names[:k]:
            raise ScheduleError(f"names={list(names)!r}: two loops would be named {name!r}")
    for f, path in targets.values():
        taken = ({x.var for x in path if isinstance(x, For)} | variables(f.body)) - {f.var}
        clash = next((n for n in names if n in taken), None)
        if clash is not None:
            raise ScheduleError(f'a loop "{clash}" stands around or inside "{f.var}" already', hint="give other names")


def _cut(f: For, factor: int, outer: str, inner: str, depth: int) -> For:
    """One split at nesting depth ``depth`` below f (the loops above are already cut)."""
    if depth:
        assert isinstance(f.body, For)
        return replace(f, body=_cut(f.body, factor, outer, inner, depth - 1))
    if len(f.lo) != 1 or f.step != 1:
        raise ScheduleError(
            f'loop "{f.var}" starts at the greatest of {len(f.lo)} bounds: split it before it is skewed'
        )
    lo = f.lo[0]
    sizes = [h - lo for h in f.hi]
    o = Affine.of(outer) * factor
    body = substitute(f.body, {f.var: lo + o + Affine.of(inner)})
    tile = For(
        inner, (Affine(),), (Affine((), factor), *[n - o for n in sizes if n.terms or n.const % factor]), body, f.kind
    )
    return For(outer, (Affine(),), tuple((n + (factor - 1)) // factor for n in sizes), tile, f.kind, 1, f.notes)


def _even(s: Stmt, most: int, names: tuple[str, str]) -> Stmt:
    assert isinstance(s, For)
    n = constant_extent(s)
    pieces = max(1, -(-n // most))
    size, larger = divmod(n, pieces)
    parts, start = [], s.lo[0]
    for width, count in ((size + 1, larger), (size, pieces - larger)):
        if count:
            value = start + Affine.of(names[0]) * width + Affine.of(names[1])
            inner = loop(names[1], 0, width, substitute(s.body, {s.var: value}), kind=s.kind)
            parts.append(loop(names[0], 0, count, inner, kind=s.kind))
            start = start + width * count
    return seq(*parts)


@primitive
def tile(s: Schedule, stage: str, loops: Sequence[str], factors: Sequence[int]) -> Schedule:
    """Split several neighbouring loops and bring the outer ones outside.

    Requires: the loops form a band; one factor for each.
    Rewrite: ``for a: for b: S``  ->  ``for a.o: for b.o: for a.i: for b.i: S``
    Raises: ScheduleError as `split` and `reorder`.
    """
    if len(loops) != len(factors):
        raise ScheduleError(f"{len(loops)} loops and {len(factors)} factors")
    t = s.unchecked()
    for v, f in zip(loops, factors):
        t = t.split(stage, v, f)
    t = t.reorder(stage, *[f"{v}.o" for v in loops], *[f"{v}.i" for v in loops])
    return t


@primitive
def fuse(s: Schedule, stage: str, outer: str, inner: str, name: str | None = None) -> Schedule:
    """Make one loop of two nested ones.

    Requires: nothing stands between them; the inner one has a constant number of iterations.
    Rewrite: ``for a: for b in 0..n: S``  ->  ``for f: S[a = f // n, b = f % n]``
    Raises: ScheduleError when the loops are not directly nested.
    """
    targets = find_loops(s.nest, stage, outer)
    find_loops(s.nest, stage, inner)
    around = {p.var for _, path in targets.values() for p in path if isinstance(p, For)}

    def f(x: Stmt) -> Stmt:
        assert isinstance(x, For)
        y = x.body
        if not (isinstance(y, For) and y.var in (inner, f"{stage}.{inner}")):
            raise ScheduleError(f'"{inner}" is not directly inside "{outer}"')
        n, m = constant_extent(y), fixed_extent(x)
        if n < 1:  # a loop that never runs: any division will do
            n, m = 1, Affine()
        v = name or f"{x.var}.{y.var}"
        if v in (around | variables(y.body)) - {x.var, y.var}:
            raise ScheduleError(f'a loop "{v}" stands around or inside already', hint="give another name")
        value = Affine.of(v)
        first = x.lo[0] + value // n
        second = y.lo[0].substitute({x.var: first}) + value % n  # a skewed loop starts where the outer one says
        body = substitute(y.body, {x.var: first, y.var: second})
        return loop(v, 0, m * n, body, kind=x.kind)

    return s.with_nest(edit(s.nest.body, targets, f))


@primitive
def reorder(s: Schedule, stage: str, *loops: str) -> Schedule:
    """Put loops in the given order, outermost first, as they print.

    The start of a reduction moves along: it stands before the innermost reduction loops, in the
    first iteration of those further out.  Bounds that depend on each other (skewed, triangular) are
    rewritten.

    Requires: between the loops stands nothing but the start of the stage's own reduction.
    Rewrite: ``for a: for b: S``  ->  ``for b: for a: S``
    Raises: ScheduleError for unknown or repeated loops, for statements in between, or when the
    new order would read a value before it is computed.
    """
    if len(loops) < 2 or len(set(loops)) != len(loops):
        raise ScheduleError("give at least two different loops, outermost first")
    for name in loops:
        find_loops(s.nest, stage, name)
    wanted = {n for name in loops for n in (name, f"{stage}.{name}")}
    roots: dict[int, tuple[For, tuple[Stmt, ...]]] = {}
    for store, path in stage_stores(s.nest, stage):
        if store.instance.kind == "init":
            continue
        for d, x in enumerate(path):
            if isinstance(x, For) and x.var in wanted:
                roots.setdefault(id(x), (x, path[:d]))
                break
    built = {key: _reorder_band(f, stage, loops, context(path)) for key, (f, path) in roots.items()}

    def go(x: Stmt) -> Stmt:
        if id(x) in built:
            return built[id(x)]
        return with_children(x, tuple([go(c) for c in children(x)]))

    return s.with_nest(go(s.nest.body))


def _reorder_band(root: For, stage: str, order: Sequence[str], around: Context) -> Stmt:
    chain, init, own, body = _chain(root, stage, order)
    names = [_resolve(name, chain, stage) for name in order]
    if len(set(names)) < len(names):  # "i" may mean "stage.i"
        raise ScheduleError(f"{', '.join(order)} name one loop twice", legal=[f.var for f in chain])
    slots = [k for k, f in enumerate(chain) if f.var in names]
    target = list(chain)
    by_name = {f.var: f for f in chain}
    for k, name in zip(slots, names):
        target[k] = by_name[name]
    ranks = {f.var: k for k, f in enumerate(target)}
    loops = _exchanged(chain, ranks, around)
    terms = _term_names(body) if init is not None else set()
    starts = _exchanged([own.get(f.var, f) for f in chain if f.var not in terms], ranks, around)
    return _assemble(loops, init, {f.var: f for f in starts}, body)


def _exchanged(chain: Sequence[For], ranks: Mapping[str, int], around: Context) -> list[For]:
    """The loops in the order of their ranks, by adjacent exchanges that rewrite bounds pair by pair."""
    loops = list(chain)
    for _ in range(len(loops)):
        for k in range(len(loops) - 1):
            if ranks[loops[k].var] > ranks[loops[k + 1].var]:
                c = around
                for f in loops[:k]:
                    c = c.inside(f)
                loops[k], loops[k + 1] = exchange(loops[k], loops[k + 1], c)
    return loops


def _term_names(body: Stmt) -> set[str]:
    """The variables that count the terms of a reduction."""
    update = next(st for st, _ in stores(body) if st.instance.kind == "update")
    return {n for p in update.instance.points for n in p.names()}


def _resolve(name: str, chain: Sequence[For], stage: str) -> str:
    known = [f.var for f in chain]
    for n in (name, f"{stage}.{name}"):
        if n in known:
            return n
    like = closest(name, known)
    raise ScheduleError(
        f'loop "{name}" is not in one band with the others: something stands between', legal=known,
        hint=f'did you mean "{like}"?' if like else "reorder before peeling or caching",
    )  # fmt: skip


def _chain(root: For, stage: str, order: Sequence[str]) -> tuple[list[For], Store | None, dict[str, For], Stmt]:
    """The loops from root down to the last named one; the reduction's start found between them and its own
    loops by name; the rest."""
    chain: list[For] = []
    init: Store | None = None
    own: dict[str, For] = {}
    missing = {n for n in order}
    node: Stmt = root
    while True:
        if isinstance(node, For):
            chain.append(node)
            missing -= {node.var, node.var.removeprefix(f"{stage}.")}
            node = node.body
            if not missing:
                return chain, init, own, node
        elif isinstance(node, Seq):
            main = [x for x in node.items if not _is_init(x, stage)]
            if len(main) != 1:
                return chain, init, own, node
            for x in node.items:
                if x is not main[0]:
                    init, path = next(stores(x))
                    own |= {f.var: f for f in path if isinstance(f, For)}
            node = main[0]
        else:
            return chain, init, own, node


def _is_init(x: Stmt, stage: str) -> bool:
    found = [st for st, _ in stores(x)]
    return len(found) == 1 and found[0].instance.kind == "init" and found[0].instance.tensor == stage


def _assemble(loops: Sequence[For], init: Store | None, starts: Mapping[str, For], body: Stmt) -> Stmt:
    if init is None:
        for f in reversed(loops):
            body = replace(f, body=body)
        return body
    used = _term_names(body)
    inner_reductions = {x.var for x, _ in walk(body) if isinstance(x, For) and x.var in used}
    reductions = [k for k, f in enumerate(loops) if f.var in used]
    place = reductions[-1] if reductions and not inner_reductions else len(loops)
    while place - 1 in reductions:  # a run of reduction loops starts once
        place -= 1
    start: Stmt = init
    for k in range(len(loops) - 1, place, -1):
        if k not in reductions:
            own = starts[loops[k].var]  # the bounds of the others may tell for which terms they run
            start = For(own.var, own.lo, own.hi, start, own.kind)
    guards = tuple(lo - Affine.of(loops[k].var) for k in reductions if k < place for lo in loops[k].lo)
    if guards:
        start = If(guards, start)
    if place == len(loops):
        body = seq(start, body)
    for k in range(len(loops) - 1, -1, -1):
        body = replace(loops[k], body=body)
        if k == place:
            body = seq(start, body)
    return body


def exchange(outer: For, inner: For, c: Context) -> tuple[For, For]:
    """The two loops with their roles swapped and bounds that describe the same points.

    Bounds that depend on the outer variable are solved for it (Fourier-Motzkin; the variable must
    occur with factor 1 or -1).
    """
    if not any(outer.var in b.names() for b in inner.lo + inner.hi):
        return inner, outer
    o, i = Affine.of(outer.var), Affine.of(inner.var)
    limits = [o - b for b in outer.lo] + [b - 1 - o for b in outer.hi]
    limits += [i - b for b in inner.lo] + [b - 1 - i for b in inner.hi]
    lower, upper, free = [], [], []  # o >= lower, o <= upper, limits without o
    for g in limits:
        k = g.coefficient(outer.var)
        if outer.var in (g - o * k).names() or abs(k) > 1:
            raise ScheduleError(
                f'the bounds of "{inner.var}" depend on "{outer.var}" with factor {abs(k)}',
                hint="reorder before splitting",
            )
        if k == 1:
            lower.append(o - g)
        elif k == -1:
            upper.append(g + o)
        else:
            free.append(g)
    free += [u - b for b in lower for u in upper]
    lo, hi = [], []
    for g in dict.fromkeys(free):
        k = g.coefficient(inner.var)
        if k > 0:
            lo.append(-((g - i * k) // k) if k > 1 else i - g)
        elif k < 0:
            hi.append((g - i * k) // -k + 1)
    new_outer = replace(inner, lo=_strongest(lo, c, 1), hi=_strongest(hi, c, -1))
    new_inner = replace(outer, lo=tuple(dict.fromkeys(lower)), hi=tuple(dict.fromkeys(u + 1 for u in upper)))
    return new_outer, new_inner


def _strongest(bounds: Sequence[Affine], c: Context, sign: int) -> tuple[Affine, ...]:
    kept = list(dict.fromkeys(bounds))
    for b in list(kept):
        others = [x for x in kept if x is not b]
        if any(c.implies((x - b) * sign) for x in others):
            kept = others
    return tuple(kept)


@primitive
def skew(s: Schedule, stage: str, loop: str, by: str, factor: int = 1) -> Schedule:
    """Let a loop run over ``loop + factor * by``, so that dependences between iterations turn forward.

    Requires: ``by`` is a loop around ``loop``.
    Rewrite: ``for t: for i in a..b: S``  ->  ``for t: for i in a+f*t..b+f*t: S[i = i - f*t]``
    Raises: ScheduleError when ``by`` is not outside ``loop``.
    """
    targets = find_loops(s.nest, stage, loop)
    targets = {k: v for k, v in targets.items() if any(isinstance(p, For) and p.var == by for p in v[1])}
    if not targets:
        raise ScheduleError(f'"{by}" is not a loop around "{loop}"', legal=stage_loops(s.nest, stage))

    def go(x: Stmt) -> Stmt:
        assert isinstance(x, For)
        d = Affine.of(by) * factor
        body = substitute(x.body, {x.var: Affine.of(x.var) - d})
        return replace(x, lo=tuple(b + d for b in x.lo), hi=tuple(b + d for b in x.hi), body=body)

    return s.with_nest(edit(s.nest.body, targets, go))


@primitive
def distribute(s: Schedule, stage: str, loop: str, before: str | None = None, suffix: str | None = None) -> Schedule:
    """Give every statement in the body of a loop a loop of its own.

    before: cut the body once only, before the statement that holds this loop or stage.  suffix: added
    to the names of the loops of the part after that cut.

    Requires: the loop's body is a sequence.
    Rewrite: ``for v: (S; T)``  ->  ``for v: S; for v: T``
    Raises: ScheduleError when a later statement's value would be needed earlier, or nothing is
    called ``before`` there.
    """
    targets = find_loops(s.nest, stage, loop)

    def go(x: Stmt) -> Stmt:
        assert isinstance(x, For)
        if before is not None:
            first, second = _parts(x, before)
            return seq(replace(x, body=first), renamed(replace(x, body=second), suffix))
        return seq(*[replace(x, body=y) for y in x.body.items]) if isinstance(x.body, Seq) else x

    return s.with_nest(edit(s.nest.body, targets, go))


def _parts(x: For, before: str) -> tuple[Stmt, Stmt]:
    """The body of a loop, cut before the statement that holds a loop or computes a stage."""
    parts = items(x.body)
    for k, y in enumerate(parts):
        names = variables(y) | {stage_of(st, p) for st, p in stores(y)}
        if k and before in names:
            return seq(*parts[:k]), seq(*parts[k:])
    known = [n for y in parts[1:] for n in variables(y) | {stage_of(st, p) for st, p in stores(y)}]
    raise ScheduleError(f'no statement after the first in the body of "{x.var}" holds {before!r}', legal=sorted(known))
