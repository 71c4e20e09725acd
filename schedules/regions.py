"""Boxes of buffer elements that a part of a nest touches, in closed form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tensordsl.schedules.loopnest import For
from tensordsl.schedules.simplify import Context

from tensordsl.affine import Affine, is_symbolic
from tensordsl.sizes import Size, made


@dataclass(frozen=True, slots=True)
class Span:
    """The indices ``base <= i < base + extent`` of one dimension; ``ends`` bound them further above
    (exclusive), where the region is smaller than its box in some iterations."""

    base: Affine
    extent: int
    ends: tuple[Affine, ...] = ()


def clipped(s: Span, size: int) -> Span:
    """The part of a span that lies in a dimension of ``size`` indices, where its ends are known."""
    if s.base.terms:
        return s
    first, last = max(0, s.base.const), min(size, s.base.const + s.extent)
    return Span(Affine((), first), last - first, s.ends) if first < last else s


class NoBox(Exception):
    """The touched elements have no affine box of constant size; the text says which index."""


def span(index: Affine, inner: Sequence[For], around: Context | None = None) -> Span:
    """The values of an index over the loops ``inner`` (outermost first), as base plus extent.

    around: what bounds loops whose number of iterations is no constant (None: they have no box).
    Raises NoBox where the size of an inner loop or the index itself is not a constant box.
    """
    base, last, ends = index, index, [index]
    for f in reversed(inner):
        c = base.coefficient(f.var)
        if any(f.var in a.names() for a, _ in index.terms if not isinstance(a, str)):
            raise NoBox(f"index {index} divides loop {f.var}, or reads memory at it")
        sizes = [e.coefficient(f.var) for e in ends]
        ends = [x for e, k in zip(ends, sizes) for x in _extremes(e, f, k)]
        if not c and not last.coefficient(f.var):
            continue
        lo, size = _constant_size(f, None if around is None else _inside(around, inner, f))
        env_lo = {f.var: lo}
        base = base.substitute(env_lo if c > 0 else {f.var: lo + (size - 1)})
        last = last.substitute({f.var: lo + (size - 1)} if c > 0 else env_lo)
    extent = last - base
    if not is_symbolic(extent):
        raise NoBox(f"index {index} covers a number of elements that varies: {extent + 1}")
    tight = tuple(dict.fromkeys(e + 1 for e in ends if e != last))
    return Span(base, made(extent + 1), tight)


def _extremes(end: Affine, f: For, coefficient: int) -> list[Affine]:
    """Bounds of an end over a loop."""
    if not coefficient:
        return [end]
    return [end.substitute({f.var: h - 1}) for h in f.hi] if coefficient > 0 else [end.substitute({f.var: f.lo[0]})]


def _inside(around: Context, inner: Sequence[For], f: For) -> Context:
    """What is known where a loop of ``inner`` begins."""
    for g in inner:
        if g is f:
            break
        around = around.inside(g)
    return around


def _constant_size(f: For, c: Context | None) -> tuple[Affine, int]:
    """A lower bound and a constant number of iterations that contain the loop."""
    best: tuple[Affine, int] | None = None
    for lo in f.lo:
        for hi in f.hi:
            size = hi - lo
            if not size.terms and (best is None or isinstance(best[1], Size) or size.const < best[1]):
                best = (lo, size.const)
            elif best is None and is_symbolic(size):
                best = (lo, made(size))
    if best is None and c is not None:
        for lo in f.lo:
            for hi in f.hi:
                most = c.maximum(hi - lo)
                if most is not None and (best is None or most < best[1]):
                    best = (lo, most)
    if best is None:
        raise NoBox(f"loop {f.var} has no constant number of iterations")
    return best


def union(spans: Iterable[Span], c: Context) -> Span:
    """The smallest span that contains all, which must differ by constants."""
    result: Span | None = None
    for s in spans:
        if result is None:
            result = s
            continue
        shift = s.base - result.base
        if shift.terms:
            low = c.minimum(shift)
            if low is not None and low >= 0:  # starts later by a varying amount: keep the earlier base
                high = c.maximum(shift)
                if high is None:
                    raise NoBox(f"accesses at {result.base} and {s.base} lie apart by {shift}")
                result = Span(result.base, max(result.extent, high + s.extent), ())
                continue
            raise NoBox(f"accesses at {result.base} and {s.base} lie apart by {shift}")
        base = result.base if shift.const >= 0 else s.base
        end = max(result.extent, shift.const + s.extent) - min(0, shift.const)
        same = tuple(e for e in result.ends if e in s.ends) if result.ends and s.ends else ()
        if not same and result.ends and s.ends and len(result.ends) == len(s.ends) == 1:
            gap = s.ends[0] - result.ends[0]
            if not gap.terms:
                same = (s.ends[0] if gap.const > 0 else result.ends[0],)
        result = Span(base, end, same)
    assert result is not None
    return result
