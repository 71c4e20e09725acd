"""Kernels -> the functions of a library: one function for an operator and its dtypes, which takes
the kernel of the first sizes that match.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tensordsl.codegen.library import guards
from tensordsl.codegen.library.names import check, check_parameters, declaration, function_name
from tensordsl.codegen.runtime import Parameter, parameters
from tensordsl.codegen.source import Source
from tensordsl.schedules.loopnest import LoopNest
from tensordsl.schedules.trace import Trace

from tensordsl.errors import BuildError
from tensordsl.program import Program


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """A kernel for fixed sizes, or for all that its program assumes.

    record: where the schedule comes from (a tuning record, "" for none); measured_us: its measured time
    in microseconds, if any.  definition: the program as its author wrote it, where known (a schedule may
    have rewritten it).
    """

    nest: LoopNest
    source: Source
    trace: Trace | None = None
    record: str = ""
    measured_us: float | None = None
    definition: Program | None = None

    @property
    def written(self) -> Program:
        """The program to show to people."""
        return self.definition or self.program

    @property
    def program(self) -> Program:
        return self.nest.program

    @property
    def dims(self) -> Mapping[str, int]:
        return self.program.dims

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return parameters(self.nest)


@dataclass(frozen=True, slots=True, eq=False)
class Operator:
    """One exported function.  name: ``LIB_OP_DTYPE``; dims: its sizes in order; variants: in the
    order their guards are tried: those with the most fixed sizes first.
    """

    name: str
    operator: str
    parameters: tuple[Parameter, ...]
    dims: tuple[str, ...]
    variants: tuple[Variant, ...]

    @property
    def sizes_macro(self) -> str:
        return f"{self.name.upper()}_SIZES"

    def symbol(self, variant: Variant) -> str:
        """The hidden function of a variant."""
        return "__".join([self.name, guards.label(variant.program) or "kernel"])


def operators(library: str, variants: Iterable[Variant]) -> tuple[Operator, ...]:
    """Group kernels into functions.  Raises BuildError for names C cannot have, and for kernels of
    one name that no single function can serve.
    """
    check(library, "the library name")
    groups: dict[str, list[Variant]] = {}
    for v in variants:
        check(v.program.name, "the operator name")
        groups.setdefault(function_name(library, v.program.name, v.parameters), []).append(v)
    if not groups:
        raise BuildError(f"the library {library!r} has no operators", hint="give at least one Program or Schedule")
    found = tuple(_operator(name, group) for name, group in groups.items())
    _check_unique(library, found)
    targets = {v.source.target.id for o in found for v in o.variants}
    if len(targets) > 1:
        raise BuildError(f"the library {library!r} mixes the targets {', '.join(sorted(targets))}",
                         hint="build one library for each target")  # fmt: skip
    return found


def _operator(name: str, group: Sequence[Variant]) -> Operator:
    first = group[0]
    operator, dims = first.program.name, tuple(first.dims)
    check_parameters(operator, first.parameters, dims)
    seen: dict[tuple[str, ...], Variant] = {}
    for v in group:
        if tuple(v.dims) != dims:
            raise BuildError(
                f"two programs named {operator!r} have different dimensions: ({', '.join(dims)}) "
                f"and ({', '.join(v.dims)})",
                hint="give one of them another name",
            )
        if _signature(v) != _signature(first):
            raise BuildError(
                f"two programs named {operator!r} take different arguments: {_arguments(first)} and {_arguments(v)}",
                hint="give one of them another name",
            )
        sizes = guards.key(v.program)
        if sizes in seen:
            at = guards.sizes_text(v.program) or "no dimensions (it was not bound by name)"
            raise BuildError(
                f"two programs are named {operator!r} and have the same sizes: {at}",
                hint="keep one, or give one of them another name",
            )
        seen[sizes] = v
    special_first = sorted(group, key=lambda v: len(v.program.free))
    return Operator(name, operator, first.parameters, dims, tuple(special_first))


def _signature(v: Variant) -> tuple[tuple[str, str], ...]:
    """What a caller of the function must know: names, and C types with const and pointers."""
    return tuple((declaration(p), p.output) for p in v.parameters)


def _arguments(v: Variant) -> str:
    return f"({', '.join(map(declaration, v.parameters))})"


def _check_unique(library: str, found: Sequence[Operator]) -> None:
    """No two names of the header are alike."""
    taken = {f"{library}_{part}": f"the library's own {part}" for part in ("call", "version", "supported")}
    for o in found:
        for name in (o.name, f"{o.name}_workspace", o.sizes_macro, *(o.symbol(v) for v in o.variants)):
            if name in taken:
                raise BuildError(f"{name} would name both {taken[name]} and a function of {o.operator!r}",
                                 hint="rename the operator")  # fmt: skip
            taken[name] = f"a function of {o.operator!r}"
