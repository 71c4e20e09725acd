"""The image pipelines of examples/pipelines.py by their default schedule, beside gcc -O3 on plain loops.

python benchmarks/image_pipelines.py [NAME...] [--lock FILE] [--rounds 11]

The same measurement as benchmarks/default_schedule.py: ratios above 1 mean that the default schedule is faster
than the fastest of the plain forms.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "examples")]
import default_schedule  # noqa: E402
from default_programs import PROGRAMS  # noqa: E402
from pipelines import PIPELINES  # noqa: E402

SIZES = {
    "blur": (768, 1024),
    "unsharp": (768, 1024),
    "harris": (768, 1024),
    "pyramid": (95, 127),
    "bilateral_grid": (256, 384),
}

if __name__ == "__main__":
    tiny = PROGRAMS["add_tiny"]
    PROGRAMS.clear()
    PROGRAMS.update({name: functools.partial(f, *SIZES[name]) for name, f in PIPELINES.items()})
    names = list(PROGRAMS)
    PROGRAMS["add_tiny"] = tiny  # warms the imports up
    if not [a for a in sys.argv[1:] if not a.startswith("-")]:
        sys.argv[1:1] = names
    default_schedule.main()
