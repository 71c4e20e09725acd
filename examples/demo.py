"""The whole road in a few minutes: tune three operators, check them, build a library, call it from C.

make demo            or: python examples/demo.py [--trials 48] [--seconds 35] [--out out]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # the kernels run on one core; so does numpy

import numpy as np  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from tensordsl.autotune.why import why  # noqa: E402
from tensordsl.codegen.toolchain import toolchain  # noqa: E402

import tensordsl as td  # noqa: E402
from tensordsl.targets import target  # noqa: E402

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import operators  # noqa: E402


def numpy_linear_gelu(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The tanh form of gelu: numpy has no erf."""
    y = x @ w + b
    return 0.5 * y * (1 + np.tanh(0.7978845608 * (y + 0.044715 * y * y * y)))


def numpy_softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def numpy_conv2d(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    n, _, height, width = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    columns = np.stack([padded[:, :, r : r + height, s : s + width] for r in range(3) for s in range(3)], 2)
    return (w.reshape(w.shape[0], -1) @ columns.reshape(n, -1, height * width)).reshape(n, -1, height, width)


NUMPY: dict[str, Callable[..., np.ndarray]] = {
    "linear_gelu": numpy_linear_gelu,
    "softmax": numpy_softmax,
    "conv2d": numpy_conv2d,
}


def best_us(f: Callable[[], object], seconds: float = 0.4) -> float:
    """The least time of one call in microseconds."""
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        f()
        best = min(best, time.perf_counter() - start)
    return best * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=35.0, help="per operator")
    parser.add_argument("--out", default="out")
    options = parser.parse_args()
    out = Path(options.out)
    programs = [operators.bert_ffn, operators.attention_softmax, operators.resnet_conv]
    rows = []
    for program in programs:
        result = td.tune(program, trials=options.trials, seconds=options.seconds, log_dir=out / "tuning_logs")
        rng = np.random.default_rng(0)
        inputs = [rng.standard_normal(t.shape).astype("float32") for t in program.inputs]
        wrong = [v for v in td.verify(result, program=program) if v.error]
        reference = best_us(partial(NUMPY[program.name], *inputs))
        rows.append((program, result, reference, wrong))
    table = Table(title="One core, microseconds; share of the measured multiply-add peak")
    for column in ("operator", "default", "tuned", "numpy", "tuned / numpy", "share of peak", "trials", "checked"):
        table.add_column(column, justify="left" if column == "operator" else "right")
    for program, result, reference, wrong in rows:
        table.add_row(
            f"{program.name} {'x'.join(str(v) for v in program.dims.values())}",
            f"{result.default_time_us:.0f}", f"{result.time_us:.0f}", f"{reference:.0f}",
            f"{reference / result.time_us:.2f}x faster", share(result),
            str(len(result.history)), "no" if wrong else "yes",
        )  # fmt: skip
    Console(width=120).print(table)
    library = td.build_library([result for _, result, _, _ in rows], out / "demo", name="demo")
    print(f"library: {library}")
    binary = out / "use_library"
    command = [
        *toolchain().command, "-O2", "-o", str(binary), str(HERE / "use_library.c"), f"-I{out}/demo/include",
        f"-L{out}/demo/lib", "-ldemo", "-lm", f"-Wl,-rpath,{(out / 'demo/lib').resolve()}",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    print(f"{' '.join(command)}\n{binary}")
    subprocess.run([str(binary)], check=True)
    if any(wrong for *_, wrong in rows):
        sys.exit("a kernel is wrong: see the table")


def share(result: td.TuneResult) -> str:
    """Floating-point operations per time, against the machine's measured multiply-add peak."""
    cost = why(result.schedule, target("native"), result.time_us)
    return f"{100 * cost.cost.instructions.flops / result.time_us / 1e3 / cost.peaks.gflops['float32']:.0f} %"


if __name__ == "__main__":
    main()
