"""The definition primitive that turns several passes over data into one."""

from __future__ import annotations

from tensordsl.schedules.lower import lower
from tensordsl.schedules.online.rewrite import check_tile, streamed
from tensordsl.schedules.schedule import Schedule, primitive

from tensordsl.errors import ScheduleError


@primitive
def online(s: Schedule, stage: str, tile: int, axis: str | None = None) -> Schedule:
    """Compute a reduction and the reductions its terms use in one pass, a tile of terms at a time.

    After each tile the results so far are carried, and what was reduced with older results is repaired:
    softmax(q k) v never stores its scores.  Milakov and Gimelshein (2018); Dao et al. (2022).

    Requires: no loop is ordered yet; a formula repairs each reduction (a factor or an addend free of the
    terms, a polynomial, or an indicator of an extreme); the value may differ by rounding.
    Rewrite: ``m = max_k x[k]; l = sum_k exp(x[k] - m)``  ->
        ``for t: m_run[t] = max(m_run[t-1], tile max); l_run[t] = l_run[t-1] * exp(m_run[t-1] - m_run[t]) + tile sum``
    Raises: ScheduleError where no repair exists: the reduction then needs a pass of its own.
    """
    k = check_tile(s.program, stage, axis, tile)
    if str(s.nest) != str(Schedule(s.program, checked=False).nest):
        raise ScheduleError("loops or buffers are already arranged", hint="stream first, then order loops")
    program = streamed(s.program, stage, k, tile)
    return Schedule(program, lower(program), s.trace, s.checked)
