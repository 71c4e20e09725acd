"""The timing loop, in C so that no interpreter stands between two calls.

One text per calling convention (which parameters go by value), compiled once and kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tensordsl.autotune.native_c import shared_object
from tensordsl.codegen.source import C_CALL, C_TYPES
from tensordsl.codegen.toolchain import Toolchain

from tensordsl.targets import Target

#: One run of the reference loop at about 3 GHz and 4 cycles latency: 100 us.
REFERENCE_STEPS = 75_000

_TEXT = """\
#include <time.h>
#include <stddef.h>

typedef int32_t (*kernel)({signature});

static int64_t now_ns(void) {{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}}

/* Nanoseconds of `count` calls in a row; the kernel's last return code in *code. */
__attribute__((visibility("default")))
int64_t tuner_time(void *function, const td_call *call, void **a, int64_t count, int32_t *code) {{
    kernel run = (kernel)function;
    int32_t result = 0;
    int64_t begin = now_ns();
    for (int64_t n = 0; n < count; n++) result |= run({arguments});
    int64_t end = now_ns();
    *code = result;
    return end - begin;
}}

/* The same with the caches flushed before every call, by writing to `bytes` of other memory. */
__attribute__((visibility("default")))
int64_t tuner_time_cold(void *function, const td_call *call, void **a, int64_t count, int32_t *code,
                        char *flush, int64_t bytes) {{
    kernel run = (kernel)function;
    int32_t result = 0;
    int64_t total = 0;
    for (int64_t n = 0; n < count; n++) {{
        for (int64_t i = 0; i < bytes; i += 64) ((volatile char *)flush)[i]++;
        int64_t begin = now_ns();
        result |= run({arguments});
        total += now_ns() - begin;
    }}
    *code = result;
    return total;
}}

/* A chain of dependent multiplications and additions: only the clock and interruptions change its time. */
__attribute__((visibility("default")))
int64_t tuner_reference(int64_t steps) {{
    float x = 1.0f, m = 0.999f, c = 0.001f;
    __asm__ volatile("" : "+m"(m), "+m"(c));
    int64_t begin = now_ns();
    for (int64_t n = 0; n < steps; n++) x = x * m + c;
    int64_t end = now_ns();
    __asm__ volatile("" :: "m"(x));
    return end - begin;
}}
"""


def timing_library(by_value: Sequence[str], target: Target, tools: Toolchain | None = None) -> Path:
    """The timing loop for kernels whose n-th parameter is passed by value as ``by_value[n]`` (a C
    type) or, where that is "", as a pointer.  Raises BuildError."""
    types = [t or "void *" for t in by_value]
    values = [f"*({t} *)a[{n}]" if t else f"a[{n}]" for n, t in enumerate(by_value)]
    text = C_TYPES + C_CALL + _TEXT.format(
        signature=", ".join(["const td_call *", *types]), arguments=", ".join(["call", *values])
    )  # fmt: skip
    return shared_object(text, target, tools=tools)
