"""Libraries whose functions take any sizes: dispatch, workspace and refusals, from a C program; rows that lie apart."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from any_size_operators import linear_relu, pairs, softmax

import tensordsl as td
from tensordsl.errors import ProgramError, TuneError

CC = next((c for c in ("gcc", "clang") if shutil.which(c)), "gcc")
pytestmark = pytest.mark.compiler

PROGRAM = r"""
#include "anysize.h"
#include <stdio.h>
#include <stdlib.h>

static float noise(unsigned *seed) { *seed = *seed * 1664525u + 1013904223u; return (float)(*seed >> 8) / 16777216.0f - 0.5f; }
static int failures = 0;
#define CHECK(what) do { if (!(what)) { failures++; printf("line %d: %s\n", __LINE__, #what); } } while (0)

static void linear(int64_t M, int64_t K, int64_t N) {
    unsigned seed = (unsigned)(M * 10007 + K * 101 + N);
    float *a = calloc((size_t)(M * K + 1), 4), *b = calloc((size_t)(K * N + 1), 4), *c = calloc((size_t)(N + 1), 4), *z = calloc((size_t)(M * N + 1), 4);
    for (int64_t i = 0; i < M * K; i++) a[i] = noise(&seed);
    for (int64_t i = 0; i < K * N; i++) b[i] = noise(&seed);
    for (int64_t i = 0; i < N; i++) c[i] = noise(&seed);
    z[M * N] = 1234.5f;
    CHECK(anysize_linear_relu_float32_workspace(M, K, N) == 0);
    CHECK(anysize_linear_relu_float32(NULL, a, b, c, z, M, K, N) == ANYSIZE_OK);
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++) {
            double s = c[n];
            for (int64_t k = 0; k < K; k++) s += (double)a[m * K + k] * b[k * N + n];
            s = s > 0 ? s : 0;
            double d = z[m * N + n] - s;
            CHECK(d < 1e-4 && d > -1e-4);
        }
    CHECK(z[M * N] == 1234.5f);
    free(a); free(b); free(c); free(z);
}

int main(void) {
    int64_t sizes[] = {0, 1, 2, 5, 16, 17, 33, 70};
    float x[64] = {0}, y[64];
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 8; j++)
            for (int l = 0; l < 8; l++) linear(sizes[i], sizes[j], sizes[l]);
    linear(4, 5, 6);
    linear(1, 5, 6);
    CHECK(anysize_linear_relu_float32(NULL, x, x, x, y, -1, 2, 2) == ANYSIZE_NO_KERNEL);
    CHECK(anysize_linear_relu_float32(NULL, NULL, x, x, y, 2, 2, 2) == ANYSIZE_NULL_POINTER);
    CHECK(anysize_linear_relu_float32(NULL, NULL, x, x, NULL, 0, 2, 2) == ANYSIZE_OK);
    CHECK(anysize_pairs_float32(NULL, x, y, 6) == ANYSIZE_NO_KERNEL);
    CHECK(anysize_pairs_float32_workspace(6) == -1);
    CHECK(anysize_pairs_float32(NULL, x, y, 8) == ANYSIZE_OK);
    CHECK(anysize_softmax_float32(NULL, x, y, 0, 0) == ANYSIZE_NO_KERNEL);
    int64_t need = anysize_softmax_float32_workspace(2, 30);
    if (need > 0) {
        anysize_call call = ANYSIZE_CALL_INIT;
        CHECK(anysize_softmax_float32(NULL, x, y, 2, 30) == ANYSIZE_NO_WORKSPACE);
        call.workspace = malloc((size_t)need);
        call.workspace_bytes = (uint64_t)need - 1;
        CHECK(anysize_softmax_float32(&call, x, y, 2, 30) == ANYSIZE_NO_WORKSPACE);
        call.workspace_bytes = (uint64_t)need;
        CHECK(anysize_softmax_float32(&call, x, y, 2, 30) == ANYSIZE_OK);
        free(call.workspace);
        for (int i = 0; i < 60; i++) CHECK(y[i] > 0.033f && y[i] < 0.034f);
    }
    int64_t known[][3] = ANYSIZE_LINEAR_RELU_FLOAT32_SIZES;
    CHECK(sizeof known == 24 && known[0][0] == 4 && known[0][1] == 5 && known[0][2] == 6);
    printf("%d failures\n", failures);
    return 0;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("anysize") / "out"
    parts = [linear_relu, linear_relu.symbolic(M=1), linear_relu.bind(M=4, K=5, N=6), pairs, softmax]
    return td.build_library(parts, out, name="anysize")


def test_a_c_program(library: Any, tmp_path: Path) -> None:
    source, program = tmp_path / "program.c", tmp_path / "program"
    source.write_text(PROGRAM)
    for binary in (library.static, library.shared):
        command = [CC, "-O1", "-std=c11", "-Wall", "-Wextra", "-Werror", "-I", str(library.header.parent), str(source),
                   str(binary), "-lm", f"-Wl,-rpath,{binary.parent}", "-o", str(program)]  # fmt: skip
        built = subprocess.run(command, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr
        done = subprocess.run([str(program)], capture_output=True, text=True, timeout=60)
        assert done.stdout == "0 failures\n"


def test_what_header_and_manifest_say(library: Any) -> None:
    header = library.header.read_text()
    for line in (
        "M=4, K=5, N=6: a[4, 5], b[5, 6], c[6], z[4, 6]",
        "M=1, any K, N: a[1, K], b[K, N], c[N], z[1, N]",
        "any M, K, N: a[M, K], b[K, N], c[N], z[M, N]",
        "any N with N % 4 == 0: x[N], z[N//2]",
    ):
        assert f" *   {line}\n" in header
    manifest = json.loads(library.manifest.read_text())
    kernels = next(o for o in manifest["operators"] if o["operator"] == "linear_relu")["kernels"]
    assert [k["dims"] for k in kernels] == [
        {"M": 4, "K": 5, "N": 6}, {"M": 1, "K": "K", "N": "N"}, {"M": "M", "K": "K", "N": "N"}
    ]  # fmt: skip
    assert kernels[1]["guard"] == "M == 1 && K >= 0 && N >= 0"


# ---------------------------------------------------------------- rows that lie apart


@td.operator("a: float32[M, K:lda], b: float32[K, N:ldb]")
def product(a: td.Tensor, b: td.Tensor) -> td.Tensor:
    return td.matmul(a, b)


@td.operator("x: float32[M, N:ld], s: float32", inplace={"y": "x"})
def scaled_rows(x: td.Tensor, s: td.Tensor) -> td.Tensor:
    return td.compute(("M", "N"), lambda i, j: x[i, j] * s, name="y")


@td.operator("x: float32[B, M, N:ld]")
def last_sums(x: td.Tensor) -> td.Tensor:
    return x.sum(axis=2)


@pytest.mark.parametrize(
    ("m", "k", "n", "lda", "ldb"), [(3, 4, 5, 4, 5), (33, 20, 70, 32, 100), (1, 5, 17, 9, 17), (0, 3, 4, 3, 4), (20, 64, 64, 70, 66)]
)  # fmt: skip
def test_parts_of_larger_arrays(m: int, k: int, n: int, lda: int, ldb: int) -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((m, lda)).astype(np.float32)[:, :k]
    b = rng.standard_normal((k, ldb)).astype(np.float32)[:, :n]
    exact = a.astype(np.float64) @ b
    any_size = td.compile(product)
    fixed = td.compile(product.bind(M=m, K=k, N=n, lda=lda, ldb=ldb))
    for kernel in (any_size, fixed):
        for x, y, z in ((a, b, exact), (a.copy(), np.asfortranarray(b), exact), (a[::-1], b, exact[::-1])):
            np.testing.assert_allclose(kernel(x, y), z, atol=1e-4)


def test_an_output_in_the_memory_of_rows_that_lie_apart() -> None:
    kernel = td.compile(scaled_rows)
    whole = np.ones((5, 20), np.float32)
    part = whole[:, :7]
    assert kernel(part, 3.0) is part
    assert (whole[:, :7] == 3).all() and (whole[:, 7:] == 1).all()
    columns = np.ones((7, 20), np.float32)
    kernel(columns.T[:, :5], 3.0)  # no rows: through a copy, there and back
    assert (columns[:5] == 3).all() and (columns[5:] == 1).all()


def test_three_dimensions() -> None:
    kernel = td.compile(last_sums)
    x = np.random.default_rng(0).standard_normal((3, 4, 20)).astype(np.float32)
    for part in (x[:, :, :9], x[:, 1:, :9], x[1:, :, :], x[:0, :, :3]):
        np.testing.assert_allclose(kernel(part), part.sum(2), atol=1e-5)


def test_complex_rows_that_lie_apart() -> None:
    @td.operator("x: complex64[M, N:ld], y: complex64[N]")
    def product(x: td.Tensor, y: td.Tensor) -> td.Tensor:
        return td.compute(("M", "N"), lambda i, j: x[i, j] * y[j], name="z")

    rng = np.random.default_rng(0)
    whole = (rng.standard_normal((5, 20)) + 1j * rng.standard_normal((5, 20))).astype(np.complex64)
    for kernel in (td.compile(product), td.compile(product.bind(M=5, N=7, ld=20))):
        np.testing.assert_allclose(kernel(whole[:, :7], whole[2, :7]), whole[:, :7] * whole[2, :7], atol=1e-5)


def test_what_a_pitch_cannot_be() -> None:
    with pytest.raises(ProgramError, match="the pitch 10 is less than the 20 elements of a row"):
        product.bind(M=33, K=20, N=70, lda=10, ldb=100)
    with pytest.raises(ProgramError, match="rank 1 has no rows"):
        td.placeholder((5,), pitch=8)
    with pytest.raises(ProgramError, match="every row of int4 begins at a byte"):
        td.placeholder((5, 3), "int4", pitch=8)
    with pytest.raises(TuneError, match="the rows of a: float32"):
        td.tune(product.bind(M=33, K=20, N=70, lda=20, ldb=100))
    assert str(product.symbolic()).splitlines()[0].endswith("for lda >= K, ldb >= N")
