"""Every program of examples/, by file and name: what is at module level, and what functions make.

A function that says it returns a Program is called with sizes: those of its kernel in the benchmark of
PolyBench, or some that fit.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import tensordsl as td

ROOT = Path(__file__).parents[1]
#: Sizes for functions that no benchmark names: the n-th parameter gets the n-th number.
FITTING = ((64, 48, 80, 40, 32), (64,) * 5, (16, 8, 4, 2, 1))


def load(path: Path) -> ModuleType:
    """A file as a module of its own: two files may have one name."""
    name = f"{path.parent.name}_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        sys.path.insert(0, str(path.parent))  # examples import each other
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(path.parent))
    return sys.modules[name]


def example_programs(sizes: dict[str, tuple[int, ...]]) -> dict[str, Callable[[], td.Program]]:
    """What makes each program, by "file.name".  sizes: of functions in polybench.py."""
    found: dict[str, Callable[[], td.Program]] = {}
    for path in sorted((ROOT / "examples").glob("*.py")):
        module = load(path)
        known = sizes if path.stem == "polybench" else {}
        for name, value in vars(module).items():
            if isinstance(value, td.Program):
                found[f"{path.stem}.{name}"] = partial(_same, value)
            elif _makes_program(value, module):
                found[f"{path.stem}.{name}"] = partial(_made, value, known.get(name))
    return found


def _same(program: td.Program) -> td.Program:
    return program


def _makes_program(value: object, module: ModuleType) -> bool:
    if not inspect.isfunction(value) or value.__module__ != module.__name__:
        return False
    said = str(value.__annotations__.get("return", ""))
    return said.endswith("Program") and all(str(p.annotation) == "int" for p in _required(value))


def _required(f: Callable[..., object]) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(f).parameters.values() if p.default is inspect.Parameter.empty]


def _made(f: Callable[..., td.Program], given: tuple[int, ...] | None) -> td.Program:
    error: td.TensorDSLError | None = None
    for sizes in _attempts(given, len(_required(f))):
        try:
            return f(*sizes)
        except td.TensorDSLError as refused:
            error = refused
    assert error is not None
    raise error


def _attempts(given: tuple[int, ...] | None, count: int) -> Iterator[tuple[int, ...]]:
    if given is not None:
        yield given
    else:
        yield from (sizes[:count] for sizes in FITTING)
