"""Element types, by numpy's names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Union

from tensordsl.errors import ProgramError, closest


@dataclass(frozen=True, slots=True)
class DType:
    """name: numpy's name; kind: f(loat), i(nt), u(int) or b(ool); bits: width in memory."""

    name: str
    kind: str
    bits: int
    c_name: str

    @property
    def bytes(self) -> int:
        return self.bits // 8

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def unit_roundoff(self) -> float:
        """Half the distance from 1 to the next number (0 for integers): the u of error analysis."""
        return {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11}.get(self.name, 0.0)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class TupleType(DType):
    """The state of a reduction with several components, each in memory of its own.

    bits: those of the widest component, which decide how many states a vector holds.
    """

    parts: tuple[DType, ...] = ()


def tuple_type(parts: tuple[DType, ...]) -> TupleType:
    """The type of a tuple of values."""
    return TupleType(f"({', '.join(p.name for p in parts)})", "t", max(p.bits for p in parts), "", parts)


bool_ = DType("bool", "b", 8, "unsigned char")
int8 = DType("int8", "i", 8, "signed char")
int16 = DType("int16", "i", 16, "short")
int32 = DType("int32", "i", 32, "int")
int64 = DType("int64", "i", 64, "long long")
uint8 = DType("uint8", "u", 8, "unsigned char")
uint16 = DType("uint16", "u", 16, "unsigned short")
uint32 = DType("uint32", "u", 32, "unsigned int")
uint64 = DType("uint64", "u", 64, "unsigned long long")
float32 = DType("float32", "f", 32, "float")
float64 = DType("float64", "f", 64, "double")

ALL = {t.name: t for t in (bool_, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float32, float64)}
DTypeLike = Union[DType, str, type, Any]
_PYTHON = {float: float32, int: int64, bool: bool_}


def dtype(value: DTypeLike) -> DType:
    """A DType from a name, a numpy dtype or a Python scalar type."""
    if isinstance(value, DType):
        return value
    if value in _PYTHON:
        return _PYTHON[value]
    name = getattr(value, "name", None) or getattr(value, "__name__", None) or str(value)
    if name not in ALL:
        like = closest(name, ALL)
        raise ProgramError(
            f"unknown dtype {name!r}",
            legal=sorted(ALL),
            hint=f"did you mean {like!r}?" if like else None,
        )
    return ALL[name]


def promote(a: DType, b: DType) -> DType:
    """The type of an arithmetic result: the array API standard's table, floats over integers."""
    if a == b:
        return a
    ranks = {"b": 0, "u": 1, "i": 2, "f": 3}
    if ranks[a.kind] > ranks[b.kind]:
        a, b = b, a
    if b.kind == "f" or a.kind == "b":
        return b if a.kind != "f" or b.bits >= a.bits else a
    if a.kind == b.kind:
        return a if a.bits > b.bits else b
    if b.bits > a.bits:  # unsigned with a wider signed type
        return b
    if a.bits == 64:
        raise ProgramError(f"no type holds both {a} and {b}", hint="cast one of them explicitly")
    return ALL[f"int{a.bits * 2}"]
