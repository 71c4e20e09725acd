"""What a person sees who defines a program wrongly: names, types, indices, reductions, recurrences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from error_texts import check

import tensordsl as td

CASES: list[Callable[[], object]] = []
X = td.placeholder((4, 5), name="x")
V = td.placeholder((4,), name="v")
N = td.placeholder((4,), "int32", name="n")


def case(f: Callable[[], object]) -> Callable[[], object]:
    CASES.append(f)
    return f


# ---------------------------------------------------------------- names


@case
def unknown_tensor() -> object:
    """
    y reads w, which is neither defined nor an input
      --> here
    hint: add it to inputs=[...]
    """
    w = td.placeholder((4,), name="w")
    y = td.compute((4,), lambda i: V[i] * w[i], name="y")
    return td.Program([V], [y])  # here


@case
def undefined_output() -> object:
    """
    the program reads w, which is neither defined nor an input
      --> here
    hint: add it to inputs=[...]
    """
    return td.Program([V], [td.placeholder((4,), name="w")])  # here


@case
def duplicate_names() -> object:
    """
    two tensors of the program are named 'x'
      --> here
    """
    x = td.compute((4, 5), lambda i, j: X[i, j] + 1, name="x")  # here
    return td.Program([X], [x])


@case
def output_listed_twice() -> object:
    """
    output y is listed twice
      --> here
    """
    y = td.compute((4,), lambda i: V[i] + 1, name="y")  # here
    return td.Program([V], [y, y])


@case
def not_a_name() -> object:
    """
    'my tensor' is not a name
      --> here
    hint: use letters, digits and underscores
    """
    y = td.compute((4,), lambda i: V[i] + 1, name="my tensor")  # here
    return td.Program([V], [y])


@case
def input_is_defined() -> object:
    """
    input y is defined by an expression
      --> here
    hint: inputs are placeholders
    """
    y = td.compute((4,), lambda i: V[i] + 1, name="y")
    return td.Program([y], [y])  # here


@case
def output_is_an_input() -> object:
    """
    output v is an input
      --> here
    hint: define a copy of it
    """
    return td.Program([V], [V])  # here


@case
def output_is_no_tensor() -> object:
    """
    output 0 of a program must be a tensor, got Op
      --> here
    hint: define it with td.compute
    """
    return td.Program([V], [V[0] + 1])  # type: ignore[list-item]  # here


@case
def no_output() -> object:
    """
    a program needs an output
      --> here
    """
    return td.Program([V], [])  # here


# ---------------------------------------------------------------- ranks, dtypes, indices


@case
def too_few_indices() -> object:
    """
    x has rank 2, read with 1 indices
      --> here
    hint: give one index for each dimension of x: float32[4, 5]
    """
    return td.compute((4,), lambda i: X[i], name="y")  # here


@case
def too_many_indices() -> object:
    """
    x has rank 2, read with 3 indices
      --> here
    hint: give one index for each dimension of x: float32[4, 5]
    """
    return td.compute((4,), lambda i: X[i, 0, 0], name="y")  # here


@case
def too_few_parameters() -> object:
    """
    the function takes 1 indices, the shape has 2 dimensions
      --> here
    """
    return td.compute((4, 5), lambda i: X[i, 0], name="y")  # here


@case
def out_of_range() -> object:
    """
    y: index i + 1 of v (dimension 0) is out of bounds: 4 is outside 0..3
      --> here
    counterexample: when i = 3
    hint: guard the read with td.select, or change the shape
    """
    return td.compute((4,), lambda i: V[i + 1], name="y")  # here


@case
def out_of_range_despite_a_guard() -> object:
    """
    y: index i - j of v (dimension 0) is out of bounds: -1 is outside 0..3
      --> here
    counterexample: when i = 1, j = 2
    hint: guard the read with td.select, or change the shape
    """
    return td.compute((4, 4), lambda i, j: td.select((i >= 1) & (j <= 2), V[i - j], 0.0), name="y")  # here


@case
def out_of_range_in_the_middle() -> object:
    """
    y: index (2*i) % 5 of v (dimension 0) is out of bounds: 4 is outside 0..3
      --> here
    counterexample: when i = 2
    hint: guard the read with td.select, or change the shape
    """
    return td.compute((4,), lambda i: V[2 * i % 5], name="y")  # here


@case
def index_by_data() -> object:
    """
    index n[i] of v (dimension 0) may be any int32
      --> here
    hint: state its range, td.placeholder(..., values=range(n)), or clamp it, td.clip(n[...], 0, n - 1)
    """
    return td.compute((4,), lambda i: V[N[i]], name="y")  # here


@case
def index_by_data_outside() -> object:
    """
    y: index where[i] + 1 of v (dimension 0) is out of bounds: 4 is outside 0..3
      --> here
    counterexample: when where[i] = 3
    hint: guard the read with td.select, clamp the index with td.clip, or change the shape
    """
    where = td.placeholder((4,), "int32", name="where", values=range(4))
    return td.compute((4,), lambda i: V[where[i] + 1], name="y")  # here


@case
def index_by_float() -> object:
    """
    index v[i] of v (dimension 0) is float32, not an integer
      --> here
    hint: convert it: td.cast(..., 'int32'); a condition chooses with td.select
    """
    return td.compute((4,), lambda i: V[V[i]], name="y")  # here


@case
def values_of_a_float() -> object:
    """
    x: float32 does not hold values=range(0, 4)
      --> here
    hint: values are stated for integer types that hold them
    """
    return td.placeholder((4,), name="x", values=range(4))  # here


@case
def negative_divisor() -> object:
    """
    index i // -2: the divisor of an index must be positive
      --> here
    """
    return td.compute((4,), lambda i: V[i // -2], name="y")  # here


@case
def tensor_as_scalar() -> object:
    """
    tensor 'x' of rank 2 used as a scalar
      --> here
    hint: index it: x[i, j]
    """
    return td.compute((4,), lambda i: V[i] + X, name="y")  # here


@case
def float_condition() -> object:
    """
    the condition of select is float32
      --> here
    hint: compare it: x > 0
    """
    return td.compute((4,), lambda i: td.select(V[i], 1.0, 2.0), name="y")  # here


@case
def float_logic() -> object:
    """
    and needs integers or conditions, got float32
      --> here
    """
    return td.compute((4,), lambda i: V[i] & 1, name="y")  # here


@case
def no_common_type() -> object:
    """
    no type holds both uint64 and int32
      --> here
    hint: cast one of them explicitly
    """
    u = td.placeholder((4,), "uint64", name="u")
    return td.compute((4,), lambda i: u[i] + N[i], name="y")  # here


@case
def unknown_dtype() -> object:
    """
    unknown dtype 'float23'
      --> here
    legal: bfloat16, bool, complex128, complex64, float16, float32, float64, float8_e4m3fn, float8_e5m2, int16, int32, int4, int64, int8, uint16, uint32, uint4, uint64, uint8
    hint: did you mean 'float32'?
    """
    return td.placeholder((4,), "float23")  # here


@case
def truth_value() -> object:
    """
    an expression has no truth value while an operator is being defined
      --> here
    hint: use td.select(condition, a, b), and & | ~ for and, or, not
    """
    return td.compute((4,), lambda i: V[i] if V[i] > 0 else 0.0, name="y")  # here


@case
def truth_value_of_a_tensor() -> object:
    """
    tensor lt has no truth value while an operator is being defined
      --> here
    hint: use td.where(condition, a, b), and & | ~ for and, or, not
    """
    return 1 if X < 0 else 2  # here


@case
def nested_too_deep() -> object:
    """
    y: operations are nested more than 200 deep
      --> here
    hint: use td.sum over an axis, or a tensor for a part of it
    """
    return td.compute((1,), lambda i: sum((V[k % 4] for k in range(300)), V[0]), name="y")  # here


@case
def negative_size() -> object:
    """
    a size must not be negative, got -1
      --> here
    """
    return td.placeholder((4, -1))  # here


@case
def size_is_no_integer() -> object:
    """
    a size must be an integer or a dimension's name, got 2.5
      --> here
    """
    return td.compute((2.5,), lambda i: V[i])  # type: ignore[list-item]  # here


# ---------------------------------------------------------------- reductions


@case
def reduction_axis_is_free() -> object:
    """
    y: index 'k' is not an axis of this definition
      --> here
    legal: i
    hint: reduce over it with td.sum(..., axis=...)
    """
    k = td.reduce_axis(5, "k")
    return td.compute((4,), lambda i: X[i, k], name="y")  # here


@case
def reduction_over_no_axis() -> object:
    """
    sum: axis=j is not an axis to reduce over
      --> here
    hint: make it with td.reduce_axis
    """
    return td.compute((4, 5), lambda i, j: td.sum(X[i, j], axis=j), name="y")  # here


@case
def reduction_without_an_axis() -> object:
    """
    max: axis=None is not an axis to reduce over
      --> here
    hint: make it with td.reduce_axis
    """
    return td.compute((4, 5), lambda i, j: td.max(X[i, j]), name="y")  # here


@case
def reduction_axis_of_the_same_name() -> object:
    """
    reduction axis 'i' has the name of an axis of y
      --> here
    hint: name it otherwise: td.reduce_axis(size, name=...)
    """
    k = td.reduce_axis(5, "i")
    return td.compute((4,), lambda i: td.sum(X[i, k], axis=k), name="y")  # here


@case
def two_axes_of_one_name() -> object:
    """
    sum: two axes are named 'k'
      --> here
    hint: td.reduce_axis(size, name=...)
    """
    k, l = td.reduce_axis(4, "k"), td.reduce_axis(5, "k")
    return td.compute((), lambda: td.sum(X[k, l], axis=(k, l)), name="y")  # here


@case
def dimension_that_is_not_there() -> object:
    """
    sum: x: float32[4, 5] has no axis 2
      --> here
    legal: -2..1
    """
    return td.sum(X, axis=2)  # here


@case
def tensor_over_a_reduce_axis() -> object:
    """
    sum: axis of tensor x is a reduce_axis
      --> here
    hint: use a dimension, td.sum(x, axis=0), or index the tensor
    """
    return td.sum(X, axis=td.reduce_axis(5))  # type: ignore[call-overload]  # here


@case
def extremes_with_an_axis() -> object:
    """
    max takes one value to reduce over an axis, or several values to compare, got 2 and an axis
      --> here
    """
    return td.max(X, X, axis=0)  # here


# ---------------------------------------------------------------- recurrences


@case
def recurrence_reads_itself() -> object:
    """
    s[t] reads s[t] of the same step in order of t
      --> here
    counterexample: s[0] reads s[0]
    hint: every read of s must lie before t: guard it with td.select, or choose another order
    """
    return td.recurrence((4,), lambda s, t: s[t] + V[t], name="s", order="t")  # here


@case
def recurrence_reads_the_future() -> object:
    """
    s[t, i] reads s[t + 1, i] of a later step in order of t
      --> here
    counterexample: when t = 0: s[0, 0] reads s[1, 0]
    hint: every read of s must lie before t: guard it with td.select, or choose another order
    """
    return td.recurrence(
        (4, 5),
        lambda s, t, i: td.select(t < 3, s[t + 1, i], 0.0),  # here
        name="s",
        order="t",
    )


@case
def recurrence_along_the_wrong_axis() -> object:
    """
    s[t, i] reads s[t, i - 1] of the same step in order of t
      --> here
    counterexample: when i = 4: s[0, 4] reads s[0, 3]
    hint: every read of s must lie before t: guard it with td.select, or choose another order
    """
    return td.recurrence(
        (4, 5),
        lambda s, t, i: td.select(i > 0, s[t, i - 1], X[t, i]),  # here
        name="s",
        order="t",
    )


@case
def recurrence_in_a_hoisted_sum() -> object:
    """
    s_sum[t] reads s[k] of a later step in order of t
      --> here
    counterexample: when k = 3, t = 0: s_sum[0] reads s[3]
    hint: every read of s must lie before t: guard it with td.select, or choose another order
    """
    k = td.reduce_axis(4, "k")
    return td.recurrence((4,), lambda s, t: 1.0 + td.sum(s[k], axis=k), name="s", order="t")  # here


@case
def recurrences_wait_for_each_other() -> object:
    """
    b[t] reads a[t] of the same step in order of t
      --> here
    counterexample: b[0] reads a[0]
    hint: every read of a must lie before t: guard it with td.select, or choose another order
    """
    return td.recurrences(
        [(4,), (4,)],
        [
            lambda a, b, t: b[t] + 1.0,
            lambda a, b, t: a[t] + 1.0,  # here
        ],
        ["a", "b"],
        order="t",
    )


@case
def recurrence_without_an_order() -> object:
    """
    recurrence: order='u' is not an axis
      --> here
    legal: t
    """
    return td.recurrence((4,), lambda s, t: V[t], name="s", order="u")  # here


@case
def definitions_in_a_cycle() -> object:
    """
    the definitions of b -> a -> b need each other
      --> here
    hint: a recurrence names its causal axis: td.recurrence(..., order=...)
    """
    a = td.compute((4,), lambda i: V[i], name="a")
    b = td.compute((4,), lambda i: a[i] + 1.0, name="b")  # here
    a.definition = td.compute((4,), lambda i: b[i] * 2.0).definition
    return td.Program([V], [b])


# ---------------------------------------------------------------- in-place outputs


@case
def inplace_of_another_shape() -> object:
    """
    output y: float32[4] cannot take the memory of input x: float32[4, 5]
      --> here
    hint: shape and dtype must agree
    """
    y = td.compute((4,), lambda i: X[i, 0], name="y")
    return td.Program([X], [y], inplace={"y": "x"})  # here


@case
def inplace_of_an_unknown_input() -> object:
    """
    inplace: no input is named 'w'
      --> here
    legal: vw
    hint: did you mean 'vw'?
    """
    v = td.placeholder((4,), name="vw")
    y = td.compute((4,), lambda i: v[i], name="y")
    return td.Program([v], [y], inplace={"y": "w"})  # here


@case
def inplace_reads_a_neighbour() -> object:
    """
    y[i] reads v[i - 1], another element than the one it overwrites
      --> here
    counterexample: when i = 3
    hint: drop inplace={'y': 'v'}
    """
    y = td.compute((4,), lambda i: td.select(i > 0, V[i - 1], V[i]), name="y")  # here
    return td.Program([V], [y], inplace={"y": "v"})


@case
def inplace_reads_while_accumulating() -> object:
    """
    y[i] is accumulated where v[i] is still needed
      --> here
    hint: drop inplace={'y': 'v'}
    """
    k = td.reduce_axis(5, "k")
    y = td.compute((4,), lambda i: td.sum(X[i, k] * V[i], axis=k), name="y")  # here
    return td.Program([X, V], [y], inplace={"y": "v"})


@case
def inplace_is_read_later() -> object:
    """
    z reads v after y has overwritten it
      --> here
    hint: drop inplace={'y': 'v'}, or read y
    """
    y = td.compute((4,), lambda i: V[i] * 2.0, name="y")
    z = td.compute((4,), lambda i: y[i] + V[i], name="z")  # here
    return td.Program([V], [y, z], inplace={"y": "v"})


@case
def inplace_twice() -> object:
    """
    two outputs take the memory of input v
      --> here
    """
    y = td.compute((4,), lambda i: V[i], name="y")
    z = td.compute((4,), lambda i: V[i], name="z")
    return td.Program([V], [y, z], inplace={"y": "v", "z": "v"})  # here


@pytest.mark.parametrize("wrong", CASES, ids=lambda f: f.__name__)
def test_text(wrong: Callable[[], object]) -> None:
    check(wrong)
