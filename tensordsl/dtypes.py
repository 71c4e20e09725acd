"""Element types, by numpy's names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

from tensordsl.errors import ProgramError, closest

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class DType:
    """name: numpy's name; kind: f(loat), c(omplex), i(nt), u(int) or b(ool); bits: width in memory.

    c_name: the C type of an element, of its real part for complex numbers.
    digits: binary digits of a float's significand, the leading one included.
    """

    name: str
    kind: str
    bits: int
    c_name: str
    digits: int = 0

    @property
    def bytes(self) -> int:
        return -(-self.bits // 8)

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_complex(self) -> bool:
        return self.kind == "c"

    @property
    def is_inexact(self) -> bool:
        """Does arithmetic round?"""
        return self.kind in "fc"

    @property
    def real(self) -> DType:
        """The type of the parts of a complex number, and of its absolute value."""
        return self if self.kind != "c" else float32 if self.bits == 64 else float64

    @property
    def unit_roundoff(self) -> float:
        """Half the distance from 1 to the next number (0 for integers): the u of error analysis."""
        return 2.0**-self.digits if self.digits else 0.0

    @property
    def computed(self) -> DType:
        """The type in which a kernel holds such values: float32 for narrower floats, 8 bits for 4-bit integers."""
        if self.bits < 8:
            return int8 if self.kind == "i" else uint8
        return float32 if self.is_float and self.bits < 32 else self

    @property
    def arithmetic(self) -> DType:
        """The type that operations take such values in, for types that only store numbers: float32 or int32."""
        if self.bits < 8:
            return int32
        return float32 if self.is_float and self.bits == 8 else self

    @property
    def numpy(self) -> np.dtype[Any]:
        """numpy's type of the same name (of ml_dtypes where numpy has none)."""
        import ml_dtypes  # noqa: F401  # its types get names in numpy
        import numpy as np

        return np.dtype(self.name)

    @property
    def limits(self) -> Any:
        """A float's ``max``, ``tiny`` (least normal number), ``smallest_subnormal``, as `numpy.finfo` has them."""
        import ml_dtypes

        return ml_dtypes.finfo(self.real.numpy)  # type: ignore[no-untyped-call]

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
    return TupleType(f"({', '.join(p.name for p in parts)})", "t", max(p.bits for p in parts), "", parts=parts)


bool_ = DType("bool", "b", 8, "unsigned char")
int8 = DType("int8", "i", 8, "signed char")
int16 = DType("int16", "i", 16, "short")
int32 = DType("int32", "i", 32, "int")
int64 = DType("int64", "i", 64, "long long")
int4 = DType("int4", "i", 4, "unsigned char")
uint4 = DType("uint4", "u", 4, "unsigned char")
uint8 = DType("uint8", "u", 8, "unsigned char")
uint16 = DType("uint16", "u", 16, "unsigned short")
uint32 = DType("uint32", "u", 32, "unsigned int")
uint64 = DType("uint64", "u", 64, "unsigned long long")
float8_e4m3fn = DType("float8_e4m3fn", "f", 8, "unsigned char", 4)
float8_e5m2 = DType("float8_e5m2", "f", 8, "unsigned char", 3)
float16 = DType("float16", "f", 16, "unsigned short", 11)
bfloat16 = DType("bfloat16", "f", 16, "unsigned short", 8)
float32 = DType("float32", "f", 32, "float", 24)
float64 = DType("float64", "f", 64, "double", 53)
complex64 = DType("complex64", "c", 64, "float", 24)
complex128 = DType("complex128", "c", 128, "double", 53)

_INTEGERS = (int8, int16, int32, int64, uint8, uint16, uint32, uint64)
_FLOATS = (float8_e4m3fn, float8_e5m2, float16, bfloat16, float32, float64)
ALL = {t.name: t for t in (bool_, int4, uint4, *_INTEGERS, *_FLOATS, complex64, complex128)}
DTypeLike = Union[DType, str, type, Any]
_PYTHON = {float: float32, complex: complex64, int: int64, bool: bool_}


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
    """The type of an arithmetic result: the array API standard's table, floats over integers.

    float16 and bfloat16 meet in float32, which holds both.  Types that only store numbers count as float32 or int32.
    A complex type meets a real one in the complex type of the wider parts.
    """
    if a == b and a.bits >= 8:
        return a
    a, b = a.arithmetic, b.arithmetic
    if {a, b} == {float16, bfloat16}:
        return float32
    if a.is_complex or b.is_complex:
        return complex128 if float64 in (a.real, b.real) else complex64
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
