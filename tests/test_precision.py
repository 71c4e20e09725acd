"""examples/precision.py: each operator is as near to numpy as its types allow."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import precision

#: a few roundings of the coarsest type that is stored
MOST = {
    "mixed_matmul": 1e-6, "softmax_half": 2**-11, "four_bit_weights": 1e-6, "to_float8": 2**-4, "transform": 1e-6
}  # fmt: skip


@pytest.mark.compiler
def test_differences_are_those_of_the_types() -> None:
    found = precision.differences()
    assert found.keys() == MOST.keys()
    for name, difference in found.items():
        assert difference <= MOST[name], name
