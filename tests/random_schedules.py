"""Random schedules: primitives with random arguments, legal or not."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tensordsl.schedules.locate import stage_loops, stage_of, stage_stores, stages
from tensordsl.schedules.loopnest import Alloc, For, LoopNest, buffers, stores, walk
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.trace import Step

import tensordsl as td
from tensordsl import expr
from tensordsl.expr import Read
from tensordsl.tensor import Definition

FACTORS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32)
LANES = (2, 3, 4, 8, 8, 16, 16, 32)
MOST_LOOPS = 60
MOST_BUFFERS = 12


@dataclass(slots=True)
class Steps:
    """Draws one step after another for a schedule: definitions first, then placement, order, copies, kinds.

    gpu: shared buffers, pipelines and thread loops too; such nests are interpreted, not compiled for a CPU.
    """

    rng: random.Random
    gpu: bool = False

    def draw(self, s: Schedule, progress: float) -> Step:
        """progress: the part of the steps already drawn, 0 to 1."""
        family = FAMILIES[int(progress * len(FAMILIES))] if self.rng.random() < 0.7 else tuple(ARGUMENTS)
        if self.gpu and self.rng.random() < 0.15:
            family = tuple(GPU)
        name = self.rng.choice(family)
        args, kwargs = (ARGUMENTS | GPU)[name](self, s)
        return Step(name, args, tuple(kwargs.items()))

    def stage(self, s: Schedule) -> str:
        return self.rng.choice(stages(s.nest) or ["none"])  # an illegal step may leave nothing

    def loop(self, s: Schedule, stage: str) -> str:
        names = stage_loops(s.nest, stage) if stage in stages(s.nest) else []
        return self.rng.choice(names) if names else "none"

    def stage_and_loop(self, s: Schedule) -> tuple[str, str]:
        stage = self.stage(s)
        return stage, self.loop(s, stage)

    def defined(self, s: Schedule, wanted: Callable[[td.Tensor], bool]) -> str:
        """A stage of the program with a property, or any stage."""
        names = [t.name for t in s.program.tensors if wanted(t)]
        return self.rng.choice(names) if names and self.rng.random() < 0.9 else self.stage(s)

    def edge(self, s: Schedule) -> tuple[str, str]:
        """A stage and one that reads it, or any two."""
        pairs = [
            (r.source.name, t.name)
            for t in s.program.tensors
            for r in definition(t).reads
            if r.source.name != t.name and all(i.name != r.source.name for i in s.program.inputs)
        ]
        return self.rng.choice(pairs) if pairs and self.rng.random() < 0.9 else (self.stage(s), self.stage(s))

    def read(self, s: Schedule) -> tuple[str, str, str]:
        """A stage, a buffer it reads and a loop around one of the reads, or any three."""
        found = [
            (stage_of(x, path), r.source.name, f.var)
            for x, path in stores(s.nest.body)
            for r in expr.reads(x.value)
            for f in path
            if isinstance(f, For)
        ]
        if found and self.rng.random() < 0.9:
            return self.rng.choice(found)
        stage, loop = self.stage_and_loop(s)
        return stage, self.buffer(s), loop

    def band(self, s: Schedule) -> tuple[str, list[str]]:
        """A stage and the loops around one of its stores."""
        stage = self.stage(s)
        path = self.rng.choice(stage_stores(s.nest, stage))[1] if stage in stages(s.nest) else ()
        return stage, [f.var for f in path if isinstance(f, For)]

    def buffer(self, s: Schedule) -> str:
        return self.rng.choice(list(buffers(s.nest)))

    def local(self, s: Schedule) -> str:
        own = [x.buffer.name for x, _ in walk(s.nest.body) if isinstance(x, Alloc)]
        return self.rng.choice(own) if own else self.buffer(s)


def definition(t: td.Tensor) -> Definition:
    assert t.definition is not None
    return t.definition


Drawn = tuple[tuple[Any, ...], dict[str, Any]]


def _split(r: Steps, s: Schedule) -> Drawn:
    stage, loop = r.stage_and_loop(s)
    pick = r.rng.random()
    if pick < 0.2:
        return (stage, loop), {"most": r.rng.choice(FACTORS)}
    if pick < 0.3:
        return (stage, loop, r.rng.choice(FACTORS)), {"names": (f"{loop}.a", f"{loop}.b")}
    if pick < 0.4:
        return (stage, loop), {"factors": (None, r.rng.choice(FACTORS), r.rng.choice(FACTORS))}
    return (stage, loop, r.rng.choice(FACTORS)), {}


def _tile(r: Steps, s: Schedule) -> Drawn:
    stage, loops = r.band(s)
    chosen = r.rng.sample(loops, min(2, len(loops)))
    return (stage, tuple(chosen), tuple(r.rng.choice(FACTORS) for _ in chosen)), {}


def _fuse(r: Steps, s: Schedule) -> Drawn:
    stage, loops = r.band(s)
    k = r.rng.randrange(max(1, len(loops) - 1))
    return (stage, *([*loops, "none", "none"][k : k + 2])), {}


def _reorder(r: Steps, s: Schedule) -> Drawn:
    stage, loops = r.band(s)
    known = [*loops, "none"] if len(loops) < 2 or r.rng.random() < 0.05 else loops
    return (stage, *r.rng.sample(known, min(len(known), r.rng.randint(2, 4)))), {}


def _compute_at(r: Steps, s: Schedule) -> Drawn:
    producer, consumer = r.edge(s)
    return (producer, consumer, r.loop(s, consumer) if consumer in stages(s.nest) else "none"), {}


def _reverse_compute_at(r: Steps, s: Schedule) -> Drawn:
    producer, consumer = r.edge(s)
    return (consumer, producer, r.loop(s, producer) if producer in stages(s.nest) else "none"), {}


def _cache_read(r: Steps, s: Schedule) -> Drawn:
    scopes = ("register", "register", "stack", "workspace", *(("shared",) if r.gpu else ()))
    kwargs: dict[str, Any] = {"scope": r.rng.choice(scopes)}
    if r.rng.random() < 0.3:
        kwargs["align"] = r.rng.choice(LANES)
    if r.rng.random() < 0.2:
        kwargs["pad"] = r.rng.choice((1, 3))
    return r.read(s), kwargs


def _cache_write(r: Steps, s: Schedule) -> Drawn:
    stage = r.defined(s, lambda t: t.name in stages(s.nest))
    kwargs: dict[str, Any] = {"pad": r.rng.choice((1, 5))} if r.rng.random() < 0.2 else {}
    return (stage, r.loop(s, stage)), {"scope": r.rng.choice(("register", "stack", "workspace")), **kwargs}


def _pack(r: Steps, s: Schedule) -> Drawn:
    copies = [
        (stage_of(x, path), x.value.source.name)
        for x, path in stores(s.nest.body)
        if x.instance.kind == "copy" and isinstance(x.value, Read) and stage_of(x, path) == x.buffer.name
    ]
    stage, source = r.rng.choice(copies) if copies else r.read(s)[:2]
    return (stage, source), {"at": r.loop(s, stage)} if r.rng.random() < 0.4 else {}


def _slide(r: Steps, s: Schedule) -> Drawn:
    moving = [
        (x.buffer.name, f.var)
        for x, path in walk(s.nest.body)
        for f in path
        if isinstance(x, Alloc) and isinstance(f, For) and any(f.var in e.names() for e in x.element)
    ]
    return (r.rng.choice(moving) if moving else r.stage_and_loop(s)), {}


def _skew(r: Steps, s: Schedule) -> Drawn:
    stage, loops = r.band(s)
    pair = sorted(r.rng.sample(range(len(loops)), 2)) if len(loops) > 1 else (0, 0)
    outer, inner = (loops[k] for k in pair) if loops else ("none", "none")
    return (stage, inner, outer, r.rng.choice((-1, 1, 1, 2))), {}


def _specialize(r: Steps, s: Schedule) -> Drawn:
    stage, loops = r.band(s)
    k = r.rng.randrange(1, len(loops)) if len(loops) > 1 else 0
    around = r.rng.choice(loops[:k] or ["none"])
    return (stage, [*loops, "none"][k], f"{around} {r.rng.choice(('>=', '<', '=='))} {r.rng.randint(0, 3)}"), {}


def _partition(r: Steps, s: Schedule) -> Drawn:
    stage, loops = r.band(s)
    k = r.rng.randrange(len(loops)) if loops else 0
    outer = r.rng.choice(["", *loops[:k]])
    return (stage, [*loops, "none"][k], f"{outer} + {r.rng.randint(0, 3)}" if outer else str(r.rng.randint(0, 9))), {}


def _store_at(r: Steps, s: Schedule) -> Drawn:
    name = r.local(s)
    used = [
        f.var
        for x, path in stores(s.nest.body)
        for f in path
        if isinstance(f, For) and (x.buffer.name == name or any(e.source.name == name for e in expr.reads(x.value)))
    ]
    return (name, r.rng.choice(used or ["none"])), {}


def _compute_inline(r: Steps, s: Schedule) -> Drawn:
    outputs = {t.name for t in s.program.outputs}
    return (r.defined(s, lambda t: definition(t).reducer is None and t.name not in outputs),), {}


def _rfactor(r: Steps, s: Schedule) -> Drawn:
    stage = r.defined(s, lambda t: definition(t).reducer is not None)
    axes = [a.name for t in s.program.tensors if t.name == stage for a in definition(t).reduce_axes]
    return (stage, r.rng.choice(axes or ["none"]), r.rng.choice((2, 3, 4, 8))), {}


def _pad(r: Steps, s: Schedule) -> Drawn:
    stage = r.stage(s)
    axes = [
        a.name for t in s.program.tensors if t.name == stage for a in (*definition(t).axes, *definition(t).reduce_axes)
    ]
    return (stage, r.rng.choice(axes or ["none"]), r.rng.choice(FACTORS)), {}


def _relayout(r: Steps, s: Schedule) -> Drawn:
    stage = r.stage(s)
    reads = [x for t in s.program.tensors if t.name == stage for x in definition(t).reads]
    source = r.rng.choice(reads).source if reads else None
    order = list(range(len(source.shape) if source is not None else 1))
    r.rng.shuffle(order)
    return (stage, source.name if source is not None else "none", tuple(order)), {}


def _prefetch(r: Steps, s: Schedule) -> Drawn:
    kwargs: dict[str, Any] = {"ahead": r.rng.randint(-1, 4)}
    stage, *_ = drawn = r.read(s)
    if r.rng.random() < 0.3:
        kwargs["locality"] = r.rng.randrange(4)
    if r.rng.random() < 0.3:
        kwargs["along"] = r.loop(s, stage)
    if r.rng.random() < 0.3:
        kwargs |= {"spread": r.loop(s, stage), "width": r.rng.choice((1, 8, 16))}
    return drawn, kwargs


def _jam(r: Steps, s: Schedule) -> Drawn:
    first, second = r.edge(s)
    names = [n for n in (first, second) if n in stages(s.nest)]
    return (first, second, r.loop(s, r.rng.choice(names)) if names else "none"), {}


def _plain(r: Steps, s: Schedule) -> Drawn:
    return r.stage_and_loop(s), {}


ARGUMENTS: dict[str, Callable[[Steps, Schedule], Drawn]] = {
    "split": _split,
    "tile": _tile,
    "fuse": _fuse,
    "reorder": _reorder,
    "skew": _skew,
    "peel": lambda r, s: ((*r.stage_and_loop(s), r.rng.choice(("first", "last", "tail"))), {}),
    "separate": lambda r, s: (r.stage_and_loop(s), {"suffix": "s"} if r.rng.random() < 0.3 else {}),
    "specialize": _specialize,
    "partition": _partition,
    "distribute": _plain,
    "interleave": lambda r, s: ((*r.stage_and_loop(s), tuple(r.rng.randrange(3) for _ in range(2))), {}),
    "decompose_reduction": _plain,
    "jam": _jam,
    "unroll": _plain,
    "vectorize": lambda r, s: (r.stage_and_loop(s), {"lanes": r.rng.choice(LANES)} if r.rng.random() < 0.7 else {}),
    "parallel": _plain,
    "compute_at": _compute_at,
    "reverse_compute_at": _reverse_compute_at,
    "cache_read": _cache_read,
    "cache_write": _cache_write,
    "pack": _pack,
    "slide": _slide,
    "compute_inline": _compute_inline,
    "rfactor": _rfactor,
    "pad": _pad,
    "reciprocal": lambda r, s: ((r.stage(s),), {}),
    "project": _plain,
    "relayout": _relayout,
    "scatter": lambda r, s: ((stage := r.stage(s), r.loop(s, stage)), {}),
    "set_scope": lambda r, s: ((r.local(s), r.rng.choice(("register", "stack", "workspace"))), {}),
    "store_at": _store_at,
    "shear": lambda r, s: ((r.local(s), *r.rng.sample(range(2), 2), r.rng.choice((1, 2))), {}),
    "permute": lambda r, s: ((r.local(s), tuple(r.rng.sample(range(2), 2))), {}),
    "storage_align": lambda r, s: ((r.local(s), r.rng.choice((8, 16, 17, 40))), {}),
    "fold": lambda r, s: ((r.local(s), r.rng.randrange(2), r.rng.choice((1, 2, 3, 4))), {}),
    "outline": _plain,
    "prefetch": _prefetch,
    "store_nt": lambda r, s: ((r.stage(s),), {}),
    "annotate": lambda r, s: ((*r.stage_and_loop(s), "note"), {}),
}

#: Steps whose nests are no CPU nests.
GPU: dict[str, Callable[[Steps, Schedule], Drawn]] = {
    "bind": lambda r, s: ((*r.stage_and_loop(s), r.rng.choice(("block", "thread", "thread.y"))), {}),
    "pipeline": lambda r, s: (r.stage_and_loop(s), {"stages": r.rng.choice((2, 2, 3))}),
}

#: What is drawn early and what late: a stage is placed before its loops are ordered.
FAMILIES: tuple[tuple[str, ...], ...] = (
    ("compute_inline", "rfactor", "reciprocal", "relayout", "project", "pad", "scatter", "compute_at", "split"),
    ("compute_at", "reverse_compute_at", "split", "tile", "reorder"),
    ("split", "tile", "reorder", "fuse", "skew", "jam", "interleave", "cache_write"),
    ("cache_read", "cache_read", "cache_write", "pack", "slide", "slide", "reverse_compute_at"),
    (
        "peel",
        "separate",
        "specialize",
        "partition",
        "distribute",
        "decompose_reduction",
        "fold",
        "store_at",
        "set_scope",
        "permute",
        "shear",
        "storage_align",
    ),
    ("vectorize", "vectorize", "parallel", "unroll", "outline", "prefetch", "store_nt", "annotate"),
)


def apply(s: Schedule, step: Step) -> Schedule:
    new: Schedule = getattr(s, step.name)(*step.args, **dict(step.kwargs))
    return new


def too_large(nest: LoopNest) -> bool:
    """Would more steps say nothing new and cost the interpreters seconds?"""
    return sum(isinstance(x, For) for x, _ in walk(nest.body)) > MOST_LOOPS or len(buffers(nest)) > MOST_BUFFERS
