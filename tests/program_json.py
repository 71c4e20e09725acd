"""Programs as JSON: what a failure keeps, so that it is replayed whatever becomes of the generator of programs."""

from __future__ import annotations

from typing import Any

import tensordsl as td
from tensordsl import dtypes, expr
from tensordsl.affine import Affine, Quasi
from tensordsl.expr import REDUCERS, Axis, Const, Expr, Index, Op, Read
from tensordsl.tensor import Causal, Definition, Tensor

Json = Any


def to_json(program: td.Program) -> Json:
    """Raises ValueError for what this file cannot say."""
    return {
        "name": program.name,
        "inputs": [[t.name, t.dtype.name, list(t.shape)] for t in program.inputs],
        "tensors": [_tensor(t) for t in program.tensors],
        "outputs": [t.name for t in program.outputs],
        "inplace": dict(program.inplace),
    }


def from_json(data: Json) -> td.Program:
    tensors = {n: Tensor(n, tuple(shape), dtypes.dtype(t)) for n, t, shape in data["inputs"]}
    for d in data["tensors"]:
        shape = tuple(extent for _, extent in d["axes"])
        tensors[d["name"]] = Tensor(d["name"], shape, dtypes.dtype(d["dtype"]))
    for d in data["tensors"]:
        tensors[d["name"]].definition = Definition(
            tuple(Axis(*a) for a in d["axes"]),
            _body_of(d["body"], tensors),
            REDUCERS[d["reducer"]] if d["reducer"] else None,
            tuple(Axis(*a) for a in d["reduce_axes"]),
            tuple(Causal.of(o) for o in d["order"]),
        )
    inputs = [tensors[n] for n, _, _ in data["inputs"]]
    return td.Program(inputs, [tensors[n] for n in data["outputs"]], data["name"], data["inplace"])


def _tensor(t: Tensor) -> Json:
    d = t.definition
    assert d is not None
    if d.reducer is not None and d.reducer != REDUCERS.get(d.reducer.name):
        raise ValueError(f"the reducer {d.reducer.name}")
    return {
        "name": t.name,
        "dtype": t.dtype.name,
        "axes": [[a.name, a.extent] for a in d.axes],
        "reducer": d.reducer.name if d.reducer else None,
        "reduce_axes": [[a.name, a.extent] for a in d.reduce_axes],
        "order": [str(o) for o in d.order],
        "body": _nodes(d.body),
    }


def _nodes(body: Expr) -> Json:
    """The nodes of an expression, operands first; an operand is its place in the list."""
    place: dict[int, int] = {}
    nodes: list[Json] = []
    for e in expr.walk(body):
        place[id(e)] = len(nodes)
        match e:
            case Const():
                nodes.append(["const", e.dtype.name, repr(e.value)])
            case Index():
                nodes.append(["index", e.dtype.name, _affine(e.affine)])
            case Read():
                nodes.append(["read", e.source.name, [_affine(i) for i in e.index]])
            case Op():
                nodes.append([e.name, e.dtype.name, [place[id(a)] for a in e.args]])
            case _:
                raise ValueError(f"a node {type(e).__name__}")
    return nodes


def _body_of(nodes: Json, tensors: dict[str, Tensor]) -> Expr:
    made: list[Expr] = []
    for kind, what, rest in nodes:
        match kind:
            case "const":
                t = dtypes.dtype(what)
                made.append(
                    Const(float(rest) if t.is_float else rest == "True" if rest in ("True", "False") else int(rest), t)
                )
            case "index":
                made.append(Index(_affine_of(rest), dtypes.dtype(what)))
            case "read":
                made.append(Read(tensors[what], tuple(_affine_of(i) for i in rest)))
            case _:
                made.append(Op(kind, tuple(made[k] for k in rest), dtypes.dtype(what)))
    return made[-1]


def _affine(a: Affine) -> Json:
    return [a.const, *([x if isinstance(x, str) else [x.kind, _affine(x.argument), x.by], c] for x, c in a.terms)]


def _affine_of(data: Json) -> Affine:
    const, *terms = data
    total = Affine((), const)
    for x, c in terms:
        atom = x if isinstance(x, str) else Quasi(x[0], _affine_of(x[1]), x[2])
        total = total + Affine(((atom, c),))
    return total
