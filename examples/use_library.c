/* Calls a library that tensordsl built, and compares it with plain loops.
 *
 *     cc examples/use_library.c -I OUT/include -L OUT/lib -ldemo -Wl,-rpath,OUT/lib -lm -o use_library
 *     cc examples/use_library.c -I OUT/include OUT/lib/libdemo.a -lm -o use_library
 *
 * where OUT is the folder the library was built in, with the name "demo".
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "demo.h"

static float *tensor(int64_t elements, unsigned seed)
{
    float *t = malloc(sizeof(float) * (size_t)(elements ? elements : 1));
    int64_t i;
    if (!t) {
        fprintf(stderr, "out of memory\n");
        exit(2);
    }
    for (i = 0; i < elements; ++i) {
        seed = seed * 1664525u + 1013904223u; /* a linear congruential generator */
        t[i] = (float)(seed >> 8) / 8388608.0f - 1.0f;
    }
    return t;
}

/* A call with the workspace an operator asks for. */
static demo_call call_with(int64_t workspace_bytes)
{
    demo_call call = DEMO_CALL_INIT;
    if (workspace_bytes > 0) {
        call.workspace = malloc((size_t)workspace_bytes);
        call.workspace_bytes = call.workspace ? (uint64_t)workspace_bytes : 0;
    }
    return call;
}

/* Prints one line, and says whether every element lies within float32 rounding of `terms` terms. */
static int report(const char *what, int32_t code, const float *out, const double *expected, const double *magnitude,
                  int64_t elements, int64_t terms)
{
    const double unit = 1.0 / 16777216.0; /* 2^-24 */
    double worst = 0;
    int64_t i;
    if (code != DEMO_OK) {
        printf("%s: the library returned %d\n", what, (int)code);
        return 0;
    }
    for (i = 0; i < elements; ++i) {
        const double bound = 4 * unit * ((double)terms * magnitude[i] + fabs(expected[i])) + 1e-37;
        const double share = fabs((double)out[i] - expected[i]) / bound;
        if (!(share <= worst)) worst = share; /* also for NaN */
    }
    printf("%s: %s, largest error %.1f %% of the bound\n", what, worst <= 1 ? "results agree" : "RESULTS DIFFER",
           100 * worst);
    return worst <= 1;
}

static double gelu(double x)
{
    return 0.5 * x * (1 + erf(x * sqrt(0.5)));
}

/* gelu(x @ w + b): x[M, K], w[K, N], b[N] */
static int linear_gelu(int64_t M, int64_t K, int64_t N)
{
    float *x = tensor(M * K, 1), *w = tensor(K * N, 2), *b = tensor(N, 3), *y = tensor(M * N, 4);
    double *expected = malloc(sizeof(double) * (size_t)(M * N)), *magnitude = malloc(sizeof(double) * (size_t)(M * N));
    demo_call call = call_with(demo_linear_gelu_float32_workspace(M, K, N));
    int32_t code = demo_linear_gelu_float32(&call, x, w, b, y, M, K, N);
    char title[96];
    int64_t m, n, k;
    int good;
    for (m = 0; m < M; ++m)
        for (n = 0; n < N; ++n) expected[m * N + n] = b[n], magnitude[m * N + n] = fabs(b[n]);
    for (m = 0; m < M; ++m)
        for (k = 0; k < K; ++k)
            for (n = 0; n < N; ++n) {
                const double term = (double)x[m * K + k] * w[k * N + n];
                expected[m * N + n] += term;
                magnitude[m * N + n] += fabs(term);
            }
    for (m = 0; m < M * N; ++m) expected[m] = gelu(expected[m]);
    snprintf(title, sizeof title, "linear_gelu M=%d K=%d N=%d", (int)M, (int)K, (int)N);
    good = report(title, code, y, expected, magnitude, M * N, K + 8);
    free(x), free(w), free(b), free(y), free(expected), free(magnitude), free(call.workspace);
    return good;
}

/* softmax over the rows of x[M, N] */
static int softmax(int64_t M, int64_t N)
{
    float *x = tensor(M * N, 5), *y = tensor(M * N, 6);
    double *expected = malloc(sizeof(double) * (size_t)(M * N));
    demo_call call = call_with(demo_softmax_float32_workspace(M, N));
    int32_t code = demo_softmax_float32(&call, x, y, M, N);
    char title[96];
    int64_t m, n;
    int good;
    for (m = 0; m < M; ++m) {
        double most = -INFINITY, sum = 0;
        for (n = 0; n < N; ++n) most = fmax(most, x[m * N + n]);
        for (n = 0; n < N; ++n) sum += exp(x[m * N + n] - most);
        for (n = 0; n < N; ++n) expected[m * N + n] = exp(x[m * N + n] - most) / sum;
    }
    snprintf(title, sizeof title, "softmax M=%d N=%d", (int)M, (int)N);
    good = report(title, code, y, expected, expected, M * N, N + 8);
    free(x), free(y), free(expected), free(call.workspace);
    return good;
}

/* x[N, C, H, W] convolved with w[O, C, R, S], with a border of one zero on each side */
static int conv2d(int64_t N, int64_t C, int64_t H, int64_t W, int64_t O, int64_t R, int64_t S)
{
    const int64_t P = H + 2 - R + 1, Q = W + 2 - S + 1, elements = N * O * P * Q;
    float *x = tensor(N * C * H * W, 7), *w = tensor(O * C * R * S, 8), *y = tensor(elements, 9);
    double *expected = calloc((size_t)elements, sizeof(double)), *magnitude = calloc((size_t)elements, sizeof(double));
    demo_call call = call_with(demo_conv2d_float32_workspace(N, C, H, W, O, R, S));
    int32_t code = demo_conv2d_float32(&call, x, w, y, N, C, H, W, O, R, S);
    char title[96];
    int64_t n, o, c, r, s, p, q;
    int good;
    for (n = 0; n < N; ++n)
        for (o = 0; o < O; ++o)
            for (c = 0; c < C; ++c)
                for (r = 0; r < R; ++r)
                    for (s = 0; s < S; ++s)
                        for (p = 0; p < P; ++p)
                            for (q = 0; q < Q; ++q) {
                                const int64_t i = p + r - 1, j = q + s - 1, at = ((n * O + o) * P + p) * Q + q;
                                double term;
                                if (i < 0 || i >= H || j < 0 || j >= W) continue;
                                term = (double)x[((n * C + c) * H + i) * W + j] * w[((o * C + c) * R + r) * S + s];
                                expected[at] += term;
                                magnitude[at] += fabs(term);
                            }
    snprintf(title, sizeof title, "conv2d N=%d C=%d H=%d W=%d O=%d R=%d S=%d", (int)N, (int)C, (int)H, (int)W, (int)O,
             (int)R, (int)S);
    good = report(title, code, y, expected, magnitude, elements, C * R * S);
    free(x), free(w), free(y), free(expected), free(magnitude), free(call.workspace);
    return good;
}

int main(void)
{
    static const int64_t conv_sizes[][7] = DEMO_CONV2D_FLOAT32_SIZES;
    static const int64_t linear_sizes[][3] = DEMO_LINEAR_GELU_FLOAT32_SIZES;
    static const int64_t softmax_sizes[][2] = DEMO_SOFTMAX_FLOAT32_SIZES;
    size_t i;
    int good = 1;
    printf("demo %s\n", demo_version());
    if (!demo_supported()) {
        printf("this processor lacks instructions that the library was built for\n");
        return 1;
    }
    for (i = 0; i < sizeof linear_sizes / sizeof *linear_sizes; ++i)
        good &= linear_gelu(linear_sizes[i][0], linear_sizes[i][1], linear_sizes[i][2]);
    for (i = 0; i < sizeof softmax_sizes / sizeof *softmax_sizes; ++i)
        good &= softmax(softmax_sizes[i][0], softmax_sizes[i][1]);
    for (i = 0; i < sizeof conv_sizes / sizeof *conv_sizes; ++i) {
        const int64_t *d = conv_sizes[i];
        good &= conv2d(d[0], d[1], d[2], d[3], d[4], d[5], d[6]);
    }
    printf(good ? "results agree\n" : "results differ\n");
    return !good;
}
