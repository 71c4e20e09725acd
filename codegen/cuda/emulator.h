// Runs the text of a CUDA kernel on the CPU, with full block semantics.
//
// Each CUDA thread is a fiber that runs until it waits: at a barrier, or at its end.  That is as adversarial as a
// schedule can be (a thread gets as far ahead of the others as the barriers let it), and the order of the threads and
// blocks is forward, reverse or random.  Asynchronous copies move their bytes when issued (early) or when waited for
// (late).  Shared memory starts as NaNs and has red zones.  Faults end the launch with a message, not the process.
// Not seen: what only a GPU's weak memory order or an interleaving between two barriers would show.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <tuple>
#include <utility>
#include <vector>
#include <sys/mman.h>
// TD_EMULATOR_UCONTEXT: switch stacks by the portable functions, as on other processors.
#if !defined(__x86_64__) && !defined(TD_EMULATOR_UCONTEXT)
#define TD_EMULATOR_UCONTEXT
#endif
#if defined(TD_EMULATOR_UCONTEXT)
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;

namespace td_emulator {

// ---------------------------------------------------------------- switching stacks
#if !defined(TD_EMULATOR_UCONTEXT)
using Context = void *;  // the saved stack pointer; callee-saved registers lie on the stack
extern "C" void td_emulator_switch(Context *save, Context to);
asm(R"(.text
.weak td_emulator_switch
.type td_emulator_switch,@function
td_emulator_switch:
  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
  ret
)");
static void switch_to(Context &save, Context &to) { td_emulator_switch(&save, to); }
static void prepare(Context &c, char *stack, size_t bytes, void (*entry)()) {
  void **top = reinterpret_cast<void **>(stack + bytes - 64);
  *--top = nullptr;  // entry never returns; keeps the stack aligned as after a call
  *--top = reinterpret_cast<void *>(entry);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  c = top;
}
#else
using Context = ucontext_t;
static void switch_to(Context &save, Context &to) { swapcontext(&save, &to); }
static void prepare(Context &c, char *stack, size_t bytes, void (*entry)()) {
  getcontext(&c);
  c.uc_stack.ss_sp = stack;
  c.uc_stack.ss_size = bytes;
  c.uc_link = nullptr;
  makecontext(&c, entry, 0);
}
#endif

// ---------------------------------------------------------------- state of the block that runs
struct AsyncCopy { void *to; const void *from; int bytes; bool valid; int group; };
struct Fiber {
  Context context;
  char *stack = nullptr;
  unsigned number = 0;
  bool started = false, done = false;
  const char *waits_at = "";
  std::vector<AsyncCopy> copies;
  int group = 0;  // commit groups opened so far
};
struct SharedArray { const char *name; size_t bytes; std::vector<char> memory; };

static const size_t STACK_BYTES = 128 << 10, RED_ZONE = 64;
static const char POISON = char(0xFF);  // four of them are a NaN
static std::vector<Fiber> fibers;
static Fiber *running;
static Context scheduler;
static void (*kernel)(void *);
static void *kernel_argument;
static std::vector<char *> free_stacks;
static std::vector<SharedArray> shared_arrays;
static unsigned arrived, generation;  // of the block's barrier
static unsigned long progress;
static bool late_copies;
static std::string fault;

static void pause(const char *where) {
  running->waits_at = where;
  switch_to(running->context, scheduler);
}

// Ends the launch: the message is kept and no thread runs again.
static void fail(const std::string &what) {
  if (fault.empty())
    fault = what + " (block " + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " +
            std::to_string(blockIdx.z) + ", thread " + std::to_string(running->number) + ")";
  pause("fault");
}

static void perform(const AsyncCopy &c) {
  if (c.valid) memcpy(c.to, c.from, c.bytes);
  else memset(c.to, 0, c.bytes);
}

static void complete_groups(Fiber &f, int last) {
  size_t kept = 0;
  for (const AsyncCopy &c : f.copies)
    if (c.group <= last) perform(c);
    else f.copies[kept++] = c;
  f.copies.resize(kept);
}

static void run_thread() {
  kernel(kernel_argument);
  complete_groups(*running, running->group);
  running->done = true;
  progress++;
  switch_to(running->context, scheduler);
}

// ---------------------------------------------------------------- what kernels call
static void check_aligned(const void *p, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(p) % bytes) fail("misaligned access of " + std::to_string(bytes) + " bytes");
}

static void *shared_array(size_t id, const char *name, size_t bytes) {
  if (shared_arrays.size() <= id) shared_arrays.resize(id + 1);
  SharedArray &a = shared_arrays[id];
  if (a.memory.empty()) a = {name, bytes, std::vector<char>(bytes + 3 * RED_ZONE, POISON)};
  uintptr_t start = reinterpret_cast<uintptr_t>(a.memory.data()) + RED_ZONE;
  return reinterpret_cast<void *>((start + RED_ZONE - 1) / RED_ZONE * RED_ZONE);
}

static void copy_async(void *to, const void *from, int bytes, bool valid) {
  check_aligned(to, bytes);
  check_aligned(from, bytes);
  AsyncCopy c{to, from, bytes, valid, running->group};
  if (late_copies) running->copies.push_back(c);
  else perform(c);
}

static void commit() { running->group++; }
static void wait(int pending) { complete_groups(*running, running->group - 1 - pending); }

// ---------------------------------------------------------------- launching
static unsigned next_random(unsigned &seed) { return (seed = seed * 1664525u + 1013904223u) >> 8; }

// order: 0 forward, 1 reverse, anything else the seed of random orders
static std::vector<unsigned> visiting_order(unsigned n, unsigned order, unsigned &seed) {
  std::vector<unsigned> v(n);
  for (unsigned i = 0; i < n; i++) v[i] = order == 1 ? n - 1 - i : i;
  if (order > 1)
    for (unsigned i = n; i > 1; i--) std::swap(v[i - 1], v[next_random(seed) % i]);
  return v;
}

static void start(Fiber &f) {
  if (free_stacks.empty()) {
    void *s = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(s, 4096, PROT_NONE);  // a guard page: an overflow is a fault, not a neighbour's data
    free_stacks.push_back(static_cast<char *>(s));
  }
  f.stack = free_stacks.back();
  free_stacks.pop_back();
  f.started = true;
  prepare(f.context, f.stack, STACK_BYTES, run_thread);
}

static void release(Fiber &f) {
  if (f.stack) free_stacks.push_back(f.stack);
  f.stack = nullptr;
}

static void report_deadlock() {
  fault = "deadlock: ";
  int shown = 0;
  for (const Fiber &f : fibers)
    if (!f.done && shown++ < 3) fault += "thread " + std::to_string(f.number) + " waits at " + f.waits_at + ", ";
  fault += std::to_string(shown) + " threads wait and the others have ended";
}

static void check_red_zones() {
  for (const SharedArray &a : shared_arrays) {
    if (a.memory.empty()) continue;
    const char *begin = static_cast<char *>(shared_array(size_t(&a - shared_arrays.data()), a.name, a.bytes));
    for (const char &c : a.memory)
      if ((&c < begin || &c >= begin + a.bytes) && c != POISON) {
        fault = std::string("a write outside shared array ") + a.name;
        return;
      }
  }
}

static void run_block(unsigned n, unsigned order, unsigned &seed) {
  for (SharedArray &a : shared_arrays) std::fill(a.memory.begin(), a.memory.end(), POISON);
  fibers.assign(n, Fiber());
  for (unsigned i = 0; i < n; i++) fibers[i].number = i;
  arrived = 0;
  for (unsigned live = n; live && fault.empty();) {
    unsigned long before = progress;
    for (unsigned i : visiting_order(n, order, seed)) {
      Fiber &f = fibers[i];
      if (f.done) continue;
      if (!f.started) start(f), progress++;
      running = &f;
      threadIdx = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
      switch_to(scheduler, f.context);
      if (f.done) release(f), live--;
      if (!fault.empty()) break;
    }
    if (fault.empty() && live && progress == before) report_deadlock();
  }
  for (Fiber &f : fibers) release(f);
  if (fault.empty()) check_red_zones();
}

// A parameter of a kernel: an array, or a number passed by value.
template <class T>
struct Argument { static T from(void *array) { return *static_cast<T *>(array); } };
template <class T>
struct Argument<T *> { static T *from(void *array) { return static_cast<T *>(array); } };

// Runs every block of a grid on arrays (one per parameter); returns 0, or 1 with the fault's text in message.
template <class... P>
static int launch(void (*function)(P...), void **arrays, dim3 grid, dim3 block, unsigned order, bool late,
                  char *message, size_t capacity) {
  gridDim = grid;
  blockDim = block;
  late_copies = late;
  fault.clear();
  shared_arrays.clear();
  auto body = [&] {
    void **next = arrays;
    std::tuple<std::decay_t<P>...> arguments{Argument<std::decay_t<P>>::from(*next++)...};  // in order: braces
    std::apply(function, arguments);
  };
  kernel = [](void *b) { (*static_cast<decltype(body) *>(b))(); };
  kernel_argument = &body;
  unsigned seed = order;
  for (unsigned b : visiting_order(grid.x * grid.y * grid.z, order, seed)) {
    blockIdx = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
    run_block(block.x * block.y * block.z, order, seed);
    if (!fault.empty()) break;
  }
  snprintf(message, capacity, "%s", fault.c_str());
  return !fault.empty();
}

}  // namespace td_emulator

static void __syncthreads() {
  using namespace td_emulator;
  unsigned mine = generation;
  if (++arrived == fibers.size()) {
    arrived = 0;
    generation++;
    progress++;
  } else {
    while (generation == mine) pause("__syncthreads");
  }
}

static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
