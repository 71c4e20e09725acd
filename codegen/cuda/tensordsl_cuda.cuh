// All that generated CUDA uses besides the language itself.  nvcc and NVRTC see PTX, any C++17 compiler sees twins that
// run on the CPU (emulator.h), so one kernel text serves both.
#pragma once

#if defined(__CUDACC__)

#define TD_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define TD_CHECK_ALIGNED(pointer, bytes)
// One block of shared memory whose size is given at launch (static arrays end at 48 KiB).
extern __shared__ __align__(16) unsigned char td_dynamic_shared[];
#define TD_SHARED_DYNAMIC(type, name, count, offset) \
  type *const name = reinterpret_cast<type *>(td_dynamic_shared + (offset))

// Bytes is 4, 8 or 16; a copy that is not valid reads nothing and writes zeros.
template <int Bytes>
__device__ __forceinline__ void td_copy_async(void *to, const void *from, bool valid = true) {
  unsigned shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
  int size = valid ? Bytes : 0;
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(size) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared), "l"(from), "n"(Bytes), "r"(size)
                 : "memory");
}
__device__ __forceinline__ void td_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Pending>
__device__ __forceinline__ void td_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory"); }

__device__ __forceinline__ float td_infinity(float) { return __int_as_float(0x7f800000); }
__device__ __forceinline__ float td_nan(float) { return __int_as_float(0x7fffffff); }
__device__ __forceinline__ double td_infinity(double) { return __longlong_as_double(0x7ff0000000000000ll); }
__device__ __forceinline__ double td_nan(double) { return __longlong_as_double(0x7fffffffffffffffll); }

#else

#include "emulator.h"
#define TD_SHARED(type, name, count) \
  type *const name = static_cast<type *>(td_emulator::shared_array(__COUNTER__, #name, sizeof(type) * (count)))
#define TD_SHARED_DYNAMIC(type, name, count, offset) TD_SHARED(type, name, count)
#define TD_CHECK_ALIGNED(pointer, bytes) td_emulator::check_aligned(pointer, bytes)

template <int Bytes>
static inline void td_copy_async(void *to, const void *from, bool valid = true) {
  td_emulator::copy_async(to, from, Bytes, valid);
}
static inline void td_commit() { td_emulator::commit(); }
template <int Pending>
static inline void td_wait() { td_emulator::wait(Pending); }

static inline float td_infinity(float) { return HUGE_VALF; }
static inline float td_nan(float) { return NAN; }
static inline double td_infinity(double) { return HUGE_VAL; }
static inline double td_nan(double) { return NAN; }

#endif

// Neighbouring elements moved by one instruction.
template <class T, int N>
struct alignas(sizeof(T) * N) td_vector { T lane[N]; };

template <int N, class T>
static __device__ __forceinline__ td_vector<T, N> td_load(const T *p) {
  TD_CHECK_ALIGNED(p, sizeof(T) * N);
  return *reinterpret_cast<const td_vector<T, N> *>(p);
}
template <int N, class T>
static __device__ __forceinline__ void td_store(T *p, const td_vector<T, N> &v) {
  TD_CHECK_ALIGNED(p, sizeof(T) * N);
  *reinterpret_cast<td_vector<T, N> *>(p) = v;
}

// A NaN operand gives a NaN, as in numpy.
template <class T>
static __device__ __forceinline__ T td_max(T a, T b) { return a > b || a != a ? a : b; }
template <class T>
static __device__ __forceinline__ T td_min(T a, T b) { return a < b || a != a ? a : b; }
template <class T>
static __device__ __forceinline__ T td_abs(T a) { return a < 0 ? T(0) - a : a; }
static __device__ __forceinline__ float td_abs(float a) { return fabsf(a); }  // -0.0 has a sign to lose
static __device__ __forceinline__ double td_abs(double a) { return fabs(a); }

// Python's // and % with numpy's values where the divisor is 0: the remainder has the divisor's sign.
template <class T>
struct td_same { using type = T; };
template <class T>
static __device__ __forceinline__ T td_mod(T a, typename td_same<T>::type b) {
  if (b == 0 || (T(-1) < 0 && b + 1 == 0)) return 0;  // the least integer by -1 does not fit
  T r = a % b;
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
template <class T>
static __device__ __forceinline__ T td_floordiv(T a, typename td_same<T>::type b) {
  if (b == 0) return 0;
  if (T(-1) < 0 && b + 1 == 0) return T(0) - a;
  return a / b - (a % b != 0 && (a < 0) != (b < 0));
}
static __device__ __forceinline__ double td_mod(double a, double b) {
  double r = fmod(a, b);
  if (r != 0 && (r < 0) != (b < 0)) r += b;
  return r != 0 ? r : copysign(r, b);
}
static __device__ __forceinline__ double td_floordiv(double a, double b) {
  if (b == 0) return a / b;
  double r = fmod(a, b);
  if (r != 0 && (r < 0) != (b < 0)) r += b;
  double d = (a - r) / b, q = floor(d);
  return d - q > 0.5 ? q + 1 : q;
}
static __device__ __forceinline__ float td_mod(float a, float b) {
  float r = fmodf(a, b);
  if (r != 0 && (r < 0) != (b < 0)) r += b;
  return r != 0 ? r : copysignf(r, b);
}
static __device__ __forceinline__ float td_floordiv(float a, float b) {
  if (b == 0) return a / b;
  float r = fmodf(a, b);
  if (r != 0 && (r < 0) != (b < 0)) r += b;
  float d = (a - r) / b, q = floorf(d);
  return d - q > 0.5f ? q + 1 : q;
}
