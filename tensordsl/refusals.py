"""What Python and numpy would do with values, refused with the way to say it.

While an operator is being defined there are no values yet: nothing can be converted to a number, used
as a count, assigned to, or handed to a function of arrays.  Names of numpy that the language does not
have say what to write instead.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from tensordsl.errors import ProgramError, closest

_SIZE = "the size of a result must follow from the sizes of the inputs, not from their values"
_SORT = "where an element comes from must follow from its index, not from values"
_GIVE = "give the values with each call: td.placeholder"
#: Names people look for -> why they are not here, and what to use.
ABSENT: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("nonzero", "argwhere", "flatnonzero"), (_SIZE, "mark them: td.not_equal(x, 0)")),
    **dict.fromkeys(("unique", "compress", "extract"), (_SIZE, "compute a mask or a count of fixed shape instead")),
    **dict.fromkeys(
        ("sort", "argsort", "topk", "top_k", "partition", "argpartition", "searchsorted", "median", "percentile"),
        (_SORT, "the largest and the smallest value are td.max and td.min; sort outside the kernel"),
    ),
    **dict.fromkeys(
        ("while_loop", "fori_loop", "scan", "map_fn"),
        ("loops are axes with a fixed size", "td.recurrence with a fixed number of steps"),
    ),
    "cond": ("both sides of a choice are part of the definition", "td.select(condition, a, b)"),
    **dict.fromkeys(("array", "asarray", "tensor"), ("a program holds no arrays", _GIVE)),
    **dict.fromkeys(
        ("zeros", "ones", "full", "empty", "eye", "arange", "linspace"),
        ("a tensor is defined by its formula", "td.compute(shape, lambda i: ...), such as lambda i: 0.0"),
    ),
    "random": ("a kernel has no state: equal inputs give equal results", _GIVE),
    "rand": ("a kernel has no state: equal inputs give equal results", _GIVE),
    "range": ("loops are axes", "td.reduce_axis(size) with td.sum, or one more dimension"),
    "dot": ("", "a @ b, td.matmul or td.einsum"),
    "log10": ("", "td.log(x) / 2.302585092994046"),
    "log1p": ("", "td.log(1.0 + x)"),
    "expm1": ("", "td.exp(x) - 1.0"),
    "tan": ("", "td.sin(x) / td.cos(x)"),
    "negative": ("", "-x"),
    "add": ("", "a + b"),
    "subtract": ("", "a - b"),
    "multiply": ("", "a * b"),
    "divide": ("", "a / b"),
    "logical_and": ("", "a & b"),
    "logical_or": ("", "a | b"),
    "logical_not": ("", "~a"),
    "squeeze": ("", "x.reshape(...), or x[:, 0]"),
    "expand_dims": ("", "x[:, None]"),
    "flatten": ("", "x.reshape(size)"),
    "ravel": ("", "x.reshape(size)"),
    "view": ("", "x.reshape(...), or x.astype(...) for another type"),
    **dict.fromkeys(
        ("numpy", "item", "tolist"),
        ("a tensor has no values while an operator is being defined", "td.interpret(program, inputs)"),
    ),
    "size": ("", "x.shape, a tuple of integers"),
    "at": ("a tensor is defined once", "td.select(condition, new, x[i]) inside td.compute"),
    "copy": ("a tensor is immutable", "x itself"),
}  # fmt: skip


class NotInLanguage(ProgramError, AttributeError):
    """A name the language does not have; an AttributeError too, so that hasattr says no."""


def absent(name: str, owner: str, known: Iterable[str]) -> AttributeError:
    """The error for a name that a module or a tensor does not have."""
    if name.startswith("__"):
        return AttributeError(f"{owner} has no attribute {name!r}")
    why, use = ABSENT.get(name, ("", ""))
    if name in _public():
        why, use = "", f"it is a function: td.{name}(x)"
    elif not use:
        like = closest(name, known)
        use = f"did you mean {like!r}?" if like else ""
    return NotInLanguage(f"{owner} has no attribute {name!r}" + (f": {why}" if why else ""), hint=use or None)


def call_of_numpy(function: str) -> ProgramError:
    """The error for a function of numpy on what has no values."""
    names = {"absolute": "abs", "power": "pow", "amax": "max", "amin": "min", "fabs": "abs"}
    name = names.get(function, function)
    why, use = ABSENT.get(name, ("", "functions of td and the operators of Python"))
    if name in _public():
        why, use = "", f"td.{name}"
    said = f"np.{function} takes arrays, which have values; tensors and expressions have none yet"
    return ProgramError(said + (f" ({why})" if why else ""), hint=f"use {use}" if not why else use)


def _none(what: str, hint: str) -> Callable[..., NoReturn]:
    def refuse(self: Any, *_: Any, **__: Any) -> NoReturn:
        raise ProgramError(f"{_kind(self)} {what}", hint=hint)

    return refuse


def _kind(value: Any) -> str:
    return f"tensor {value.name}" if isinstance(value, NoArray) else f"the expression {value}"


_VALUE = "has no value while an operator is being defined"


class NoValue:
    """Python's conversions, and operators that the language has not, as errors that say what to write."""

    __slots__ = ()

    __float__ = _none(_VALUE, "td.cast(x, 'float32') converts; functions of td (td.exp) replace those of math")
    __complex__ = __float__
    __int__ = _none(_VALUE, "td.cast(x, 'int32') converts")
    __round__ = _none(_VALUE, "td.floor(x + 0.5) rounds")
    __trunc__ = _none(_VALUE, "td.cast(x, 'int32') rounds towards zero")
    __floor__ = _none(_VALUE, "use td.floor")
    __ceil__ = _none(_VALUE, "use td.ceil")
    __setitem__ = _none(
        "cannot be assigned to: it is defined once, by a formula for each element",
        "td.compute(shape, lambda i: td.select(i < n, new, x[i]))",
    )
    __delitem__ = __setitem__
    __lshift__ = _none("has no <<", "multiply by a power of two: x * 8")
    __rlshift__ = __lshift__
    __rshift__ = _none("has no >>", "divide by a power of two: x // 8")
    __rrshift__ = __rshift__
    __xor__ = _none("has no ^", "conditions that differ: td.not_equal(a, b); a power: a ** b")
    __rxor__ = __xor__
    __divmod__ = _none("has no divmod", "x // n and x % n")
    __rdivmod__ = __divmod__

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise ProgramError(
            f"{_kind(self)} is no array: it {_VALUE}",
            hint="td.interpret(program, inputs) computes values, td.compile(program) makes a function of arrays",
        )

    def __array_function__(self, function: Callable[..., Any], *_: Any) -> NoReturn:
        raise call_of_numpy(function.__name__)


class NoInteger(NoValue):
    """A scalar expression: no count and no index of a list either."""

    __slots__ = ()

    __index__ = _none(
        "is no integer while an operator is being defined",
        "loops and sums over an index are axes: td.sum(x[k], axis=k) with k = td.reduce_axis(size)",
    )
    __matmul__ = _none("has no @, which multiplies tensors", "numbers are multiplied by *")
    __rmatmul__ = __matmul__


#: numpy's names of Python's operators.
_OPERATORS = {
    "add": "add", "subtract": "sub", "multiply": "mul", "divide": "truediv", "true_divide": "truediv",
    "floor_divide": "floordiv", "remainder": "mod", "power": "pow", "less": "lt", "less_equal": "le",
    "greater": "gt", "greater_equal": "ge", "bitwise_and": "and", "bitwise_or": "or", "equal": "eq", "not_equal": "ne",
}  # fmt: skip
_MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne"}


def ufunc(self: Any, function: Any, method: str, *inputs: Any, **options: Any) -> Any:
    """What numpy calls for its functions of an element: operators with a numpy scalar are those of Python."""
    operator = _OPERATORS.get(function.__name__)
    if operator is not None and method == "__call__" and len(inputs) == 2 and not options:
        left, right = inputs
        if left is self:
            return getattr(self, f"__{operator}__")(right)
        mirrored = f"__{_MIRRORED.get(operator, f'r{operator}')}__"
        if hasattr(self, mirrored):
            return getattr(self, mirrored)(left)
    raise call_of_numpy(function.__name__)


class NoArray(NoValue):
    """A tensor: an object like any other to Python, with names and operators that point elsewhere."""

    __slots__ = ()
    __array_ufunc__ = ufunc  # numpy arrays give way to the operators of tensors

    def __eq__(self, other: object) -> bool:
        """Is it the same tensor?  `equal` compares elements."""
        if isinstance(other, (NoInteger, float, int)) or hasattr(other, "__array_interface__"):
            raise ProgramError(
                f"== and != of {_kind(self)} and a {type(other).__name__} do not compare elements",
                hint="td.equal(x, y), td.not_equal(x, y)",
            )
        return self is other

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<tensor {self}>"

    def __getattr__(self, name: str) -> NoReturn:
        raise absent(name, "a tensor" if name == "name" else _kind(self), dir(type(self)))


def no_scalar(value: object) -> ProgramError:
    """The error for an operand that is no number and no expression."""
    kind = type(value).__name__
    hint = None
    if value is None:
        return ProgramError("None is not a scalar expression", hint="does the function return its result?")
    if isinstance(value, (list, tuple)):
        hint = "an element is one number: further ones are a further dimension of the tensor"
    elif kind == "ndarray":
        hint = "pass it as an input: td.placeholder"
    elif isinstance(value, types.FunctionType):
        hint = "call it"
    shown = repr(value)
    return ProgramError(f"{shown if len(shown) < 40 else 'a value'} ({kind}) is not a scalar expression", hint=hint)


def _public() -> list[str]:
    import tensordsl

    return dir(tensordsl)
