"""Operators: functions of tensors with named dimensions, bound to sizes to become Programs."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType, ModuleType
from typing import Any

from tensordsl import dimensions, dtypes
from tensordsl.affine import Affine
from tensordsl.assumptions import assumed, check_assumptions, names_in, relation, require
from tensordsl.dimensions import DIMENSIONS, extent
from tensordsl.dtypes import DType
from tensordsl.errors import (
    Location,
    ProgramError,
    TensorDSLError,
    closest,
    traceback_location,
    user_location,
)
from tensordsl.expr import Expr
from tensordsl.program import Program
from tensordsl.sizes import Size, assuming
from tensordsl.tensor import Tensor, placeholder

_FORM = 'as in "x: float32[M, K], alpha: float32"'


@dataclass(frozen=True, slots=True)
class Parameter:
    """An input of an operator: shape holds sizes as written, such as "M" or "H + 2"; pitch, the elements
    between its rows, behind the last one as in "K:ld" ("": rows follow each other).

    values: the ends of the range of its elements as written, one (from 0) or two; () where none is stated.
    """

    name: str
    dtype: DType
    shape: tuple[str, ...]
    values: tuple[str, ...] = ()
    pitch: str = ""

    @property
    def sizes(self) -> tuple[str, ...]:
        return (*self.shape, self.pitch) if self.pitch else self.shape

    def tensor(self) -> Tensor:
        """The input with the sizes of the operator being bound."""
        ends = [dimensions.bound(v) for v in self.values]
        if any(isinstance(n, Size) for n in ends):
            raise ProgramError(f"the range of {self.name} has an end that is known only at the call",
                               hint=f"bind {', '.join(self.values)} to numbers: op.symbolic(...)")  # fmt: skip
        values = range(*ends) if ends else None
        return placeholder(self.shape, self.dtype, self.name, values=values, pitch=self.pitch or None)

    def __str__(self) -> str:
        pitch = f":{self.pitch}" if self.pitch else ""
        text = f"{self.name}: {self.dtype}" + (f"[{', '.join(self.shape)}{pitch}]" if self.shape else "")
        return text + (f" in range({', '.join(self.values)})" if self.values else "")


@dataclass(frozen=True, slots=True, eq=False)
class Operator:
    """A function of tensors and the types of its parameters.  `bind` gives the Program for some sizes;
    a call inside another operator uses it as a function.
    """

    function: Callable[..., Any]
    parameters: tuple[Parameter, ...]
    inplace: Mapping[str, str]
    location: Location | None
    assumptions: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def dims(self) -> tuple[str, ...]:
        """The dimensions in order of first appearance: the order of the C interface."""
        sizes = [s for p in self.parameters for s in (*p.sizes, *p.values)]
        found = [n for s in sizes for n in dimensions.names(dimensions.parse(s))]
        return tuple(dict.fromkeys(found))

    def bind(self, **sizes: int) -> Program:
        """The Program with these sizes, one keyword for each dimension.

        Raises ProgramError for missing or unknown dimensions and for whatever is wrong in the function.
        """
        self._check_names(sizes)
        missing = [n for n in self.dims if n not in sizes]
        if missing:
            call = ", ".join(f"{n}=..." for n in self.dims)
            raise ProgramError(f"{self.name}: no size for {', '.join(missing)}", hint=f"{self.name}.bind({call})")
        bound = {n: extent(sizes[n]) for n in self.dims}
        require(self.name, self.assumptions, bound)
        return self._program(bound, ())

    def _check_names(self, sizes: Mapping[str, int]) -> None:
        for n in sizes:
            if n not in self.dims:
                like = closest(n, self.dims)
                raise ProgramError(
                    f"{self.name} has no dimension {n!r}",
                    legal=self.dims or "it has no dimensions",
                    hint=f"did you mean {like!r}?" if like else None,
                )

    def symbolic(self, **sizes: int) -> Program:
        """The Program for all sizes that the assumptions allow; those given are bound.

        Raises ProgramError as `bind`, with a counterexample where the function is not defined for all of them.
        """
        given = {n: extent(sizes[n]) for n in self.dims if n in sizes}
        self._check_names(sizes)
        decided = [t for t in self.assumptions if names_in(t) <= set(given)]
        require(self.name, decided, given)
        rest = [t for t in self.assumptions if t not in decided]
        open_dims, relations = assumed(rest, [n for n in self.dims if n not in given])
        bound = {n: given[n] if n in given else open_dims[n] for n in self.dims}
        return self._program(bound, tuple(relation(r, bound) for r in relations))

    def _program(self, bound: Mapping[str, int], relations: tuple[Affine, ...]) -> Program:
        token = DIMENSIONS.set(bound)
        try:
            with assuming(relations):
                inputs = [p.tensor() for p in self.parameters]
                outputs = self._outputs(inputs)
        finally:
            DIMENSIONS.reset(token)
        return Program(inputs, outputs, self.name, self.inplace, bound, relations=relations)

    def __call__(self, *tensors: Tensor) -> Any:
        """The function applied to tensors of an operator around it; their shapes give the sizes."""
        token = DIMENSIONS.set(self._sizes(tensors))
        try:
            return self.function(*tensors)
        finally:
            DIMENSIONS.reset(token)

    def _sizes(self, tensors: Sequence[Tensor]) -> dict[str, int]:
        if len(tensors) != len(self.parameters):
            raise ProgramError(f"{self} takes {len(self.parameters)} tensors, got {len(tensors)}")
        sizes: dict[str, int] = {}
        for p, t in zip(self.parameters, tensors):
            if not isinstance(t, Tensor) or t.dtype != p.dtype or t.ndim != len(p.shape):
                raise ProgramError(f"{self.name}: parameter {p} got {t}")
            sizes |= {s: n for s, n in zip(p.shape, t.shape) if s.isidentifier() and s not in sizes}
        token = DIMENSIONS.set(sizes)
        try:
            for p, t in zip(self.parameters, tensors):
                if tuple(extent(s) for s in p.shape) != t.shape:
                    known = ", ".join(f"{n}={v}" for n, v in sizes.items())
                    raise ProgramError(f"{self.name}: parameter {p} got {t}, where {known}")
        finally:
            DIMENSIONS.reset(token)
        return sizes

    def _outputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        try:
            result, variables = _call(self.function, inputs)
        except TensorDSLError:
            raise
        except Exception as e:
            raise ProgramError(
                f"{self.name} raised {type(e).__name__}: {e}", location=traceback_location(e) or self.location
            ) from e
        outputs = list(result) if isinstance(result, (tuple, list)) else [result]
        for n, t in enumerate(outputs):
            if not isinstance(t, Tensor):
                what = f"output {n} of {self.name}" if len(outputs) > 1 else f"the result of {self.name}"
                hint = (
                    "return the tensor" if t is None else "define it with td.compute" if isinstance(t, Expr) else None
                )
                raise ProgramError(f"{what} is no tensor but {_kind(t)}", location=self.location, hint=hint)
        _name_after(variables, inputs)
        for n, t in enumerate(outputs):
            if not t.named and t.name == "t":
                t.name = "out" if len(outputs) == 1 else f"out{n}"
        return outputs

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.parameters))})"


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def operator(signature: str, *, inplace: Mapping[str, str] | None = None) -> Callable[[Callable[..., Any]], Operator]:
    """Makes an operator of a function of tensors.

    signature: a type for each parameter, ``"x: float32[M, K], alpha: float32"``; a type without a
        shape is a run-time scalar; sizes may be expressions such as ``H + 2``; what integers lie in is
        stated by ``token: int32[N] in range(V)``.  After them, behind semicolons, what may be assumed of
        sizes: ``"x: float32[N, K]; N >= 1; K % 8 == 0; N <= K"``.
    inplace: output name -> input name whose memory it takes over.
    Raises ProgramError where the signature is malformed or does not fit the function.
    """
    types, *assumptions = signature.split(";")
    parameters = tuple(_parameters(types))
    check_assumptions(
        [n for p in parameters for s in p.sizes for n in dimensions.names(dimensions.parse(s))], assumptions
    )

    def decorate(function: Callable[..., Any]) -> Operator:
        names = list(inspect.signature(function).parameters)
        if names != [p.name for p in parameters]:
            raise ProgramError(
                f"{function.__name__} takes ({', '.join(names)}), "
                f"its signature names ({', '.join(p.name for p in parameters)})"
            )
        return Operator(function, parameters, dict(inplace or {}), user_location(), tuple(assumptions))

    return decorate


def _parameters(signature: str) -> list[Parameter]:
    result: list[Parameter] = []
    for part in _split(signature):
        name, colon, kind = (s.strip() for s in part.partition(":"))
        kind, stated, values = (s.strip() for s in kind.partition(" in range("))
        dtype, bracket, rest = kind.partition("[")
        ends = tuple(s.strip() for s in _split(values[:-1])) if stated else ()
        malformed = (bracket and not rest.endswith("]")) or (stated and (values[-1:] != ")" or not 0 < len(ends) < 3))
        if not colon or not name.isidentifier() or malformed:
            raise ProgramError(f"{part.strip()!r} is not a parameter of an operator", hint=_FORM)
        if name in [p.name for p in result]:
            raise ProgramError(f"two parameters are named {name!r}")
        shape = tuple(s.strip() for s in _split(rest[:-1])) if rest[:-1].strip() else ()
        last, colon, pitch = shape[-1].partition(":") if shape else ("", "", "")
        shape = (*shape[:-1], last.strip()) if shape else ()
        for size in (*shape, *([pitch] if colon else ()), *ends):
            dimensions.parse(size)
        result.append(Parameter(name, dtypes.dtype(dtype.strip()), shape, ends, pitch.strip()))
    return result


def _split(text: str) -> list[str]:
    """Split at the commas outside brackets."""
    parts, depth = [""], 0
    for c in text:
        depth += (c in "[(") - (c in "])")
        if c == "," and not depth:
            parts.append("")
        else:
            parts[-1] += c
    return parts if any(p.strip() for p in parts) else []


def _call(function: Callable[..., Any], inputs: Sequence[Tensor]) -> tuple[Any, dict[str, Any]]:
    """The result of a function, and its local variables when it returned."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    variables: dict[str, Any] = {}

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "return" and frame.f_code is code:
            variables.update(frame.f_locals)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        result = function(*inputs)
    finally:
        sys.setprofile(before)
    return result, variables


def _name_after(variables: Mapping[str, Any], inputs: Sequence[Tensor]) -> None:
    """Tensors without a name are called like the variable that holds them."""
    done: list[Tensor] = list(inputs)
    for name, t in variables.items():
        if isinstance(t, Tensor) and not t.named and not any(t is d for d in done):
            done.append(t)
            _rename(t, name)


def _rename(t: Tensor, name: str) -> None:
    """Rename a tensor and the reductions that were hoisted out of it."""
    before, t.name = t.name, name
    for r in t.definition.reads if t.definition is not None else ():
        source = r.source
        if isinstance(source, Tensor) and not source.named and source.name.startswith(f"{before}_"):
            _rename(source, name + source.name[len(before) :])


# ---------------------------------------------------------------- operator files


def load_module(path: str | os.PathLike[str]) -> ModuleType:
    """A Python file run in a fresh module, with its folder first in the import path.

    Raises ProgramError with the line of the file for whatever it raises.
    """
    file = os.path.abspath(path)
    module = ModuleType(os.path.splitext(os.path.basename(file))[0])
    module.__file__ = file
    try:
        with open(file, encoding="utf-8") as stream:
            code = compile(stream.read(), file, "exec")
    except OSError as e:
        raise ProgramError(f"cannot read operator file {os.fspath(path)}: {e.strerror}") from None
    except (SyntaxError, ValueError) as e:
        line = getattr(e, "lineno", None) or 1
        raise ProgramError(f"{type(e).__name__}: {getattr(e, 'msg', e)}", location=Location(file, line)) from None
    shadowed = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    sys.path.insert(0, os.path.dirname(file))
    try:
        exec(code, module.__dict__)
    except TensorDSLError:
        raise
    except (Exception, SystemExit) as e:
        where = traceback_location(e) or Location(file, 1)
        raise ProgramError(f"{os.path.basename(file)} raised {type(e).__name__}: {e}", location=where) from e
    finally:
        sys.path.remove(os.path.dirname(file))
        del sys.modules[module.__name__]
        if shadowed is not None:
            sys.modules[module.__name__] = shadowed
    return module


def load_programs(path: str | os.PathLike[str]) -> dict[str, Program]:
    """The Programs at module level of a Python file, by the name of their variable.

    Raises ProgramError with the line of the file for whatever it raises, and where it has no program.
    """
    module = load_module(path)
    file = os.path.abspath(path)
    programs = {n: v for n, v in vars(module).items() if isinstance(v, Program)}
    if not programs:
        found = next((n for n, v in vars(module).items() if isinstance(v, Operator)), None)
        hint = f"bind sizes at module level: my_program = {found}.bind(...)" if found else "define a td.Program in it"
        raise ProgramError("the file has no program at module level", location=Location(file, 1), hint=hint)
    return programs
