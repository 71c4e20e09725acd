"""What a caller gives a primitive: checked against its annotations before it runs.

A trace may come from a file and a person may err, so no primitive needs to expect another type.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, get_args, get_origin

from tensordsl.errors import ScheduleError

#: Parameters that give a new name to a loop, a buffer or a function, or the end of one.
_NEW = frozenset({"name", "names", "suffix"})
_NAME = re.compile(r"[A-Za-z_][\w.]*", re.ASCII)
_SUFFIX = re.compile(r"\w[\w.]*", re.ASCII)
_WORDS = {int: "an integer", str: "a text", bool: "True or False", type(None): "None", float: "a number"}


def check_arguments(fn: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Raises ScheduleError for a value of another type than the parameter's, and for a name that is none."""
    for parameter, hint in _hints(fn).items():
        if parameter not in given:
            continue
        value = given[parameter]
        if isinstance(value, tuple) and hint in (str, int):  # *loops: each is checked by itself
            hint = Sequence[hint]  # type: ignore[valid-type]
        if not _fits(value, hint):
            raise ScheduleError(f"{parameter}={value!r} is not {_described(hint)}")
        if parameter in _NEW and value is not None:
            for text in value if isinstance(value, tuple) else (value,):
                if not (_SUFFIX if parameter == "suffix" else _NAME).fullmatch(text):
                    raise ScheduleError(
                        f"{parameter}={text!r} is no name", hint="use letters, digits, underscores and dots"
                    )


@lru_cache(maxsize=256)
def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(fn)
    return {k: v for k, v in list(hints.items())[1:] if k != "return"}


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, h) for h in get_args(hint))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, tuple) and all(_fits(v, get_args(hint)[0]) for v in value)
    if hint is type(None):
        return value is None
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _described(hint: Any) -> str:
    origin = get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_described(h) for h in get_args(hint))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a list, each {_described(get_args(hint)[0])}"
    return _WORDS.get(hint, str(hint))
