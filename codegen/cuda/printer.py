"""LoopNest -> CUDA: block loops become the grid, thread loops the digits of ``threadIdx.x``.

The text includes one header of ours, so that nvcc compiles it for a GPU and any C++17 compiler for
the emulator.  What the nest says is printed as it stands: `insert_sync` adds the barriers before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import gcd

from tensordsl.codegen.cuda.private import (
    Private,
    cell_index,
    check_registers,
    private_buffers,
    rest,
)  # fmt: skip
from tensordsl.codegen.cuda.scalar_text import (
    ScalarText,
    affine_text,
    condition_text,
    constant_text,
    shared_nodes,
)  # fmt: skip
from tensordsl.schedules.components import split_components
from tensordsl.schedules.loopnest import (
    Alloc,
    Buffer,
    For,
    If,
    LoopNest,
    Outline,
    Prefetch,
    Seq,
    Stmt,
    Store,
    Sync,
    buffers,
    index_data,
    items,
    substitute,
    walk,
)  # fmt: skip
from tensordsl.schedules.simplify import Context
from tensordsl.schedules.threads import Digits, Phase, block_loops, distinct, most_iterations, phases, thread_count

from tensordsl import expr
from tensordsl.affine import Affine, Quasi
from tensordsl.errors import BuildError
from tensordsl.expr import Const, Expr, Op, Read
from tensordsl.targets.cuda import CudaTarget

_VECTOR_BYTES = 16  # the widest access of one thread
_STATIC_SHARED = 48 * 1024  # bytes of shared memory a kernel may declare as arrays (CUDA C Programming Guide)
_ASYNC_BYTES = (4, 8, 16)
#: Words that a loop or buffer cannot be named by: of C++, and of CUDA kernels.
_RESERVED = frozenset(
    """alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl const constexpr
    continue decltype default delete do double else enum explicit export extern false float for friend goto if
    inline int long mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public
    register restrict return short signed sizeof static struct switch template this throw true try typedef
    typeid typename union unsigned using virtual void volatile wchar_t while xor xor_eq main
    blockDim blockIdx dim3 gridDim threadIdx tid uint3 warpSize""".split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True, eq=False)
class CudaSource:
    """One kernel as CUDA C++.

    text: includes ``tensordsl_cuda.cuh`` and defines ``symbol``; grid, block: launch sizes;
    parameters: the caller's buffers in calling order (rank 0 by value); shared_bytes: shared memory
    of a block, of which dynamic_bytes are given at launch; alignment: bytes that every pointer must
    be a multiple of.
    """

    text: str
    symbol: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    dynamic_bytes: int
    parameters: tuple[Buffer, ...]
    alignment: int

    def __str__(self) -> str:
        return self.text


def to_cuda(nest: LoopNest, target: CudaTarget, symbol: str | None = None) -> CudaSource:
    """Print a nest as one CUDA kernel.

    Raises BuildError where a size exceeds the target's limits or a construct has no CUDA form,
    ScheduleError where block and thread loops are misplaced.
    """
    if nest.program.free:
        raise BuildError(f"{nest.name} has sizes that are known only at the call, which CUDA kernels do not take yet",
                         hint="bind them: program.at(...)")  # fmt: skip
    if nest.program.rounding != "free":
        raise BuildError(f"{nest.name}: CUDA kernels do not keep a fixed rounding yet", hint="choose a CPU target")
    if nest.program.constants:
        raise BuildError("constants are only printed in C", hint="make them inputs of a CUDA kernel")
    for d in index_data(nest.body):
        raise BuildError(f"{nest.name}: index {d} is read from memory, which has no CUDA form yet")
    plain = replace(nest, body=split_components(nest.body))
    return _Printer(distinct(plain), target, symbol or nest.name).source()


@dataclass(slots=True, eq=False)
class _Printer:
    nest: LoopNest
    target: CudaTarget
    symbol: str
    lines: list[str] = field(default_factory=list)
    depth: int = 1
    alignment: int = 1
    temporaries: int = 0
    integer: str = "int"  # the type of indices
    declared: set[str] = field(default_factory=set)
    in_async: bool = False
    phase: Phase | None = None
    by_stmt: dict[int, Phase] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    private: dict[str, Private] = field(default_factory=dict)

    # ---------------------------------------------------------------- the kernel as a whole

    def source(self) -> CudaSource:
        nest, limits = self.nest, self.target
        for b in buffers(nest).values():
            if b.dtype.computed is not b.dtype or b.dtype.is_complex:
                raise BuildError(f"{b}: {b.dtype} is printed as C only", hint="cast it to float32 on the host")
        blocks, body = block_loops(nest)
        found = phases(nest)
        self.by_stmt = {id(p.stmt): p for p in found}
        self.private = private_buffers(nest, found)
        self.names = _identifiers(nest)
        if any(b.size() >= 1 << 31 for b in buffers(nest).values()):
            self.integer = "long long"
        threads = thread_count(found)
        if threads > limits.threads_per_block:
            raise BuildError(
                f"{nest.name} needs {threads} threads in a block, {limits.id} has at most {limits.threads_per_block}",
                context=nest,
            )
        grid, numbers = _grid(blocks)
        shared, dynamic = self.shared_arrays()
        if found and any(p.digits.loops for p in found):
            self.line("const int tid = threadIdx.x;")
        elif threads:
            self.line("const int tid = 0;")
        c = Context()
        for k, f in enumerate(blocks.loops):
            c = self.enter_digit(f, blocks, k, numbers[k], c)
        self.stmt(body, c)
        for _ in range(self.depth - 1):
            self.close()
        parameters = ", ".join(_parameter(b, self.names[b.name], nest) for b in nest.parameters)
        head = f'extern "C" __global__ void __launch_bounds__({threads})\n{self.symbol}({parameters}) {{'
        text = "\n".join(['#include "tensordsl_cuda.cuh"', "", head, *self.lines, "}", ""])
        return CudaSource(text, self.symbol, grid, (threads, 1, 1), shared, dynamic, nest.parameters, self.alignment)

    def shared_arrays(self) -> tuple[int, int]:
        """Declare every shared buffer at the top; bytes in total and given at launch."""
        found: dict[str, Buffer] = {}
        for x, _ in walk(self.nest.body):
            if not isinstance(x, Alloc):
                continue
            if x.buffer.banks or x.buffer.scope in ("workspace", "external"):
                raise BuildError(
                    f"{x.buffer}: a CUDA kernel has no such buffer",
                    context=self.nest,
                    legal="scope shared, stack or register, without banks",
                )
            if x.buffer.scope == "shared":
                found[x.buffer.name] = x.buffer
        offsets, total = {}, 0
        for name, b in found.items():
            offsets[name] = total
            total += -(-b.size() * b.dtype.bytes // _VECTOR_BYTES) * _VECTOR_BYTES
        if total > self.target.shared_bytes_per_block:
            raise BuildError(
                f"{self.nest.name} needs {total} bytes of shared memory, {self.target.id} has "
                f"{self.target.shared_bytes_per_block}",
                context=self.nest,
            )
        for name, b in found.items():
            arguments = f"{b.dtype.c_name}, {self.names[name]}, {b.size()}"
            if total > _STATIC_SHARED:
                self.line(f"TD_SHARED_DYNAMIC({arguments}, {offsets[name]});")
            else:
                self.line(f"TD_SHARED({arguments});")
        return total, total if total > _STATIC_SHARED else 0

    def line(self, text: str) -> None:
        self.lines.append("  " * self.depth + text)

    def open(self, text: str) -> None:
        self.line(text)
        self.depth += 1

    def close(self) -> None:
        self.depth -= 1
        self.line("}")

    def enter_digit(self, f: For, digits: Digits, k: int, number: str, c: Context) -> Context:
        """Define the variable of a block or thread loop; where its range is ragged, open a guard."""
        steps = number if f.step == 1 else f"{f.step} * {number}"
        start = affine_text(f.lo[0], c, self.names)
        self.line(f"const {self.integer} {self.names[f.var]} = {steps if start == '0' else f'{start} + {steps}'};")
        return self.guard(f, digits.extents[k], c)

    def guard(self, f: For, extent: int, c: Context) -> Context:
        """Inside a loop that is printed with a constant extent, open an if where that is too many."""
        full = replace(f, hi=(f.lo[0] + extent * f.step,))
        ragged = tuple([h - 1 - Affine.of(f.var) for h in f.hi])
        ragged = tuple([r for r in ragged if not c.inside(full).implies(r)])
        if ragged:
            self.open(f"if ({condition_text(ragged, c.inside(full), self.names)}) {{")
        return c.inside(f)

    # ---------------------------------------------------------------- statements

    def stmt(self, s: Stmt, c: Context) -> None:
        if id(s) in self.by_stmt and self.phase is None:
            self.run_phase(s, c)
        elif isinstance(s, Seq):
            for x in s.items:
                self.stmt(x, c)
        elif isinstance(s, For):
            self.loop(s, c)
        elif isinstance(s, If):
            self.open(f"if ({condition_text(s.conditions, c, self.names)}) {{")
            self.stmt(s.then, c.inside(s))
            self.close()
            if s.otherwise is not None:
                self.lines[-1] += " else {"
                self.depth += 1
                self.stmt(s.otherwise, c)
                self.close()
        elif isinstance(s, Store):
            self.store(s, c)
        elif isinstance(s, Alloc):
            self.alloc(s, c)
        elif isinstance(s, Outline):  # no meaning; nvcc inlines whatever a kernel calls anyway
            self.stmt(s.body, c)
        elif isinstance(s, Sync):
            text = {"barrier": "__syncthreads()", "commit": "td_commit()", "wait": f"td_wait<{s.count}>()"}
            self.line(text[s.kind] + ";")
        elif not isinstance(s, Prefetch):  # a hint for CPUs' caches: dropped
            raise BuildError(f"{type(s).__name__} has no text in CUDA")

    def run_phase(self, s: Stmt, c: Context) -> None:
        self.phase = self.by_stmt[id(s)]
        count, depth = self.phase.digits.count, self.depth
        threads = thread_count(list(self.by_stmt.values()))
        self.open(f"if (tid < {count}) {{" if count < threads else "{")
        self.stmt(s, c)
        while self.depth > depth:
            self.close()
        self.phase = None

    def loop(self, f: For, c: Context) -> None:
        if f.kind == "thread":
            assert self.phase is not None
            k = next(i for i, x in enumerate(self.phase.digits.loops) if x.var == f.var)
            depth = self.depth
            inner = self.enter_digit(f, self.phase.digits, k, _digit_text(self.phase.digits, k, "tid"), c)
            self.body(f, inner)
            while self.depth > depth:
                self.close()
            return
        if f.kind == "vector" and self.phase is not None and self.vector(f, c):
            return
        name, depth = self.names[f.var], self.depth
        step = f"{name}++" if f.step == 1 else f"{name} += {f.step}"
        low = self.bound(f.lo, "td_max", c)
        if f.kind in ("unroll", "vector") and len(f.lo) == 1:  # a constant extent: registers keep their names
            n = most_iterations(f, c)
            high = affine_text(f.lo[0] + n * f.step, c, self.names)
            self.line("#pragma unroll")
            self.open(f"for ({self.integer} {name} = {low}; {name} < {high}; {step}) {{")
            inner = self.guard(f, n, c)
        else:
            high = self.bound(f.hi, "td_min", c)
            self.open(f"for ({self.integer} {name} = {low}; {name} < {high}; {step}) {{")
            inner = c.inside(f)
        self.body(f, inner)
        while self.depth > depth:
            self.close()

    def body(self, f: For, c: Context) -> None:
        outer = self.in_async
        self.in_async = outer or "async" in f.notes
        self.stmt(f.body, c)
        self.in_async = outer

    def bound(self, terms: tuple[Affine, ...], word: str, c: Context) -> str:
        text = affine_text(terms[0], c, self.names)
        for t in terms[1:]:
            text = f"{word}<{self.integer}>({text}, {affine_text(t, c, self.names)})"
        return text

    def alloc(self, s: Alloc, c: Context) -> None:
        if s.buffer.scope != "shared":
            share = self.private.get(s.buffer.name)
            size = share.size if share else s.buffer.size()
            depth = self.depth
            if s.buffer.name in self.declared:  # buffers of one name may follow each other
                self.open("{")
            self.declared.add(s.buffer.name)
            self.line(f"{s.buffer.dtype.c_name} {self.names[s.buffer.name]}[{size}];")
            self.stmt(s.body, c)
            while self.depth > depth:
                self.close()
        else:
            self.stmt(s.body, c)

    # ---------------------------------------------------------------- accesses

    def offset(self, b: Buffer, index: tuple[Affine, ...], c: Context) -> Affine:
        """The element's place in its array, simplified by what is known of the loops."""
        if b.scope == "register":
            for i in index:
                self.check_register(b, i, c)
        if b.name in self.private:
            assert self.phase is not None
            return self.private[b.name].offset(rest(b, index, self.phase))
        total = Affine()
        for i, stride in zip(cell_index(b, index), b.strides()):
            total += _unfolded(i, c) * stride
        return total

    def check_register(self, b: Buffer, index: Affine, c: Context) -> None:
        if b.name in self.private:
            assert self.phase is not None
            index = rest(b, (index,), self.phase)[0] if len(b.shape) == 1 else index
            own = {f.var for f in self.phase.digits.loops}
            index = Affine(tuple(t for t in index.terms if not (isinstance(t[0], str) and t[0] in own)), index.const)
        check_registers(b, index, c.loops)

    def cell(self, b: Buffer, index: tuple[Affine, ...], c: Context) -> str:
        if not b.shape and not _is_output(b, self.nest) and b in self.nest.parameters:
            return self.names[b.name]  # passed by value
        return f"{self.names[b.name]}[{affine_text(self.offset(b, index, c), c, self.names)}]"

    def text(self, e: Expr, c: Context, loaded: Mapping[int, str] | None = None) -> str:
        """An expression at this place; nodes used more than once get a constant of their own."""
        named: dict[int, str] = dict(loaded or {})
        printer = ScalarText(
            lambda r: self.cell(r.source, r.index, c),  # type: ignore[arg-type]
            lambda a: affine_text(a, c, self.names),
            named,
        )
        for node in shared_nodes(e):
            value = printer(node)
            name = self.temporary()
            self.line(f"const {node.dtype.c_name} {name} = {value};")
            named[id(node)] = name
        return printer(e)

    def temporary(self) -> str:
        self.temporaries += 1
        return f"td_t{self.temporaries}"

    def store(self, s: Store, c: Context) -> None:
        if self.in_async:
            self.copy_async(s, c, 1)
            return
        value = self.text(s.value, c)
        self.line(_assignment(self.cell(s.buffer, s.index, c), s, value))

    def copy_async(self, s: Store, c: Context, width: int) -> None:
        """One cp.async; where the copied value is guarded, zeros are written elsewhere."""
        source, guard = s.value, ""
        if isinstance(source, Op) and source.name == "select" and _is_zero(source.args[2]):
            guard = ", " + self.text(source.args[0], c)
            source = source.args[1]
        size = width * s.buffer.dtype.bytes
        if not (
            isinstance(source, Read)
            and not s.op
            and s.buffer.scope == "shared"
            and isinstance(source.source, Buffer)
            and source.source.scope == "external"
            and source.source.shape
        ):
            raise BuildError(
                f"{s.buffer.name} = {s.value} cannot be an asynchronous copy",
                legal="a copy from the caller's memory to shared memory, or a select of one and zero",
            )
        if size not in _ASYNC_BYTES:
            raise BuildError(
                f"an asynchronous copy of {size} bytes into {s.buffer.name}",
                legal="4, 8 or 16 bytes",
                hint="vectorize the copy",
            )
        if not self.target.has_async_copy:
            raise BuildError(f"{self.target.id} has no asynchronous copies", legal="sm_80 or newer")
        self.alignment = max(self.alignment, size)
        to, origin = self.cell(s.buffer, s.index, c), self.cell(source.source, source.index, c)
        self.line(f"td_copy_async<{size}>(&{to}, &{origin}{guard});")

    # ---------------------------------------------------------------- vectors

    def vector(self, f: For, c: Context) -> bool:
        """Print a vector loop of stores by whole vectors; False where it has another form."""
        body = items(f.body)
        inner = c.inside(f)
        n = most_iterations(f, c)
        exact = len(f.lo) == len(f.hi) == 1 and f.step == 1 and (f.hi[0] - f.lo[0]).is_constant
        if not exact or not all(isinstance(s, Store) for s in body):
            return False
        outer, self.in_async = self.in_async, self.in_async or "async" in f.notes
        for s in body:
            assert isinstance(s, Store)
            largest = max([s.buffer.dtype.bytes] + [r.dtype.bytes for r in expr.reads(s.value)])
            width = gcd(n, _VECTOR_BYTES // largest)
            for start in range(0, n, width):
                self.chunk(s, f, f.lo[0] + start, width, inner, c)
        self.in_async = outer
        return True

    def chunk(self, s: Store, f: For, start: Affine, width: int, inner: Context, c: Context) -> None:
        """Lanes ``start .. start + width`` of one store."""
        lanes = [lane for i in range(width) if isinstance(lane := substitute(s, {f.var: start + i}), Store)]

        def wide(b: Buffer, index: tuple[Affine, ...]) -> bool:
            return width > 1 and self.is_vector(b, index, f.var, start, width, inner, c)

        to_wide = wide(s.buffer, s.index)
        if self.in_async:
            source = s.value.source if isinstance(s.value, Read) else None
            if to_wide and isinstance(s.value, Read) and isinstance(source, Buffer) and wide(source, s.value.index):
                self.copy_async(lanes[0], c, width)
            else:
                for lane in lanes:
                    self.copy_async(lane, c, 1)
            return
        vectors: list[tuple[Read, str]] = []
        for r in _free_reads(s.value):
            if isinstance(r.source, Buffer) and wide(r.source, r.index):
                name = self.temporary()
                at = tuple(i.substitute({f.var: start}) for i in r.index)
                self.line(f"const auto {name} = td_load<{width}>(&{self.cell(r.source, at, c)});")
                vectors.append((r, name))
        first = self.cell(s.buffer, lanes[0].index, c)
        result = self.temporary() if to_wide else ""
        if to_wide:
            old = f" = td_load<{width}>(&{first})" if s.op else ""
            self.line(f"td_vector<{s.buffer.dtype.c_name}, {width}> {result}{old};")
        for i, lane in enumerate(lanes):
            loaded = _correspond(s.value, lane.value, {id(r): f"{name}.lane[{i}]" for r, name in vectors})
            value = self.text(lane.value, c, loaded)
            place = f"{result}.lane[{i}]" if to_wide else self.cell(lane.buffer, lane.index, c)
            self.line(_assignment(place, lane, value))
        if to_wide:
            self.line(f"td_store(&{first}, {result});")

    def is_vector(
        self, b: Buffer, index: tuple[Affine, ...], var: str, start: Affine, width: int, inner: Context, c: Context
    ) -> bool:
        """Are ``width`` lanes neighbours in memory, the first one aligned?  (Notes the pointer's alignment.)"""
        if not b.shape or b.scope not in ("external", "shared"):
            return False
        offset = self.offset(b, index, inner)
        divided = any(isinstance(a, Quasi) and var in a.argument.names() for a, _ in offset.terms)
        if offset.coefficient(var) != 1 or divided:
            return False
        if _multiple(self.offset(b, tuple(i.substitute({var: start}) for i in index), c), c) % width:
            return False
        if b.scope == "external":
            self.alignment = max(self.alignment, width * b.dtype.bytes)
        return True


# ---------------------------------------------------------------- pieces


def _grid(blocks: Digits) -> tuple[tuple[int, int, int], list[str]]:
    """The launch grid (x innermost) and each block loop's digit as text."""
    e = blocks.extents
    if len(e) <= 3 and all(n <= 65535 for n in e[:-1]):  # limits of grid dimensions y and z
        sizes = (*reversed(e), 1, 1, 1)
        return (sizes[0], sizes[1], sizes[2]), [f"blockIdx.{'xyz'[len(e) - 1 - k]}" for k in range(len(e))]
    return (blocks.count, 1, 1), [_digit_text(blocks, k, "static_cast<int>(blockIdx.x)") for k in range(len(e))]


def _digit_text(digits: Digits, k: int, number: str) -> str:
    stride = digits.strides()[k]
    text = number if stride == 1 else f"{number} / {stride}"
    if k == 0:
        return text
    return f"({text}) % {digits.extents[k]}" if stride != 1 else f"{text} % {digits.extents[k]}"


def _is_output(b: Buffer, nest: LoopNest) -> bool:
    return any(nest.program.inplace.get(t.name, t.name) == b.name for t in nest.program.outputs)


def _parameter(b: Buffer, name: str, nest: LoopNest) -> str:
    if _is_output(b, nest):
        return f"{b.dtype.c_name} *__restrict__ {name}"
    return f"const {b.dtype.c_name} *__restrict__ {name}" if b.shape else f"const {b.dtype.c_name} {name}"


def _identifiers(nest: LoopNest) -> dict[str, str]:
    """A C++ name for every loop and buffer, all different."""
    found: dict[str, str] = {}
    taken = set(_RESERVED)
    loops = [x.var for x, _ in walk(nest.body) if isinstance(x, For)]
    for original in dict.fromkeys([*buffers(nest), *loops]):
        base = re.sub(r"\W", "_", original)
        if base.startswith("td_") or base[0].isdigit() or base.startswith("__"):
            base = "v_" + base
        name, n = base, 0
        while name in taken:
            n += 1
            name = f"{base}_{n}"
        taken.add(name)
        found[original] = name
    return found


def _assignment(place: str, s: Store, value: str) -> str:
    if value.startswith("(") and value.endswith(")") and _encloses(value):
        value = value[1:-1]
    if not s.op:
        return f"{place} = {value};"
    if s.op in ("add", "mul"):
        return f"{place} {'+' if s.op == 'add' else '*'}= {value};"
    return f"{place} = td_{s.op}<{s.buffer.dtype.c_name}>({place}, {value});"


def _encloses(text: str) -> bool:
    """Is the first parenthesis closed by the last one?"""
    level = 0
    for i, ch in enumerate(text):
        level += (ch == "(") - (ch == ")")
        if level == 0:
            return i == len(text) - 1
    return False


def _unfolded(i: Affine, c: Context) -> Affine:
    """Without a remainder that does nothing."""
    if len(i.terms) == 1 and isinstance(i.terms[0][0], Quasi) and i.terms[0][1] == 1 and not i.const:
        q = i.terms[0][0]
        low, high = c.minimum(q.argument), c.maximum(q.argument)
        if q.kind == "mod" and low is not None and high is not None and low // q.by == high // q.by:
            return q.argument - low // q.by * q.by
    return i


def _multiple(a: Affine, c: Context) -> int:
    """A number that every value of an index is a multiple of (0: the index is 0)."""
    result = abs(a.const)
    for atom, k in a.terms:
        if isinstance(atom, str):
            f = next((x for x in reversed(c.loops) if x.var == atom), None)
            unit = gcd(f.step, _multiple(f.lo[0], c)) if f is not None and f.step > 1 and len(f.lo) == 1 else 1
        else:
            unit = 1
            if isinstance(atom, Quasi) and atom.kind == "mod":
                unit = gcd(atom.by, _multiple(atom.argument, c))
        result = gcd(result, k * unit)
    return result


def _free_reads(e: Expr) -> list[Read]:
    """Reads that happen whenever the expression is evaluated (not in a branch of a select)."""
    if isinstance(e, Read):
        return [e]
    inner = expr.children(e)
    if isinstance(e, Op) and e.name == "select":
        inner = inner[:1]
    return list({id(r): r for x in inner for r in _free_reads(x)}.values())


def _correspond(original: Expr, lane: Expr, names: Mapping[int, str]) -> dict[int, str]:
    """The names given to nodes of one expression, for the same nodes of its copy."""
    found: dict[int, str] = {}

    def go(a: Expr, b: Expr) -> None:
        if id(a) in names:
            found[id(b)] = names[id(a)]
        for x, y in zip(expr.children(a), expr.children(b)):
            go(x, y)

    go(original, lane)
    return found


def _is_zero(e: Expr) -> bool:
    return isinstance(e, Const) and e.value == 0 and constant_text(e.value, e.dtype)[0] != "-"
