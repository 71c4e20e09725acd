"""Errors by example: the docstring of a case is the whole text a person sees.

``--> here`` in it stands for the line marked ``# here``.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

import tensordsl as td

TESTS = Path(__file__).parent


def check(wrong: Callable[[], object]) -> None:
    """The case raises a ProgramError with its text, which survives the way between processes."""
    with pytest.raises(td.ProgramError) as raised:
        wrong()
    lines, first = inspect.getsourcelines(wrong)
    here = next(n for n, line in enumerate(lines) if line.rstrip().endswith("# here"))
    file = Path(inspect.getsourcefile(wrong) or "").name
    expected = inspect.cleandoc(wrong.__doc__ or "").replace("--> here", f"--> tests/{file}:{first + here}")
    assert str(raised.value).replace(str(TESTS), "tests") == expected
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
