"""Definition primitives that compute the same by another algorithm."""

from __future__ import annotations

from tensordsl.schedules.lower import lower
from tensordsl.schedules.primitives.constants import require_plain
from tensordsl.schedules.primitives.placement import defined
from tensordsl.schedules.schedule import Schedule, primitive
from tensordsl.schedules.variants.winograd import with_winograd


@primitive
def winograd(s: Schedule, stage: str, m: int) -> Schedule:
    """Compute a correlation with three taps by Winograd's F(m, 3), in one or two dimensions at once.

    It needs m + 2 products for m results instead of 3 m, and as much in the other dimension; the float
    result is less exact (see `td.error_bound` of the schedule's program), so no default uses it.

    Requires: m is 2 or 4; a sum of products ``x[.., i + r, ..] * w[.., r, ..]`` of floats with r of 3
    values; no loop is ordered yet.
    Rewrite: ``y[i] = sum_c,r x[c, i + r] w[c, r]``  ->  ``y_data[p, i/m, c] = B' x; y_filter[p, c] = G w;
        y_points[p, i/m] = sum_c y_data * y_filter; y[i] = (A' y_points)[i % m, i / m]``
    Raises: ScheduleError for another m, and for a stage that is no such correlation.
    """
    defined(s, stage)
    require_plain(s, "choose the algorithm first, then order loops")
    program = with_winograd(s.program, stage, m)
    return Schedule(program, lower(program), s.trace, s.checked)
