"""Expressions as text, as a user would write them."""

from __future__ import annotations

from tensordsl.expr import Const, Expr, Index, Number, Op, Read, Reduce

_SYMBOL = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%", "pow": "**",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=", "and": "&", "or": "|",
}  # fmt: skip
_LEVEL = {"or": 1, "and": 2, "add": 4, "sub": 4, "mul": 5, "div": 5, "floordiv": 5, "mod": 5, "pow": 7}


def number_text(value: Number) -> str:
    """The shortest text that means this number."""
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or value != value or float(short) == value else repr(value)


def text(e: Expr) -> str:
    """Readable infix text, as a user would write it."""

    def go(x: Expr, outer: int) -> str:
        if isinstance(x, Const):
            return number_text(x.value)
        if isinstance(x, Index):
            plain = len(x.affine.terms) + (x.affine.const != 0) <= 1
            return str(x.affine) if plain or outer <= 4 else f"({x.affine})"
        if isinstance(x, Read):
            return f"{x.source.name}[{', '.join(map(str, x.index))}]" if x.index else x.source.name
        if isinstance(x, Reduce):
            axes = ", ".join(a.name for a in x.axes)
            return f"{x.reducer.name}({go(x.body, 0)}, axis={axes})"
        assert isinstance(x, Op)
        if x.name in _SYMBOL:
            level = _LEVEL.get(x.name, 3)
            body = f"{go(x.args[0], level)} {_SYMBOL[x.name]} {go(x.args[1], level + 1)}"
            return f"({body})" if level < outer else body
        if x.name == "neg":
            return f"-{go(x.args[0], 6)}"
        if x.name == "not":
            return f"~{go(x.args[0], 6)}"
        args = ", ".join(go(a, 0) for a in x.args)
        return f"cast({args}, {x.dtype})" if x.name == "cast" else f"{x.name}({args})"

    return go(e, 0)
