"""Outputs that live in the memory of an input: what may still be read while they overwrite it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tensordsl.affine import Affine
from tensordsl.bounds import guarded_reads, ranges_of, satisfiable
from tensordsl.errors import ProgramError, closest
from tensordsl.expr import Read
from tensordsl.tensor import Tensor


def overwritten(
    inputs: Sequence[Tensor], outputs: Sequence[Tensor], names: Mapping[int, str], inplace: Mapping[str, str]
) -> list[tuple[Tensor, Tensor]]:
    """Pairs of an output and the input it replaces.  names: of the tensors by id.

    Raises ProgramError for unknown names, different shapes or dtypes, and inputs replaced twice.
    """
    pairs: list[tuple[Tensor, Tensor]] = []
    for output_name, input_name in inplace.items():
        output = _named(output_name, outputs, names, "output")
        source = _named(input_name, inputs, names, "input")
        if output.shape != source.shape or output.dtype != source.dtype:
            raise ProgramError(
                f"output {output} cannot take the memory of input {source}", hint="shape and dtype must agree"
            )
        if any(source is other for _, other in pairs):
            raise ProgramError(f"two outputs take the memory of input {input_name}")
        pairs.append((output, source))
    return pairs


def _named(name: str, tensors: Sequence[Tensor], names: Mapping[int, str], role: str) -> Tensor:
    for t in tensors:
        if names[id(t)] == name:
            return t
    known = [names[id(t)] for t in tensors]
    like = closest(name, known)
    raise ProgramError(f"inplace: no {role} is named {name!r}", legal=known, hint=like and f"did you mean {like!r}?")


def check(tensors: Sequence[Tensor], pairs: Sequence[tuple[Tensor, Tensor]]) -> dict[int, list[Tensor]]:
    """Which definitions must come before an in-place output (by its id): the other readers of the input.

    tensors: all definitions.  Raises ProgramError where the output itself reads another element
    than the one it overwrites, or where a later definition still reads the input.
    """
    waits: dict[int, list[Tensor]] = {}
    for output, source in pairs:
        _check_output(output, source)
        readers = [t for t in tensors if t is not output and any(r.source is source for r in _reads(t))]
        for t in readers:
            if _reaches(t, output):
                raise ProgramError(
                    f"{t.name} reads {source.name} after {output.name} has overwritten it",
                    location=next(r.location for r in _reads(t) if r.source is source),
                    hint=f"drop inplace={{{output.name!r}: {source.name!r}}}, or read {output.name}",
                )
        waits[id(output)] = readers
    return waits


def _check_output(output: Tensor, source: Tensor) -> None:
    """The output may read of the input only the element it overwrites, and not while it accumulates."""
    d = output.definition
    if d is None or any(a.extent == 0 for a in d.axes + d.reduce_axes):
        return
    for read, given in guarded_reads(d.body):
        if read.source is not source:
            continue
        found = None
        for index, axis in zip(read.index, d.axes):
            apart = index - Affine.of(axis.name)
            for fault in (apart - 1, -apart - 1):
                answer = satisfiable((fault, *given), ranges_of(output))
                if answer.possible is not False and found is None:
                    found = answer
        if found is None and d.reducer is None:
            continue
        element = f"{output.name}[{', '.join(a.name for a in d.axes)}]"
        if found is None:
            why = f"{element} is accumulated where {read} is still needed"
        else:
            why = f"{element} reads {read}, another element than the one it overwrites"
        raise ProgramError(
            why,
            location=read.location,
            counterexample=None if found is None or found.point is None else str(found),
            hint=f"drop inplace={{{output.name!r}: {source.name!r}}}",
        )


def _reads(t: Tensor) -> list[Read]:
    return [] if t.definition is None else t.definition.reads


def _reaches(t: Tensor, target: Tensor) -> bool:
    """Does a definition depend on another one?"""
    seen: set[int] = set()
    todo = [t]
    while todo:
        x = todo.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        for r in _reads(x):
            if r.source is target:
                return True
            todo.append(r.source)  # type: ignore[arg-type]
    return False
