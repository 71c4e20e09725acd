"""What an operator's signature assumes of its sizes: ``N >= 1``, ``K % 8 == 0``, ``N <= M + 1``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from tensordsl import dimensions
from tensordsl.affine import Affine
from tensordsl.dimensions import DIMENSIONS
from tensordsl.errors import ProgramError
from tensordsl.sizes import dim, is_linear

_COMPARISON = re.compile(r"(.*?)(>=|<=|==|>|<)(.*)")
_OWN = re.compile(r"\s*([A-Za-z_]\w*)\s*((?:>=|<=|==|>|<)\s*\d+|%\s*\d+\s*==\s*\d+)\s*")


def check_assumptions(dims: Sequence[str], texts: Iterable[str]) -> None:
    """Raises ProgramError for what is no assumption about these dimensions."""
    for text in texts:
        found = _COMPARISON.fullmatch(text.strip())
        if found is None:
            raise ProgramError(
                f"{text.strip()!r} is not an assumption", legal='such as "N >= 1", "K % 8 == 0", "N <= M + 1"'
            )
        for side in (found[1], found[3]):
            for name in dimensions.names(dimensions.parse(side)):
                if name not in dims:
                    raise ProgramError(f"the assumption {text.strip()!r} is about {name}, which is no dimension",
                                       legal=sorted(set(dims)))  # fmt: skip


def names_in(text: str) -> set[str]:
    """The dimensions that an assumption is about."""
    found = _COMPARISON.fullmatch(text.strip())
    assert found is not None
    return {n for side in (found[1], found[3]) for n in dimensions.names(dimensions.parse(side))}


def assumed(texts: Iterable[str], dims: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """The dimensions, each with what is assumed of it alone, and the assumptions about several."""
    own: dict[str, list[str]] = {n: [] for n in dims}
    relations = []
    for text in texts:
        found = _OWN.fullmatch(text)
        if found is not None and found[1] in own:
            own[found[1]].append(found[2])
        else:
            relations.append(text)
    return {n: dim(n, *own[n]) for n in dims}, relations


def relation(text: str, bound: Mapping[str, int]) -> Affine:
    """An assumption as an expression that is ``>= 0``."""
    found = _COMPARISON.fullmatch(text.strip())
    assert found is not None
    left, right = (Affine.of(_value(side, bound)) for side in (found[1], found[3]))
    if not is_linear(left - right):
        raise ProgramError(f"the assumption {text.strip()!r} is not linear in the dimensions")
    match found[2]:
        case ">=":
            return left - right
        case ">":
            return left - right - 1
        case "<=":
            return right - left
        case "<":
            return right - left - 1
    raise ProgramError(f"the assumption {text.strip()!r} relates several dimensions by ==", hint="give them one name")


def require(operator: str, texts: Iterable[str], bound: Mapping[str, int]) -> None:
    """Raises ProgramError where numbers do not fulfil an assumption."""
    for text in texts:
        found = _COMPARISON.fullmatch(text.strip())
        assert found is not None
        left, right = (_value(side, bound) for side in (found[1], found[3]))
        holds = {
            ">=": left >= right, ">": left > right, "<=": left <= right, "<": left < right, "==": left == right
        }[found[2]]  # fmt: skip
        if not holds:
            at = ", ".join(f"{n} = {v}" for n, v in bound.items())
            raise ProgramError(f"{operator} assumes {text.strip()}, but {at}")


def _value(side: str, bound: Mapping[str, int]) -> int:
    """The value of one side, which may be negative."""
    token = DIMENSIONS.set(bound)
    try:
        return dimensions.bound(side)
    finally:
        DIMENSIONS.reset(token)
