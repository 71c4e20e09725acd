"""Order primitives on loops: the same statements in another order.

Each step applies to every loop of that name around the stage, so that copies made by `peel` or an
even split stay alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from tensordsl.schedules.locate import edit, find_loops, stage_loops, stage_stores
from tensordsl.schedules.loopnest import (
    For,
    If,
    Seq,
    Stmt,
    Store,
    children,
    loop,
    rewrite,
    seq,
    stores,
    substitute,
    walk,
    with_children,
)  # fmt: skip
from tensordsl.schedules.schedule import Schedule, primitive
from tensordsl.schedules.simplify import Context, context

from tensordsl import expr
from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError, closest
from tensordsl.expr import Op


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
    pieces = -(-n // most)
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

    def f(x: Stmt) -> Stmt:
        assert isinstance(x, For)
        y = x.body
        if not (isinstance(y, For) and y.var in (inner, f"{stage}.{inner}")):
            raise ScheduleError(f'"{inner}" is not directly inside "{outer}"')
        n, m = constant_extent(y), constant_extent(x)
        v = name or f"{x.var}.{y.var}"
        value = Affine.of(v)
        body = substitute(y.body, {x.var: x.lo[0] + value // n, y.var: y.lo[0] + value % n})
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
    chain, init, body = _chain(root, stage, order)
    names = [_resolve(name, chain, stage) for name in order]
    slots = [k for k, f in enumerate(chain) if f.var in names]
    target = list(chain)
    by_name = {f.var: f for f in chain}
    for k, name in zip(slots, names):
        target[k] = by_name[name]
    ranks = {f.var: k for k, f in enumerate(target)}
    loops = list(chain)
    # adjacent exchanges, so that bounds that depend on each other are rewritten pair by pair
    for _ in range(len(loops)):
        for k in range(len(loops) - 1):
            if ranks[loops[k].var] > ranks[loops[k + 1].var]:
                c = around
                for f in loops[:k]:
                    c = c.inside(f)
                loops[k], loops[k + 1] = exchange(loops[k], loops[k + 1], c)
    return _assemble(loops, init, body)


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


def _chain(root: For, stage: str, order: Sequence[str]) -> tuple[list[For], Store | None, Stmt]:
    """The loops from root down to the last named one, the reduction's start found between them, the rest."""
    chain: list[For] = []
    init: Store | None = None
    missing = {n for n in order}
    node: Stmt = root
    while True:
        if isinstance(node, For):
            chain.append(node)
            missing -= {node.var, node.var.removeprefix(f"{stage}.")}
            node = node.body
            if not missing:
                return chain, init, node
        elif isinstance(node, Seq):
            main = [x for x in node.items if not _is_init(x, stage)]
            if len(main) != 1:
                return chain, init, node
            for x in node.items:
                if x is not main[0]:
                    init = next(st for st, _ in stores(x))
            node = main[0]
        else:
            return chain, init, node


def _is_init(x: Stmt, stage: str) -> bool:
    found = [st for st, _ in stores(x)]
    return len(found) == 1 and found[0].instance.kind == "init" and found[0].instance.tensor == stage


def _assemble(loops: Sequence[For], init: Store | None, body: Stmt) -> Stmt:
    if init is None:
        for f in reversed(loops):
            body = replace(f, body=body)
        return body
    update = next(st for st, _ in stores(body) if st.instance.kind == "update")
    used = {n for p in update.instance.points for n in p.names()}
    inner_reductions = {x.var for x, _ in walk(body) if isinstance(x, For) and x.var in used}
    reductions = [k for k, f in enumerate(loops) if f.var in used]
    place = reductions[-1] if reductions and not inner_reductions else len(loops)
    while place - 1 in reductions:  # a run of reduction loops starts once
        place -= 1
    start: Stmt = init
    for k in range(len(loops) - 1, place, -1):
        if k not in reductions:
            start = For(loops[k].var, loops[k].lo, loops[k].hi, start, loops[k].kind)
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
def peel(s: Schedule, stage: str, loop: str, which: str = "last") -> Schedule:
    """Take the first or the last iteration out of a loop.

    which: "first", "last", or "tail": the last one, but only where it is a partial tile, so that
    full tiles have constant bounds.

    Requires: one lower and one upper bound.
    Rewrite: ``for v in a..b: S``  ->  ``S[v = a]; for v in a+1..b: S``
    Raises: ScheduleError for another ``which`` or several bounds.
    """
    if which not in ("first", "last", "tail"):
        raise ScheduleError(f"which={which!r}", legal=("first", "last", "tail"))
    targets = find_loops(s.nest, stage, loop)
    around = {f.var: context(path) for f, path in targets.values()}

    def go(x: Stmt) -> Stmt:
        assert isinstance(x, For)
        if len(x.lo) != 1 or len(x.hi) != 1:
            raise ScheduleError(f'loop "{x.var}" has several bounds', hint="separate it first")
        if which == "tail" and not _has_tail(x, around[x.var]):
            return x
        lo, hi = x.lo[0], x.hi[0]
        if which == "first":
            return seq(substitute(x.body, {x.var: lo}), replace(x, lo=(lo + 1,)))
        return seq(replace(x, hi=(hi - 1,)), substitute(x.body, {x.var: hi - 1}))

    return s.with_nest(edit(s.nest.body, targets, go))


def _has_tail(x: For, c: Context) -> bool:
    """Is a bound or guard inside decided in all iterations but the last?"""
    if x.hi[0] - x.lo[0] == Affine((), 1):
        return False
    main = replace(x, hi=(x.hi[0] - 1,))

    def differs(condition: Affine, inner: tuple[For, ...]) -> bool:
        if x.var not in condition.names():
            return False
        full, most = Context((*c.loops, x, *inner)), Context((*c.loops, main, *inner))
        return most.implies(condition) and not full.implies(condition)

    def go(y: Stmt, inner: tuple[For, ...]) -> bool:
        if isinstance(y, For):
            pairs = [b - a for a in y.hi for b in y.hi if a is not b] + [
                a - b for a in y.lo for b in y.lo if a is not b
            ]
            if any(differs(p, inner) for p in pairs):
                return True
            inner = (*inner, y)
        if isinstance(y, If) and any(differs(k, inner) for k in y.conditions):
            return True
        if isinstance(y, Store):
            choices = [e.args[0] for e in expr.walk(y.value) if isinstance(e, Op) and e.name == "select"]
            if any(differs(k, inner) for e in choices for k in expr.conditions(e) or ()):
                return True
        return any(go(k, inner) for k in children(y))

    return go(x.body, ())


def _renamed(x: Stmt, suffix: str | None) -> Stmt:
    """The statement with a suffix on the names of its loops, so that later steps can name this copy."""
    if not suffix:
        return x

    def go(y: Stmt) -> Stmt | None:
        if isinstance(y, For):
            new = f"{y.var}.{suffix}"
            return replace(y, var=new, body=substitute(y.body, {y.var: Affine.of(new)}))
        return None

    return rewrite(x, go)


@primitive
def separate(s: Schedule, stage: str, loop: str, suffix: str | None = None) -> Schedule:
    """Give the full iterations of a tile loop a copy with constant bounds.

    suffix: added to the names of the loops of that copy (``r`` becomes ``r.suffix``).

    Requires: among the loop's bounds is a pair with a constant distance (the full tile).
    Rewrite: ``for v in max(a, x)..min(b, y): S``  ->  ``if x <= a and b <= y: for v in a..b: S else: (the same loop)``
    Raises: ScheduleError when no pair of bounds has a constant distance.
    """
    targets = find_loops(s.nest, stage, loop)

    def go(x: Stmt) -> Stmt:
        assert isinstance(x, For)
        pairs = [(a, b) for a in x.lo for b in x.hi if not (b - a).terms]
        if not pairs:
            raise ScheduleError(f'no two bounds of "{x.var}" have a constant distance')
        lo, hi = pairs[0]
        slack = tuple(lo - a for a in x.lo if a is not lo) + tuple(b - hi for b in x.hi if b is not hi)
        return If(slack, _renamed(replace(x, lo=(lo,), hi=(hi,)), suffix), x) if slack else x

    return s.with_nest(edit(s.nest.body, targets, go))


@primitive
def specialize(s: Schedule, stage: str, loop: str, *conditions: str, suffix: str | None = None) -> Schedule:
    """Give the iterations in which affine conditions hold a copy of a loop of their own.

    In the copy, selects and guards that the conditions decide disappear.  conditions: texts such
    as ``"8*i.o - t >= 1"`` over the loops around.  suffix: added to the names of the copy's loops.

    Requires: the conditions use only loops around ``loop``.
    Rewrite: ``for v: S``  ->  ``if conditions: for v: S else: for v: S``
    Raises: ScheduleError for a condition that cannot be read or names another loop.
    """
    targets = find_loops(s.nest, stage, loop)
    limits = tuple(g for text in conditions for g in parse_condition(text))
    if not limits:
        raise ScheduleError("give at least one condition")
    for _, path in targets.values():
        known = {x.var for x in path if isinstance(x, For)}
        for g in limits:
            for n in g.names() - known:
                raise ScheduleError(
                    f'the condition {g} >= 0 uses {n!r}, which is no loop around "{loop}"', legal=sorted(known)
                )
    return s.with_nest(edit(s.nest.body, targets, lambda x: If(limits, _renamed(x, suffix), x)))


_TOKEN = re.compile(r"\s*(>=|<=|==|[<>+*-]|\d+|[A-Za-z_@][\w.']*)")


def parse_condition(text: str) -> tuple[Affine, ...]:
    """``"8*i.o - t >= 1"`` as affine expressions that are >= 0 where it holds."""
    tokens, at = [], 0
    while at < len(text.rstrip()):
        m = _TOKEN.match(text, at)
        if m is None:
            raise ScheduleError(f"cannot read the condition {text!r} at column {at + 1}")
        tokens.append(m.group(1))
        at = m.end()
    relations = [k for k, t in enumerate(tokens) if t in (">=", "<=", "<", ">", "==")]
    if len(relations) != 1:
        raise ScheduleError(f"the condition {text!r} needs one of >= <= > < ==")
    a, b = _parse_sum(tokens[: relations[0]], text), _parse_sum(tokens[relations[0] + 1 :], text)
    return {">=": (a - b,), "<=": (b - a,), ">": (a - b - 1,), "<": (b - a - 1,), "==": (a - b, b - a)}[
        tokens[relations[0]]
    ]


def _parse_sum(tokens: list[str], text: str) -> Affine:
    total, sign, factor, expects = Affine(), 1, 1, True
    for k, t in enumerate(tokens):
        if t in "+-" and (expects is False or k == 0 or t == "-"):
            sign = (sign if expects else 1) * (-1 if t == "-" else 1)
            factor, expects = 1, True
        elif t == "*" and not expects:
            expects = True
        elif t not in "+-*" and expects:
            if k + 1 < len(tokens) and tokens[k + 1] == "*" and t.isdigit():
                factor *= int(t)
            else:
                total = total + (Affine((), int(t)) if t.isdigit() else Affine.of(t)) * (sign * factor)
                sign, factor = 1, 1
            expects = False
        else:
            raise ScheduleError(f"cannot read {t!r} in the condition {text!r}")
    if expects:
        raise ScheduleError(f"the condition {text!r} ends too early")
    return total


@primitive
def distribute(s: Schedule, stage: str, loop: str) -> Schedule:
    """Give every statement in the body of a loop a loop of its own.

    Requires: the loop's body is a sequence.
    Rewrite: ``for v: (S; T)``  ->  ``for v: S; for v: T``
    Raises: ScheduleError when a later statement's value would be needed earlier.
    """
    targets = find_loops(s.nest, stage, loop)

    def go(x: Stmt) -> Stmt:
        assert isinstance(x, For)
        return seq(*[replace(x, body=y) for y in x.body.items]) if isinstance(x.body, Seq) else x

    return s.with_nest(edit(s.nest.body, targets, go))
