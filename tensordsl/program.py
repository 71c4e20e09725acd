"""Programs: inputs, outputs and the groups of definitions between them.

A Program is self-contained and in normal form: its tensors are its own copies with unique names,
listed so that each is defined after what it reads.  Definitions that read each other in a cycle
form one group with a causal order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tensordsl import accesses, causality, expr, hazards
from tensordsl.affine import Affine, Dim
from tensordsl.causality import Group
from tensordsl.constants import constants_of
from tensordsl.dimensions import MOST, extent
from tensordsl.errors import ProgramError
from tensordsl.expr import Expr, Read
from tensordsl.sizes import Size, assuming, dims_of, made
from tensordsl.tensor import Definition, Tensor

#: Where float results are rounded.  free: sums in any order, products fused into sums where the machine
#: can.  written: every operation of the definitions once, in the written order.  fused: the same, but
#: with one rounding for a term of a `Definition.fused` sum and in the vector math.
Rounding = Literal["free", "written", "fused"]


@dataclass(frozen=True, slots=True, eq=False, init=False)
class Program:
    """inputs, outputs: tensors in calling order.  inplace: output name -> input name whose memory
    it takes over.  dims: the named sizes it was bound with, in the order of the C interface; sizes that are
    known only at the call (`Size`) stay open.  rounding: what a kernel may do to float results (see
    `Rounding`).  relations: what is assumed of several open sizes (each ``>= 0``).
    Raises ProgramError for undefined tensors, cycles without an order, bad or duplicate names, and
    outputs that overwrite an input while it is still read.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    groups: tuple[Group, ...]
    inplace: Mapping[str, str]
    dims: Mapping[str, int]
    rounding: Rounding
    relations: tuple[Affine, ...]

    def __init__(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        name: str = "kernel",
        inplace: Mapping[str, str] | None = None,
        dims: Mapping[str, int] | None = None,
        rounding: Rounding = "free",
        relations: Sequence[Affine] = (),
    ) -> None:
        if not name.isidentifier():
            raise ProgramError(f"{name!r} is not a name", hint="use letters, digits and underscores")
        for role, given in (("inputs", inputs), ("outputs", outputs)):
            if not isinstance(given, (tuple, list)):
                raise ProgramError(
                    f"the {role} of a program are a list of tensors, got {given!r}", hint="td.Program([x], [y])"
                )
        arguments = tuple(inputs)
        constants = tuple(t for t in constants_of(outputs) if all(t is not i for i in arguments))
        with assuming(tuple(relations)):
            ins, outs, groups = _normalise((*arguments, *constants), tuple(outputs), dict(inplace or {}))
        fields = {
            "name": name,
            "inputs": ins,
            "outputs": outs,
            "groups": groups,
            "inplace": dict(inplace or {}),
            "dims": dict(dims or {}) or _dims(ins),
            "rounding": rounding,
            "relations": tuple(dict.fromkeys([*relations, *_pitches(ins)])),
        }
        for field, value in fields.items():
            object.__setattr__(self, field, value)
        _check_dims(self)

    @property
    def free(self) -> tuple[Dim, ...]:
        """The variables of the sizes that are known only at the call, in the order of the C interface."""
        return tuple(dims_of(self.dims.values()))

    def at(self, **sizes: int) -> Program:
        """The program for some sizes of its free dimensions.  Raises ProgramError for illegal ones."""
        from tensordsl import instances

        return instances.at(self, {n: extent(v) for n, v in sizes.items()})

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        """The inputs that come with each call: those whose values are not known."""
        return tuple(t for t in self.inputs if t.value is None)

    @property
    def constants(self) -> tuple[Tensor, ...]:
        """The inputs whose values are part of the program."""
        return tuple(t for t in self.inputs if t.value is not None)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The defined tensors, each after what it reads."""
        return tuple(t for g in self.groups for t in g.tensors)

    def __getitem__(self, name: str) -> Tensor:
        for t in self.inputs + self.tensors:
            if t.name == name:
                return t
        raise KeyError(name)

    def consumers(self, name: str) -> list[Tensor]:
        """The tensors whose definition reads `name`."""
        return [t for t in self.tensors if any(r.source.name == name for r in _definition(t).reads)]

    def with_definitions(self, new: Mapping[str, Definition], added: Sequence[Tensor] = ()) -> Program:
        """This program with some definitions replaced (their reads may name tensors of `added`)."""
        pool = {t.name: t for t in (*self.inputs, *self.tensors, *added)}  # what is added may take a name over
        fresh: dict[str, Tensor] = {t.name: t for t in self.inputs}

        def get(name: str) -> Tensor:
            if name not in fresh:
                t = pool[name]
                d = new.get(name, t.definition)
                fresh[name] = copy = replace(t, definition=None)
                if d is not None:
                    copy.definition = replace(d, body=accesses.map_sources(d.body, lambda source: get(source.name)))
            return fresh[name]

        return self._rebuilt([get(t.name) for t in self.outputs], self.rounding)

    def with_rounding(self, rounding: Rounding) -> Program:
        """The same definitions with other freedom of rounding."""
        return self._rebuilt(self.outputs, rounding)

    def with_values(self, values: Mapping[str, Any]) -> Program:
        """This program with some definitions replaced by what they amount to, as constants."""
        return self.with_definitions({}, [replace(self[n], definition=None, value=v) for n, v in values.items()])

    def _rebuilt(self, outputs: Sequence[Tensor], rounding: Rounding) -> Program:
        return Program(self.arguments, outputs, self.name, self.inplace, self.dims, rounding, self.relations)

    def _where(self) -> str:
        from tensordsl import instances

        found = instances.guard_texts(self) if self.free else []
        return f" for {', '.join(found)}" if found else ""

    def __str__(self) -> str:
        role = "" if self.rounding == "free" else f"  rounding {self.rounding}"
        lines = [f"program {self.name}({', '.join(map(str, self.arguments))}){self._where()}{role}"]
        lines += [f"  constant {t}" for t in self.constants]
        for t in self.tensors:
            role = "  (output)" if t in self.outputs else ""
            if t.name in self.inplace:
                role = f"  (output, in place of {self.inplace[t.name]})"
            lines.append("  " + definition_text(t) + role)
        return "\n".join(lines)


def _dims(inputs: Sequence[Tensor]) -> dict[str, int]:
    """The open dimensions of the inputs' shapes."""
    return {d.name: made(Affine(((d, d.by),), d.rest)) for d in dims_of(e for t in inputs for e in (*t.shape, t.pitch))}


def _pitches(inputs: Sequence[Tensor]) -> list[Affine]:
    """Rows that are apart do not overlap."""
    apart = [Affine.of(t.pitch) - t.shape[-1] for t in inputs if t.pitch != 0]
    return [a for a in apart if not a.is_constant]


def _check_dims(program: Program) -> None:
    free = program.free
    variables = {str(d) for d in free} | {d.name for d in free}
    for t in program.tensors:
        axes = _definition(t).axes + _definition(t).reduce_axes
        lost = next((e for e in t.shape if not isinstance(e, Size) and e > MOST), None)
        if lost is not None:
            raise ProgramError(
                f"{t.name} takes a size that is known only at the call for a number", location=t.location
            )
        clash = next((a.name for a in axes if a.name in variables), None)
        if clash is not None:
            raise ProgramError(
                f"axis {clash!r} of {t.name} has the name of a dimension", location=t.location, hint="rename the axis"
            )
        used = {n for e in expr.walk(_definition(t).body) if isinstance(e, Read) for i in e.index for n in i.names()}
        for d in dims_of([*t.shape, *(a.extent for a in axes)]) + [n for n in used if isinstance(n, Dim)]:
            if d not in free:
                raise ProgramError(
                    f"the size {d.name} of {t.name} is no size of an input", location=t.location,
                    hint="a dimension's size comes with the arrays: use it in the shape of an input",
                )  # fmt: skip
    if len({d.name for d in free}) < len(free):
        raise ProgramError("two dimensions have one name and other assumptions", hint="make each with td.dim once")


def definition_text(t: Tensor) -> str:
    d = _definition(t)
    axes = ", ".join(f"{a.name}:{a.extent}" for a in d.axes)
    body = str(d.body)
    if d.reducer:
        body = f"{d.reducer.name}({body}, over {', '.join(f'{a.name}:{a.extent}' for a in d.reduce_axes)})"
        body += ", fused" if d.fused else ""
    order = f"  in order of {', '.join(map(str, d.order))}" if d.order else ""
    return f"{t.dtype} {t.name}[{axes}] = {body}{order}"


def _definition(t: Tensor) -> Definition:
    assert t.definition is not None
    return t.definition


def _normalise(
    inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], inplace: Mapping[str, str]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Group, ...]]:
    _check_interface(inputs, outputs)
    copies: dict[int, Tensor] = {}
    names = _Names()
    arguments = [t for t in inputs if t.value is None]
    for t in (*arguments, *(x for x in inputs if x.value is not None), *_named_first(outputs)):
        if t.named and t.name in names.taken:
            raise ProgramError(f"two tensors of the program are named {t.name!r}", location=t.location)
        copies[id(t)] = replace(t, name=names.unique(t), definition=None, named=True)
    overwritten = hazards.overwritten(arguments, outputs, {i: c.name for i, c in copies.items()}, inplace)
    components = _components(inputs, outputs, {})
    waits = hazards.check([t for c in components for t in c], overwritten)
    if waits:
        components = _components(inputs, outputs, waits)
    order = [t for c in components for t in c]
    for t in [t for t in order if t.named] + [t for t in order if not t.named]:
        if id(t) not in copies:
            copies[id(t)] = replace(t, name=names.unique(t), definition=None, named=True)

    for t in order:
        d = _definition(t)
        copies[id(t)].definition = replace(d, body=accesses.map_sources(d.body, lambda source: copies[id(source)]))
    groups = tuple(_group([copies[id(t)] for t in c]) for c in components)
    return tuple(copies[id(t)] for t in inputs), tuple(copies[id(t)] for t in outputs), groups


def _named_first(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [*(t for t in tensors if t.named), *(t for t in tensors if not t.named)]


class _Names:
    """Gives every tensor a name of its own; the first keeps the one it has."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def unique(self, t: Tensor) -> str:
        name, n = t.name, 0
        if not name.isidentifier():
            raise ProgramError(
                f"{name!r} is not a name", location=t.location, hint="use letters, digits and underscores"
            )
        while name in self.taken:
            n += 1
            name = f"{t.name}{n}"
        self.taken.add(name)
        return name


def _check_interface(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
    if not outputs:
        raise ProgramError("a program needs an output")
    for role, tensors in (("input", inputs), ("output", outputs)):
        for n, t in enumerate(tensors):
            if not isinstance(t, Tensor):
                raise ProgramError(
                    f"{role} {n} of a program must be a tensor, got {type(t).__name__}",
                    hint="define it with td.compute" if isinstance(t, Expr) else None,
                )
            if any(t is other for other in tensors[:n]):
                raise ProgramError(f"{role} {t.name} is listed twice", location=t.location)
    for t in inputs:
        if t.definition is not None:
            raise ProgramError(f"input {t.name} is defined by an expression", hint="inputs are placeholders")
    for t in outputs:
        if any(t is i for i in inputs):
            raise ProgramError(f"output {t.name} is an input", hint="define a copy of it")


def _group(tensors: list[Tensor]) -> Group:
    """A component of the graph of reads: one definition, or several with a causal order."""
    first = _definition(tensors[0])
    if len(tensors) == 1 and all(r.source is not tensors[0] for r in first.reads):
        return Group((tensors[0],), first.order[0] if first.order else None)
    for t in tensors:
        if not _definition(t).order:
            names = " -> ".join(m.name for m in (*tensors, tensors[0]))
            raise ProgramError(
                f"the definitions of {names} need each other",
                location=t.location,
                hint="a recurrence names its causal axis: td.recurrence(..., order=...)",
            )
    return causality.arrange(tensors)


def _components(
    inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], waits: Mapping[int, Sequence[Tensor]]
) -> list[list[Tensor]]:
    """Definitions that need each other, each component after what it reads.

    waits: further tensors that must come before the one of an id.
    """
    given = {id(t) for t in inputs}

    def before(t: Tensor) -> list[Tensor]:
        needed: list[Tensor] = [r.source for r in _definition(t).reads if id(r.source) not in given]  # type: ignore[misc]
        for source in needed:
            _require_defined(source, t.name)
        return [*needed, *waits.get(id(t), ())]

    for t in outputs:
        _require_defined(t, "the program")
    return causality.components(outputs, before)


def _require_defined(t: Tensor, reader: str) -> None:
    if t.definition is None:
        raise ProgramError(
            f"{reader} reads {t.name}, which is neither defined nor an input",
            hint="add it to inputs=[...]",
        )
