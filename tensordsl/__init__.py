"""tensordsl: tensor operators as math, proven schedules, tuned C kernels.

The public names are loaded on first use, so that importing the package stays fast.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

#: public name -> (module, attribute; "" is the module itself)
_HOMES: dict[str, tuple[str, str]] = {
    **{
        n: ("tensordsl.tensor", n)
        for n in ("placeholder", "reduce_axis", "compute", "recurrence", "recurrences", "Tensor")
    },
    **{
        n: ("tensordsl.functions", n)
        for n in (
            "abs",
            "cast",
            "ceil",
            "clip",
            "conj",
            "cos",
            "equal",
            "erf",
            "exp",
            "exp2",
            "floor",
            "imag",
            "log",
            "log2",
            "max",
            "maximum",
            "min",
            "minimum",
            "not_equal",
            "pow",
            "prod",
            "real",
            "rint",
            "round",
            "rsqrt",
            "select",
            "sigmoid",
            "sin",
            "sqrt",
            "square",
            "sum",
            "tanh",
        )
    },
    "where": ("tensordsl.functions", "where"),
    **{
        n: ("tensordsl.array", n)
        for n in ("astype", "broadcast_to", "concatenate", "einsum", "matmul", "pad", "reshape", "stack", "transpose")
    },
    "take_along_axis": ("tensordsl.gather", "take_along_axis"),
    **{n: ("tensordsl.operators", n) for n in ("operator", "Operator", "load_programs")},
    **{n: ("tensordsl.interpreter", n) for n in ("interpret", "error_bound", "random_inputs", "small_integer_inputs")},
    **{n: ("tensordsl.summaries", n) for n in ("all", "any", "argmax", "argmin", "logsumexp", "mean", "std", "var")},
    "reducer": ("tensordsl.monoids", "reducer"),
    **{n: ("tensordsl.scans", n) for n in ("cumsum", "cumprod", "cummax", "cummin")},
    "check": ("tensordsl.checking", "check"),
    "ops": ("tensordsl.ops", ""),
    "Program": ("tensordsl.program", "Program"),
    "dim": ("tensordsl.sizes", "dim"),
    "constant": ("tensordsl.constants", "constant"),
    **{
        n: ("tensordsl.autotune.driver", n)
        for n in ("compile", "tune", "build_library", "verify", "bench", "TuneResult")
    },
    "Schedule": ("tensordsl.schedules.schedule", "Schedule"),
    **{n: ("tensordsl.schedules.rounding", n) for n in ("exact", "reproducible")},
    "Expr": ("tensordsl.expr", "Expr"),
    **{
        n: ("tensordsl.errors", n)
        for n in (
            "TensorDSLError",
            "ProgramError",
            "ScheduleError",
            "BuildError",
            "TuneError",
            "RecordError",
            "InternalError",
        )
    },
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        if name.startswith("_"):
            raise AttributeError(f"module 'tensordsl' has no attribute {name!r}")
        from tensordsl.refusals import absent

        raise absent(name, "tensordsl", _HOMES)
    module = importlib.import_module(home[0])
    value = getattr(module, home[1]) if home[1] else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__"])
