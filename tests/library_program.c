/* A program against a generated library: results, return codes, threads.  Prints what it checked.
 * The common part of C11 and C++, compiled with every warning as an error.
 */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "demo.h"

static int failures;

static void check(const char *what, int good)
{
    printf("%s: %s\n", what, good ? "ok" : "WRONG");
    failures += !good;
}

static void code(const char *what, int32_t got, int32_t expected)
{
    if (got != expected) printf("code %d instead of %d\n", (int)got, (int)expected);
    check(what, got == expected);
}

/* ---- parallel_for over three threads */

typedef struct piece {
    void (*task)(void *context, int64_t begin, int64_t end);
    void *context;
    int64_t begin, end;
} piece;

static void *run_piece(void *argument)
{
    piece *p = (piece *)argument;
    p->task(p->context, p->begin, p->end);
    return NULL;
}

static int32_t parallel_for(void *pool, void (*task)(void *, int64_t, int64_t), void *context, int64_t count)
{
    pthread_t threads[3];
    piece pieces[3];
    int n = 0;
    ++*(int *)pool;
    for (n = 0; n < 3; ++n) {
        pieces[n].task = task;
        pieces[n].context = context;
        pieces[n].begin = count * n / 3;
        pieces[n].end = count * (n + 1) / 3;
        if (pthread_create(&threads[n], NULL, run_piece, &pieces[n])) return 99;
    }
    for (n = 0; n < 3; ++n) pthread_join(threads[n], NULL);
    return 0;
}

static int32_t refuses(void *pool, void (*task)(void *, int64_t, int64_t), void *context, int64_t count)
{
    (void)pool, (void)task, (void)context, (void)count;
    return 123;
}

/* ---- linear: out = x @ w + b */

static float value(int64_t i) { return (float)((i * 37 + 11) % 23) - 11.0f; } /* small integers: sums are exact */

static int linear(const demo_call *how, int64_t m, int64_t k, int64_t n, int offset)
{
    demo_call call = DEMO_CALL_INIT;
    const int64_t size = demo_linear_float32_workspace(m, k, n);
    char *workspace = (char *)malloc((size_t)size + 1);
    float *x = (float *)malloc(sizeof(float) * (size_t)(m * k + 1)) + offset;
    float *w = (float *)malloc(sizeof(float) * (size_t)(k * n + 1)) + offset;
    float *b = (float *)malloc(sizeof(float) * (size_t)(n + 1)) + offset;
    float *out = (float *)malloc(sizeof(float) * (size_t)(m * n + 1)) + offset;
    int good = 1;
    int64_t i, j, l;
    for (i = 0; i < m * k; ++i) x[i] = value(i);
    for (i = 0; i < k * n; ++i) w[i] = value(3 * i);
    for (i = 0; i < n; ++i) b[i] = value(5 * i);
    for (i = 0; i < m * n; ++i) out[i] = NAN;
    if (how) call = *how;
    call.workspace = workspace;
    call.workspace_bytes = (uint64_t)size;
    good &= demo_linear_float32(how || size ? &call : NULL, x, w, b, out, m, k, n) == DEMO_OK;
    for (i = 0; i < m; ++i)
        for (j = 0; j < n; ++j) {
            float sum = 0;
            for (l = 0; l < k; ++l) sum += x[i * k + l] * w[l * n + j];
            good &= out[i * n + j] == sum + b[j];
        }
    free(x - offset), free(w - offset), free(b - offset), free(out - offset), free(workspace);
    return good;
}

/* ---- smooth: needs workspace */

static int smooth(const demo_call *call)
{
    float x[66], y[64];
    int i, good = 1;
    for (i = 0; i < 66; ++i) x[i] = value(i);
    if (demo_smooth_float32(call, x, y, 64) != DEMO_OK) return 0;
    for (i = 0; i < 64; ++i) {
        const float a = x[i] + x[i + 1], b = x[i + 1] + x[i + 2];
        good &= y[i] == a * b;
    }
    return good;
}

static void *smooth_often(void *result)
{
    int64_t size = demo_smooth_float32_workspace(64);
    demo_call call = DEMO_CALL_INIT;
    int i, good = 1;
    call.workspace = malloc((size_t)size);
    call.workspace_bytes = (uint64_t)size;
    for (i = 0; i < 2000; ++i) good &= smooth(&call) && linear(&call, 8, 16, 24, 0);
    free(call.workspace);
    *(int *)result = good;
    return NULL;
}

int main(void)
{
    demo_call call = DEMO_CALL_INIT;
    float x[128], y[128];
    int calls = 0, results[2] = {0, 0}, i;
    char *raw;
    pthread_t threads[2];

    check("version", strcmp(demo_version(), DEMO_VERSION) == 0);
    check("supported", demo_supported() == 1);

    check("linear, no call", linear(NULL, 8, 16, 24, 0));
    check("linear, empty call", linear(&call, 8, 16, 24, 0));
    check("linear, other sizes", linear(NULL, 33, 7, 19, 0));
    check("linear, unaligned", linear(NULL, 8, 16, 24, 1));
    call.parallel_for = parallel_for;
    call.pool = &calls;
    check("linear, threads", linear(&call, 33, 7, 19, 0) && calls == 2);
    call.parallel_for = refuses;
    code("threads refused", demo_axpy_float32(&call, 2.0f, x, x, y, 64), 123);
    call.parallel_for = NULL;

    code("wrong sizes", demo_linear_float32(NULL, x, x, x, y, 8, 16, 25), DEMO_NO_KERNEL);
    code("sizes swapped", demo_linear_float32(NULL, x, x, x, y, 24, 16, 8), DEMO_NO_KERNEL);
    code("null input", demo_linear_float32(NULL, NULL, x, x, y, 8, 16, 24), DEMO_NULL_POINTER);
    code("null output", demo_linear_float32(NULL, x, x, x, NULL, 8, 16, 24), DEMO_NULL_POINTER);
    call.size = 8;
    code("wrong struct", demo_linear_float32(&call, x, x, x, y, 8, 16, 24), DEMO_BAD_CALL);
    call.size = sizeof(call);

    check("workspace size", demo_smooth_float32_workspace(64) > 0 && demo_smooth_float32_workspace(65) == -1);
    check("no workspace needed", demo_linear_float32_workspace(8, 16, 24) == 0);
    memset(x, 0, sizeof x);
    code("no call", demo_smooth_float32(NULL, x, y, 64), DEMO_NO_WORKSPACE);
    code("no workspace", demo_smooth_float32(&call, x, y, 64), DEMO_NO_WORKSPACE);
    raw = (char *)malloc((size_t)demo_smooth_float32_workspace(64) + 64);
    memset(raw, 0x5a, (size_t)demo_smooth_float32_workspace(64) + 64);
    call.workspace = raw;
    call.workspace_bytes = (uint64_t)demo_smooth_float32_workspace(64) - 1;
    code("small workspace", demo_smooth_float32(&call, x, y, 64), DEMO_NO_WORKSPACE);
    call.workspace_bytes += 1;
    for (i = 0; i < 64; ++i) { /* any alignment; nothing before or after is touched */
        int64_t size = demo_smooth_float32_workspace(64), j, intact = 1;
        call.workspace = raw + i;
        memset(raw, 0x5a, (size_t)size + 64);
        if (!smooth(&call)) check("smooth", 0);
        for (j = 0; j < i; ++j) intact &= raw[j] == 0x5a;
        for (j = i + size; j < size + 64; ++j) intact &= raw[j] == 0x5a;
        if (!intact) check("workspace bounds", 0);
    }
    check("smooth", smooth(&call));

    for (i = 0; i < 8; ++i) x[i] = (float)i, y[i] = NAN;
    code("scalar by value", demo_axpy_float32(NULL, 2.0f, x, x, y, 8), DEMO_OK);
    check("axpy", y[3] == 9.0f && y[7] == 21.0f);

    {
        int64_t a[5] = {7, -7, 1000000000000, 0, 5}, q[5];
        int32_t b[5] = {2, 2, 3, 4, -5}, r[5];
        code("several outputs", demo_divide_int64_int32(NULL, a, b, q, r), DEMO_OK);
        check("divide", q[0] == 3 && r[0] == 1 && q[1] == -4 && r[1] == 1 && q[2] == 333333333333 && q[4] == -1);
        code("several outputs, null", demo_divide_int64_int32(NULL, a, b, q, NULL), DEMO_NULL_POINTER);
    }
    code("no elements", demo_nothing_float32(NULL, NULL, NULL, 0), DEMO_OK);

    for (i = 0; i < 2; ++i)
        if (pthread_create(&threads[i], NULL, smooth_often, &results[i])) return 2;
    for (i = 0; i < 2; ++i) pthread_join(threads[i], NULL);
    check("two threads at once", results[0] && results[1]);

    free(raw);
    printf("%d failures\n", failures);
    return failures != 0;
}
