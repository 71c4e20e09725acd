"""A pipelined shared-memory GEMM for CUDA as a schedule.

    s = schedule(512, 512, 512)
    source = kernel(s, "sm_80")      # CUDA C++ text with barriers and waits
    print(s, source, sep="\\n")

Run as a program, it prints both and checks the kernel on the CPU under the emulator.
"""

from __future__ import annotations

from tensordsl.codegen.cuda.printer import CudaSource, to_cuda
from tensordsl.codegen.cuda.sync import insert_sync

import tensordsl as td
from tensordsl.targets.cuda import cuda_target

LANES = 4  # floats of one 16-byte access


def gemm_program(m: int, n: int, k: int) -> td.Program:
    """C = A @ B in float32."""
    a, b = td.placeholder((m, k), name="A"), td.placeholder((k, n), name="B")
    kk = td.reduce_axis(k, name="k")
    c = td.compute((m, n), lambda i, j: td.sum(a[i, kk] * b[kk, j], axis=kk), name="C")
    return td.Program([a, b], [c], name="gemm")


def schedule(
    m: int, n: int, k: int, *, bm: int = 64, bn: int = 64, bk: int = 16, tm: int = 4, tn: int = 4, stages: int = 2
) -> td.Schedule:
    """Blocks of bm x bn, threads of tm x tn accumulators, steps of bk along k.

    Tiles of A and B are copied to shared memory asynchronously, `stages - 1` steps ahead.
    """
    rows, columns = bm // tm, bn // tn  # of threads
    s = td.Schedule(gemm_program(m, n, k)).unchecked()
    s = s.split("C", "i", factors=[None, rows, tm], names=("block.i", "thread.i", "i"))
    s = s.split("C", "j", factors=[None, columns, tn], names=("block.j", "thread.j", "j"))
    s = s.split("C", "k", factors=[None, bk // LANES, LANES], names=("k.o", "k.m", "k.i"))
    s = s.reorder("C", "block.i", "block.j", "k.o", "thread.i", "thread.j", "k.m", "k.i", "i", "j")
    s = s.cache_write("C", at="block.j", scope="register", name="acc")
    s = s.decompose_reduction("C", "k.o")
    s = s.cache_read("C", "A", at="k.o", scope="shared", name="As", pad=LANES)
    s = s.cache_read("C", "B", at="k.o", scope="shared", name="Bs")
    s = s.pipeline("C", "k.o", stages)
    s = s.cache_read("C", "As", at="k.m", scope="register", name="ra")
    s = s.cache_read("C", "Bs", at="k.i", scope="register", name="rb")
    for tile, width in (("As", bk), ("Bs", bn)):  # a row of a tile is copied by width / LANES threads
        s = s.vectorize(tile, f"{tile}.1", LANES)
        s = s.split(tile, f"{tile}.0", rows * columns * LANES // width, names=(f"{tile}.u", f"{tile}.r"))
        s = s.bind(tile, f"{tile}.r", "thread").bind(tile, f"{tile}.1.v", "thread")
        s = s.unroll(tile, f"{tile}.u").annotate(tile, f"{tile}.1.l", "async")
    s = s.split("acc", "acc.0", tm).split("acc", "acc.1", tn).reorder("acc", "acc.0.o", "acc.1.o", "acc.0.i", "acc.1.i")
    for stage, loops in (("C", ("thread.i", "thread.j")), ("acc", ("acc.0.o", "acc.1.o"))):
        for v in loops:
            s = s.bind(stage, v, "thread")
    for v in ("block.i", "block.j"):
        s = s.bind("C", v, "block")
    for v in ("k.m", "k.i", "i", "j"):
        s = s.unroll("C", v)
    return s.validate()


def kernel(s: td.Schedule, architecture: str) -> CudaSource:
    """The schedule's loops as CUDA text, with the barriers and waits they need."""
    return to_cuda(insert_sync(s.nest), cuda_target(architecture))


def main() -> None:
    """Print the loops and the kernel, and run it on the CPU in several thread orders."""
    import numpy as np
    from tensordsl.codegen.cuda.emulate import compile_emulation

    s = schedule(128, 128, 64)
    source = kernel(s, "sm_80")
    print(s, source, sep="\n\n")
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-8, 9, shape).astype("float32") for shape in ((128, 64), (64, 128)))
    emulation = compile_emulation([source])
    for order in ("forward", "reverse", 1):
        for late in (False, True):
            c = np.full((128, 128), np.nan, "float32")
            emulation.run(source, {"A": a, "B": b, "C": c}, order, late)
            same = "equal to numpy" if (c == a @ b).all() else "WRONG"
            print(f"emulated, threads {order}, copies arrive {'late' if late else 'early'}: {same}")


if __name__ == "__main__":
    main()
