"""The naming law of a library: ``LIB_OP_DTYPE``, and which names C and C++ leave free."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from tensordsl.codegen.runtime import Parameter

from tensordsl.dtypes import DType
from tensordsl.errors import BuildError

#: The header serves C and C++, so the keywords of both are taken.
KEYWORDS = frozenset(
    """auto break case char const continue default do double else enum extern float for goto if inline int long
    register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while
    asm typeof alignas alignof bool true false nullptr constexpr static_assert thread_local
    and and_eq bitand bitor catch class compl concept const_cast consteval constinit co_await co_return co_yield
    decltype delete dynamic_cast explicit export friend mutable namespace new noexcept not not_eq operator or or_eq
    private protected public reinterpret_cast requires static_cast template this throw try typeid typename using
    virtual wchar_t xor xor_eq char8_t char16_t char32_t""".split()  # noqa: SIM905
)
#: Macros of standard headers and compilers: a parameter of that name gets a trailing underscore.
MACROS = frozenset({"I", "complex", "linux", "unix", "i386", "NULL", "EOF", "errno", "stdin", "stdout", "assert"})
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

#: numpy's name -> the type in the header
C_TYPES: Mapping[str, str] = {
    "bool": "uint8_t", "int8": "int8_t", "int16": "int16_t", "int32": "int32_t", "int64": "int64_t",
    "uint8": "uint8_t", "uint16": "uint16_t", "uint32": "uint32_t", "uint64": "uint64_t",
    "float32": "float", "float64": "double", "complex64": "float", "complex128": "double",  # real, imaginary, real, ...
    "float16": "uint16_t", "bfloat16": "uint16_t", "float8_e4m3fn": "uint8_t", "float8_e5m2": "uint8_t",  # the bits
    "int4": "uint8_t", "uint4": "uint8_t",  # two a byte
}  # fmt: skip


def check(name: str, what: str) -> str:
    """A name that C, C++ and a linker accept.  Raises BuildError otherwise."""
    if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):
        raise BuildError(
            f"{what} {name!r} is not a name in C",
            hint="use letters, digits and underscores, starting with a letter",
        )
    if name in KEYWORDS:
        raise BuildError(f"{what} {name!r} is a keyword of C or C++", hint=f"rename it, for example {name}_")
    return name


def parameter_name(name: str) -> str:
    return f"{name}_" if name in MACROS else name


def dtype_suffix(parameters: Iterable[Parameter]) -> str:
    """The dtypes of an operator: one where all tensors agree, else each once in calling order."""
    return "_".join(dict.fromkeys(p.dtype.name for p in parameters))


def function_name(library: str, operator: str, parameters: Iterable[Parameter]) -> str:
    return f"{library}_{operator}_{dtype_suffix(parameters)}"


def c_type(t: DType) -> str:
    return C_TYPES[t.name]


def declaration(p: Parameter) -> str:
    """A tensor as a parameter of C: inputs const, inputs of rank 0 by value."""
    if p.role == "scalar":
        return f"{c_type(p.dtype)} {parameter_name(p.name)}"
    const = "const " if p.role == "input" else ""
    return f"{const}{c_type(p.dtype)} *{parameter_name(p.name)}"


def check_parameters(operator: str, parameters: Iterable[Parameter], dims: Iterable[str]) -> None:
    """All parameters of one function: legal names, and no two alike."""
    taken = {"call": "the call struct, the first parameter of every function"}
    named = [("tensor", p.name) for p in parameters] + [("dimension", d) for d in dims]
    for kind, name in named:
        what = f"{operator}: the {kind}"
        key = parameter_name(check(name, what))
        if key in taken:
            raise BuildError(f"{what} {name!r} has the name of {taken[key]}", hint="rename one of them")
        taken[key] = f"the {kind} {name!r}"
