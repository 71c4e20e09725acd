"""Where a slice starts, how many elements it has and how far they are apart, of any size."""

from __future__ import annotations

from tensordsl.sizes import DependsOnSizes, Size


def positions(k: slice, n: int) -> tuple[int, int, int]:
    """(start, count, step) of a slice of ``n`` elements.

    Bounds of sizes known only at the call must lie in them whatever they are; Python would cut them.
    Raises DependsOnSizes where that is not proven.
    """
    if not any(isinstance(x, Size) for x in (k.start, k.stop, k.step, n)):
        start, stop, step = k.indices(n)
        return start, len(range(start, stop, step)), step
    step = 1 if k.step is None else k.step
    if step > 0:
        start, stop = _inside(k.start, n, 0), _inside(k.stop, n, n)
        return start, _count(stop - start, step), step
    start = n - 1 if k.start is None else _inside(k.start, n, 0)
    stop = -1 if k.stop is None else _inside(k.stop, n, 0)
    return start, _count(start - stop, -step), step


def _inside(bound: int | None, n: int, default: int) -> int:
    if bound is None:
        return default
    value = bound if isinstance(bound, Size) or bound >= 0 else n + bound
    try:
        legal = 0 <= value <= n
    except DependsOnSizes:
        legal = False
    if not legal:
        raise DependsOnSizes(
            f"the slice bound {bound} may lie outside of {n} elements", hint=f"assume that {n} is large enough"
        )
    return value


def _count(distance: int, step: int) -> int:
    return (distance + (step - 1)) // step if distance >= 0 else 0
