"""The time from an expression to the C text of its default schedule, for every example, slowest first.

python benchmarks/expression_to_c.py [name ...] [--rounds N] [--target ID] [--profile]

Sizes of PolyBench kernels are those of benchmarks/polybench.py.  A round defines the program anew (the proofs
of its reads included), makes the default schedule with its proof, and prints it; the minimum of the rounds
counts, the first call of all warms the imports up.  --profile: the functions that take the time of the slowest.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from example_programs import ROOT, example_programs, load
from tensordsl.codegen.c.printer import to_c
from tensordsl.schedules.default import default_schedule

import tensordsl as td
from tensordsl.targets import Target, target

#: Seconds within which every example should have its text.
WANTED_S = 0.5


def once(program: td.Program, machine: Target) -> tuple[float, float, int]:
    """Seconds of the schedule and of the text, and the lines of the text."""
    start = time.perf_counter()
    nest = default_schedule(program, machine).nest
    middle = time.perf_counter()
    lines = to_c(nest, machine).body.count("\n")
    return middle - start, time.perf_counter() - middle, lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="parts of names; all examples without any")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--target", default="native")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    machine = target(options.target)
    sizes = load(ROOT / "benchmarks" / "polybench.py").SIZES
    makers = {
        name: make
        for name, make in example_programs(sizes).items()
        if not options.names or any(part in name for part in options.names)
    }
    once(next(iter(makers.values()))(), machine)
    rows = []
    for name, make in makers.items():
        best: tuple[float, float, float, int] | None = None
        for _ in range(options.rounds):
            start = time.perf_counter()
            program = make()
            defined = time.perf_counter() - start
            schedule, text, lines = once(program, machine)
            best = min(best or (9e9, 0.0, 0.0, 0), (defined + schedule + text, defined, schedule, lines))
        assert best is not None
        rows.append((best, name))
    rows.sort(reverse=True)
    print(f"{'example':32} {'ms':>7} {'define':>7} {'schedule':>8} {'lines':>6}")
    for (total, defined, schedule, lines), name in rows:
        print(f"{name:32} {total * 1e3:7.1f} {defined * 1e3:7.1f} {schedule * 1e3:8.1f} {lines:6}")
    slow = [name for (total, *_), name in rows if total > WANTED_S]
    print(f"{len(rows)} examples, {len(slow)} over {WANTED_S} s{': ' if slow else ''}{', '.join(slow)}")
    if options.profile:
        profile = cProfile.Profile()
        profile.enable()
        once(makers[rows[0][1]](), machine)
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
