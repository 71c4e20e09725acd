"""Are recurrences well founded?  Every cycle of reads must advance along the causal order.

Definitions that read each other share the first axis of their orders.  Reads of an earlier step are
there; those of the same step must form no cycle, or the cycle is a recurrence within the step, along
the next axis of its members' orders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tensordsl.affine import Affine
from tensordsl.bounds import Answer, guarded_reads, ranges_of, satisfiable
from tensordsl.errors import ProgramError
from tensordsl.expr import Read
from tensordsl.tensor import Causal, Definition, Tensor

Node = TypeVar("Node")


@dataclass(frozen=True, slots=True)
class Group:
    """Definitions computed together.

    parts: what each step computes, in order: definitions, and groups that recur within the step.
    order: the axis along which the steps advance (None: one definition, no recurrence).
    """

    parts: tuple[Tensor | Group, ...]
    order: Causal | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(t for p in self.parts for t in (p.tensors if isinstance(p, Group) else (p,)))


def arrange(members: Sequence[Tensor], level: int = 0) -> Group:
    """The group of some definitions that read each other.

    Raises ProgramError with a counterexample where a read may lie in a later step, or where reads of
    the same step form a cycle.
    """
    order = _common(members, level)
    needed: dict[int, list[tuple[Tensor, Read, Answer]]] = {id(t): [] for t in members}
    for t in members:
        d = _definition(t)
        if any(a.extent == 0 for a in d.axes + d.reduce_axes):
            continue
        for read, given in guarded_reads(d.body):
            source = next((m for m in members if m is read.source), None)
            if source is None:
                continue
            late = _distance(t, read, source, given, level, 0)
            if late.possible is not False:
                raise _refusal(t, read, late, "a later step", level)
            same = _distance(t, read, source, given, level, 1)
            if same.possible is not False:
                needed[id(t)].append((source, read, same))
    parts: list[Tensor | Group] = []
    for component in components(members, lambda t: [source for source, _, _ in needed[id(t)]]):
        # the last member's reads are those that close the cycle
        closing = [(t, n) for t in component[::-1] for n in needed[id(t)] if any(n[0] is c for c in component)]
        if not closing:
            parts += component
            continue
        if any(len(_definition(t).order) <= level + 1 for t in component):
            reader, (_, read, when) = closing[0]
            raise _refusal(reader, read, when, "the same step", level)
        parts.append(arrange(component, level + 1))
    return Group(tuple(parts), order)


def _common(members: Sequence[Tensor], level: int) -> Causal:
    """The axis along which all of them advance."""
    orders = [_definition(t).order[level] for t in members]
    if any(o != orders[0] for o in orders):
        said = ", ".join(f"{t.name} in order of {o}" for t, o in zip(members, orders))
        raise ProgramError(
            f"definitions that need each other advance along different axes: {said}",
            location=members[0].location,
            hint="name the axis alike in all of them",
        )
    return orders[0]


def components(nodes: Sequence[Node], before: Callable[[Node], Sequence[Node]]) -> list[list[Node]]:
    """Strongly connected components, each after those it needs (R. Tarjan, 1972).

    before: what a node needs; nodes that are not among ``nodes`` are reached through it.
    """
    walk = _Tarjan(before)
    for n in nodes:
        walk.visit(n)
    return walk.found


class _Tarjan(Generic[Node]):
    def __init__(self, before: Callable[[Node], Sequence[Node]]) -> None:
        self.before = before
        self.number: dict[int, int] = {}
        self.lowest: dict[int, int] = {}
        self.stack: list[Node] = []
        self.found: list[list[Node]] = []

    def enter(self, n: Node) -> tuple[Node, list[Node]]:
        self.number[id(n)] = self.lowest[id(n)] = len(self.number)
        self.stack.append(n)
        return n, list(self.before(n))[::-1]

    def visit(self, root: Node) -> None:
        """Without recursion: graphs may be deeper than Python's stack."""
        calls = [self.enter(root)] if id(root) not in self.number else []
        while calls:
            n, rest = calls[-1]
            if rest:
                source = rest.pop()
                if id(source) not in self.number:
                    calls.append(self.enter(source))
                elif any(source is s for s in self.stack):
                    self.lowest[id(n)] = min(self.lowest[id(n)], self.number[id(source)])
                continue
            calls.pop()
            if calls:
                parent = calls[-1][0]
                self.lowest[id(parent)] = min(self.lowest[id(parent)], self.lowest[id(n)])
            if self.lowest[id(n)] == self.number[id(n)]:
                at = next(i for i, s in enumerate(self.stack) if s is n)
                self.found.append(self.stack[at:])
                del self.stack[at:]


def _distance(t: Tensor, read: Read, source: Tensor, given: tuple[Affine, ...], level: int, least: int) -> Answer:
    """Can the read lie in the same step of the outer levels and less than ``least`` steps before the
    element that needs it?"""
    here, there = _definition(t), _definition(source)
    facts = list(given)
    for n in range(level + 1):
        step = next(d for d, a in enumerate(there.axes) if a.name == there.order[n].axis)
        ahead = read.index[step] - Affine.of(here.order[n].axis)
        if here.order[n].descending:
            ahead = -ahead
        facts += [ahead, -ahead] if n < level else [ahead + least - 1]
    return satisfiable(facts, ranges_of(t))


def _refusal(t: Tensor, read: Read, when: Answer, where: str, level: int) -> ProgramError:
    d = _definition(t)
    element = f"{t.name}[{', '.join(a.name for a in d.axes)}]"
    counterexample = None
    if when.point is not None:
        # the axes that do not matter are shown at 0
        point = {a.name: 0 for a in d.axes + d.reduce_axes} | dict(when.point)
        needs = f"{read.source.name}[{', '.join(str(i.evaluate(point)) for i in read.index)}]"
        counterexample = f"{when}: " if when.point else ""
        counterexample += f"{t.name}[{', '.join(str(point[a.name]) for a in d.axes)}] reads {needs}"
    order = ", ".join(map(str, d.order[: level + 1]))
    return ProgramError(
        f"{element} reads {read} of {where} in order of {order}"
        + ("" if when.point is not None else ", as far as can be proven"),
        location=read.location,
        counterexample=counterexample,
        hint=f"every read of {read.source.name} must lie before {order}: "
        "guard it with td.select, or choose another order",
    )


def _definition(t: Tensor) -> Definition:
    assert t.definition is not None
    return t.definition
