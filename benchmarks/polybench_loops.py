"""The kernels of examples/polybench.py as plain C loops: the usual algorithm in the usual loop order.

A `Loops` has the arguments of its function, in order, as C declarations, and the body.  Capital letters
are sizes, known to the compiler; what is no input of the program is an output or scratch memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Loops:
    """sizes: names of the sizes, in the order of the definition.  arguments: "A[N][M]" or a scalar's name."""

    sizes: str
    arguments: str
    body: str
    type: str = "double"

    @property
    def names(self) -> list[str]:
        return [a.split("[")[0] for a in self.arguments.split()]

    def shapes(self, sizes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        known = dict(zip(self.sizes.split(), sizes))
        return {a.split("[")[0]: tuple(known[n] for n in re.findall(r"\[(\w+)\]", a)) for a in self.arguments.split()}

    def text(self, sizes: tuple[int, ...]) -> str:
        declared = ", ".join(f"{self.type} {a.replace('[', '[restrict ', 1)}" for a in self.arguments.split())
        macros = "".join(f"#define {n} {v}\n" for n, v in zip(self.sizes.split(), sizes))
        helpers = f"#include <math.h>\n{macros}#define FOR(i, a, b) for (int i = (a); i < (b); i++)\n"
        helpers += "#define DOWN(i, a, b) for (int i = (b) - 1; i >= (a); i--)\n"
        return f"{helpers}typedef {self.type} T;\nvoid f({declared}) {{\n{self.body}\n}}\n"


LOOPS: dict[str, Loops] = {
    "gemm": Loops("NI NJ NK", "alpha beta A[NI][NK] B[NK][NJ] C[NI][NJ]", """
  FOR(i, 0, NI) {
    FOR(j, 0, NJ) C[i][j] *= beta;
    FOR(k, 0, NK) FOR(j, 0, NJ) C[i][j] += alpha * A[i][k] * B[k][j];
  }"""),
    "two_mm": Loops("NI NJ NK NL", "alpha beta A[NI][NK] B[NK][NJ] C[NJ][NL] D[NI][NL] X[NI][NJ]", """
  FOR(i, 0, NI) FOR(j, 0, NJ) {
    X[i][j] = 0;
    FOR(k, 0, NK) X[i][j] += alpha * A[i][k] * B[k][j];
  }
  FOR(i, 0, NI) FOR(j, 0, NL) {
    D[i][j] *= beta;
    FOR(k, 0, NJ) D[i][j] += X[i][k] * C[k][j];
  }"""),
    "three_mm": Loops("NI NJ NK NL NM", "A[NI][NK] B[NK][NJ] C[NJ][NM] D[NM][NL] E[NI][NJ] F[NJ][NL] G[NI][NL]", """
  FOR(i, 0, NI) FOR(j, 0, NJ) {
    E[i][j] = 0;
    FOR(k, 0, NK) E[i][j] += A[i][k] * B[k][j];
  }
  FOR(i, 0, NJ) FOR(j, 0, NL) {
    F[i][j] = 0;
    FOR(k, 0, NM) F[i][j] += C[i][k] * D[k][j];
  }
  FOR(i, 0, NI) FOR(j, 0, NL) {
    G[i][j] = 0;
    FOR(k, 0, NJ) G[i][j] += E[i][k] * F[k][j];
  }"""),
    "syrk": Loops("M N", "alpha beta A[N][M] C[N][N]", """
  FOR(i, 0, N) {
    FOR(j, 0, i + 1) C[i][j] *= beta;
    FOR(k, 0, M) FOR(j, 0, i + 1) C[i][j] += alpha * A[i][k] * A[j][k];
  }"""),
    "syr2k": Loops("M N", "alpha beta A[N][M] B[N][M] C[N][N]", """
  FOR(i, 0, N) {
    FOR(j, 0, i + 1) C[i][j] *= beta;
    FOR(k, 0, M) FOR(j, 0, i + 1) C[i][j] += A[j][k] * alpha * B[i][k] + B[j][k] * alpha * A[i][k];
  }"""),
    "symm": Loops("M N", "alpha beta A[M][M] B[M][N] C[M][N]", """
  FOR(i, 0, M) FOR(j, 0, N) {
    T above = 0;
    FOR(k, 0, i) {
      C[k][j] += alpha * B[i][j] * A[i][k];
      above += B[k][j] * A[i][k];
    }
    C[i][j] = beta * C[i][j] + alpha * B[i][j] * A[i][i] + alpha * above;
  }"""),
    "trmm": Loops("M N", "alpha A[M][M] B[M][N]", """
  FOR(i, 0, M) FOR(j, 0, N) {
    FOR(k, i + 1, M) B[i][j] += A[k][i] * B[k][j];
    B[i][j] *= alpha;
  }"""),
    "doitgen": Loops("NQ NR NP", "A[NR][NQ][NP] C4[NP][NP] row[NP]", """
  FOR(r, 0, NR) FOR(q, 0, NQ) {
    FOR(p, 0, NP) {
      row[p] = 0;
      FOR(s, 0, NP) row[p] += A[r][q][s] * C4[s][p];
    }
    FOR(p, 0, NP) A[r][q][p] = row[p];
  }"""),
    "covariance": Loops("M N", "data[N][M] cov[M][M] mean[M]", """
  FOR(j, 0, M) {
    mean[j] = 0;
    FOR(i, 0, N) mean[j] += data[i][j];
    mean[j] /= N;
  }
  FOR(i, 0, N) FOR(j, 0, M) data[i][j] -= mean[j];
  FOR(i, 0, M) FOR(j, i, M) {
    cov[i][j] = 0;
    FOR(k, 0, N) cov[i][j] += data[k][i] * data[k][j];
    cov[i][j] /= N - 1.0;
    cov[j][i] = cov[i][j];
  }"""),
    "correlation": Loops("M N", "data[N][M] corr[M][M] mean[M] dev[M]", """
  FOR(j, 0, M) {
    mean[j] = 0;
    FOR(i, 0, N) mean[j] += data[i][j];
    mean[j] /= N;
  }
  FOR(j, 0, M) {
    dev[j] = 0;
    FOR(i, 0, N) dev[j] += (data[i][j] - mean[j]) * (data[i][j] - mean[j]);
    dev[j] = sqrt(dev[j] / N);
    dev[j] = dev[j] <= 0.1 ? 1 : dev[j];
  }
  FOR(i, 0, N) FOR(j, 0, M) {
    data[i][j] -= mean[j];
    data[i][j] /= sqrt((T)N) * dev[j];
  }
  FOR(i, 0, M - 1) {
    corr[i][i] = 1;
    FOR(j, i + 1, M) {
      corr[i][j] = 0;
      FOR(k, 0, N) corr[i][j] += data[k][i] * data[k][j];
      corr[j][i] = corr[i][j];
    }
  }
  corr[M - 1][M - 1] = 1;"""),
    "atax": Loops("M N", "A[M][N] x[N] y[N] Ax[M]", """
  FOR(j, 0, N) y[j] = 0;
  FOR(i, 0, M) {
    Ax[i] = 0;
    FOR(j, 0, N) Ax[i] += A[i][j] * x[j];
    FOR(j, 0, N) y[j] += A[i][j] * Ax[i];
  }"""),
    "bicg": Loops("M N", "A[N][M] p[M] r[N] s[M] q[N]", """
  FOR(j, 0, M) s[j] = 0;
  FOR(i, 0, N) {
    q[i] = 0;
    FOR(j, 0, M) {
      s[j] += r[i] * A[i][j];
      q[i] += A[i][j] * p[j];
    }
  }"""),
    "mvt": Loops("N", "x1[N] x2[N] y1[N] y2[N] A[N][N]", """
  FOR(i, 0, N) FOR(j, 0, N) x1[i] += A[i][j] * y1[j];
  FOR(i, 0, N) FOR(j, 0, N) x2[i] += A[j][i] * y2[j];"""),
    "gemver": Loops("N", "alpha beta A[N][N] u1[N] v1[N] u2[N] v2[N] x[N] y[N] z[N] w[N]", """
  FOR(i, 0, N) FOR(j, 0, N) A[i][j] += u1[i] * v1[j] + u2[i] * v2[j];
  FOR(i, 0, N) FOR(j, 0, N) x[i] += beta * A[j][i] * y[j];
  FOR(i, 0, N) x[i] += z[i];
  FOR(i, 0, N) w[i] = 0;
  FOR(i, 0, N) FOR(j, 0, N) w[i] += alpha * A[i][j] * x[j];"""),
    "gesummv": Loops("N", "alpha beta A[N][N] B[N][N] x[N] y[N]", """
  FOR(i, 0, N) {
    T a = 0;
    y[i] = 0;
    FOR(j, 0, N) {
      a += A[i][j] * x[j];
      y[i] += B[i][j] * x[j];
    }
    y[i] = alpha * a + beta * y[i];
  }"""),
    "cholesky": Loops("N", "A[N][N]", """
  FOR(i, 0, N) {
    FOR(j, 0, i) {
      FOR(k, 0, j) A[i][j] -= A[i][k] * A[j][k];
      A[i][j] /= A[j][j];
    }
    FOR(k, 0, i) A[i][i] -= A[i][k] * A[i][k];
    A[i][i] = sqrt(A[i][i]);
  }"""),
    "lu": Loops("N", "A[N][N]", """
  FOR(i, 0, N) {
    FOR(j, 0, i) {
      FOR(k, 0, j) A[i][j] -= A[i][k] * A[k][j];
      A[i][j] /= A[j][j];
    }
    FOR(j, i, N) FOR(k, 0, i) A[i][j] -= A[i][k] * A[k][j];
  }"""),
    "ludcmp": Loops("N", "A[N][N] b[N] x[N] y[N]", """
  FOR(i, 0, N) {
    FOR(j, 0, i) {
      T w = A[i][j];
      FOR(k, 0, j) w -= A[i][k] * A[k][j];
      A[i][j] = w / A[j][j];
    }
    FOR(j, i, N) {
      T w = A[i][j];
      FOR(k, 0, i) w -= A[i][k] * A[k][j];
      A[i][j] = w;
    }
  }
  FOR(i, 0, N) {
    T w = b[i];
    FOR(j, 0, i) w -= A[i][j] * y[j];
    y[i] = w;
  }
  DOWN(i, 0, N) {
    T w = y[i];
    FOR(j, i + 1, N) w -= A[i][j] * x[j];
    x[i] = w / A[i][i];
  }"""),
    "trisolv": Loops("N", "L[N][N] b[N] x[N]", """
  FOR(i, 0, N) {
    x[i] = b[i];
    FOR(j, 0, i) x[i] -= L[i][j] * x[j];
    x[i] /= L[i][i];
  }"""),
    "durbin": Loops("N", "r[N] out[N] z[N]", """
  T beta = 1, alpha = -r[0];
  out[0] = -r[0];
  FOR(k, 1, N) {
    T sum = 0;
    beta *= 1 - alpha * alpha;
    FOR(i, 0, k) sum += r[k - i - 1] * out[i];
    alpha = -(r[k] + sum) / beta;
    FOR(i, 0, k) z[i] = out[i] + alpha * out[k - i - 1];
    FOR(i, 0, k) out[i] = z[i];
    out[k] = alpha;
  }"""),
    "gramschmidt": Loops("M N", "A[M][N] Q[M][N] R[N][N]", """
  FOR(k, 0, N) {
    T norm = 0;
    FOR(i, 0, M) norm += A[i][k] * A[i][k];
    R[k][k] = sqrt(norm);
    FOR(i, 0, M) Q[i][k] = A[i][k] / R[k][k];
    FOR(j, k + 1, N) {
      R[k][j] = 0;
      FOR(i, 0, M) R[k][j] += Q[i][k] * A[i][j];
      FOR(i, 0, M) A[i][j] -= Q[i][k] * R[k][j];
    }
  }"""),
    "deriche": Loops("W H", "image[W][H] out[W][H] y1[W][H] y2[W][H]", """
  T e = exp(-0.25), k = (1 - e) * (1 - e) / (1 + 0.5 * e - e * e);
  T a1 = k, a2 = k * e * -0.75, a3 = k * e * 1.25, a4 = -k * e * e, b1 = 2 * e, b2 = -e * e;
  FOR(i, 0, W) {
    T m1 = 0, m2 = 0, x = 0;
    FOR(j, 0, H) {
      y1[i][j] = a1 * image[i][j] + a2 * x + b1 * m1 + b2 * m2;
      x = image[i][j];
      m2 = m1;
      m1 = y1[i][j];
    }
  }
  FOR(i, 0, W) {
    T p1 = 0, p2 = 0, x1 = 0, x2 = 0;
    DOWN(j, 0, H) {
      y2[i][j] = a3 * x1 + a4 * x2 + b1 * p1 + b2 * p2;
      x2 = x1;
      x1 = image[i][j];
      p2 = p1;
      p1 = y2[i][j];
    }
  }
  FOR(i, 0, W) FOR(j, 0, H) out[i][j] = y1[i][j] + y2[i][j];
  FOR(j, 0, H) {
    T m1 = 0, m2 = 0, x = 0;
    FOR(i, 0, W) {
      y1[i][j] = a1 * out[i][j] + a2 * x + b1 * m1 + b2 * m2;
      x = out[i][j];
      m2 = m1;
      m1 = y1[i][j];
    }
  }
  FOR(j, 0, H) {
    T p1 = 0, p2 = 0, x1 = 0, x2 = 0;
    DOWN(i, 0, W) {
      y2[i][j] = a3 * x1 + a4 * x2 + b1 * p1 + b2 * p2;
      x2 = x1;
      x1 = out[i][j];
      p2 = p1;
      p1 = y2[i][j];
    }
  }
  FOR(i, 0, W) FOR(j, 0, H) out[i][j] = y1[i][j] + y2[i][j];"""),
    "floyd_warshall": Loops("N", "W[N][N]", """
  FOR(k, 0, N) FOR(i, 0, N) FOR(j, 0, N)
    W[i][j] = W[i][j] < W[i][k] + W[k][j] ? W[i][j] : W[i][k] + W[k][j];""", "int"),
    "nussinov": Loops("N", "s[N] N_[N][N]", """
#define MOST(a, b) ((a) >= (b) ? (a) : (b))
  FOR(i, 0, N) FOR(j, 0, N) N_[i][j] = 0;
  DOWN(i, 0, N) FOR(j, i + 1, N) {
    N_[i][j] = MOST(N_[i][j], N_[i][j - 1]);
    N_[i][j] = MOST(N_[i][j], N_[i + 1][j]);
    if (i < j - 1) N_[i][j] = MOST(N_[i][j], N_[i + 1][j - 1] + (s[i] + s[j] == 3));
    else N_[i][j] = MOST(N_[i][j], N_[i + 1][j - 1]);
    FOR(k, i + 1, j) N_[i][j] = MOST(N_[i][j], N_[i][k] + N_[k + 1][j]);
  }""", "int"),
    "adi": Loops("STEPS N", "start[N][N] v[N][N] p[N][N] q[N][N]", """
  T (*u)[N] = start, a = -1.0 * N * N / STEPS, d = -0.5 * N * N / STEPS, b = 1 - 2 * a, e = 1 - 2 * d;
  FOR(t, 0, STEPS) {
    FOR(i, 1, N - 1) {
      v[0][i] = 1;
      p[i][0] = 0;
      q[i][0] = v[0][i];
      FOR(j, 1, N - 1) {
        p[i][j] = -a / (a * p[i][j - 1] + b);
        q[i][j] = (-d * u[j][i - 1] + (1 + 2 * d) * u[j][i] - d * u[j][i + 1] - a * q[i][j - 1]) /
                  (a * p[i][j - 1] + b);
      }
      v[N - 1][i] = 1;
      DOWN(j, 1, N - 1) v[j][i] = p[i][j] * v[j + 1][i] + q[i][j];
    }
    FOR(i, 1, N - 1) {
      u[i][0] = 1;
      p[i][0] = 0;
      q[i][0] = u[i][0];
      FOR(j, 1, N - 1) {
        p[i][j] = -d / (d * p[i][j - 1] + e);
        q[i][j] = (-a * v[i - 1][j] + (1 + 2 * a) * v[i][j] - a * v[i + 1][j] - d * q[i][j - 1]) /
                  (d * p[i][j - 1] + e);
      }
      u[i][N - 1] = 1;
      DOWN(j, 1, N - 1) u[i][j] = p[i][j] * u[i][j + 1] + q[i][j];
    }
  }"""),
    "fdtd_2d": Loops("STEPS NX NY", "ex0[NX][NY] ey0[NX][NY] hz0[NX][NY] pulse[STEPS]", """
  FOR(t, 0, STEPS) {
    FOR(j, 0, NY) ey0[0][j] = pulse[t];
    FOR(i, 1, NX) FOR(j, 0, NY) ey0[i][j] -= 0.5 * (hz0[i][j] - hz0[i - 1][j]);
    FOR(i, 0, NX) FOR(j, 1, NY) ex0[i][j] -= 0.5 * (hz0[i][j] - hz0[i][j - 1]);
    FOR(i, 0, NX - 1) FOR(j, 0, NY - 1)
      hz0[i][j] -= 0.7 * (ex0[i][j + 1] - ex0[i][j] + ey0[i + 1][j] - ey0[i][j]);
  }"""),
    "heat_3d": Loops("STEPS N", "start[N][N][N] other[N][N][N]", """
#define SWEEP(y, x) \\
  FOR(i, 1, N - 1) FOR(j, 1, N - 1) FOR(k, 1, N - 1) \\
    y[i][j][k] = 0.125 * (x[i + 1][j][k] - 2 * x[i][j][k] + x[i - 1][j][k]) + \\
                 0.125 * (x[i][j + 1][k] - 2 * x[i][j][k] + x[i][j - 1][k]) + \\
                 0.125 * (x[i][j][k + 1] - 2 * x[i][j][k] + x[i][j][k - 1]) + x[i][j][k];
  FOR(t, 0, STEPS) {
    SWEEP(other, start)
    SWEEP(start, other)
  }"""),
    "jacobi_1d": Loops("STEPS N", "start[N] other[N]", """
  FOR(t, 0, STEPS) {
    FOR(i, 1, N - 1) other[i] = 0.33333 * (start[i - 1] + start[i] + start[i + 1]);
    FOR(i, 1, N - 1) start[i] = 0.33333 * (other[i - 1] + other[i] + other[i + 1]);
  }"""),
    "jacobi_2d": Loops("STEPS N", "start[N][N] other[N][N]", """
#define SWEEP(y, x) \\
  FOR(i, 1, N - 1) FOR(j, 1, N - 1) \\
    y[i][j] = 0.2 * (x[i][j] + x[i][j - 1] + x[i][j + 1] + x[i + 1][j] + x[i - 1][j]);
  FOR(t, 0, STEPS) {
    SWEEP(other, start)
    SWEEP(start, other)
  }"""),
    "seidel_2d": Loops("STEPS N", "start[N][N]", """
  FOR(t, 0, STEPS) FOR(i, 1, N - 1) FOR(j, 1, N - 1)
    start[i][j] = (start[i - 1][j - 1] + start[i - 1][j] + start[i - 1][j + 1] + start[i][j - 1] + start[i][j] +
                   start[i][j + 1] + start[i + 1][j - 1] + start[i + 1][j] + start[i + 1][j + 1]) / 9.0;"""),
}  # fmt: skip
#: Scratch that starts as a copy of an input, because its border is read.
COPIES = {"heat_3d": ("other", "start"), "jacobi_1d": ("other", "start"), "jacobi_2d": ("other", "start")}
