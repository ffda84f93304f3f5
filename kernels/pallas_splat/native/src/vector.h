// Short vectors of floats for whichever instruction set this file is compiled for.
//
// The compiler's own vector types do arithmetic, comparison and selection on every target; loads
// and reductions go through intrinsics where GCC's generic code for them is slow. (Loads through
// memcpy, and masks combined with & or |, make GCC 12 fall back to scalar code: avoid both.)
#pragma once
#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef int32_t Ints __attribute__((vector_size(kLanes * 4)));

inline Floats broadcast(float x) { return Floats{} + x; }

// 0, 1, 2, ...
inline Floats lane_numbers() {
  Floats lanes{};
  for (int i = 0; i < kLanes; ++i) lanes[i] = static_cast<float>(i);
  return lanes;
}

#if defined(__AVX512F__)

inline Floats load(const float* p) { return (Floats)_mm512_loadu_ps(p); }
inline void store(int32_t* p, Ints x) { _mm512_storeu_si512(p, (__m512i)x); }
inline void store(float* p, Floats x) { _mm512_storeu_ps(p, (__m512)x); }
inline Floats larger(Floats x, Floats y) { return (Floats)_mm512_max_ps((__m512)x, (__m512)y); }
inline Floats smaller(Floats x, Floats y) { return (Floats)_mm512_min_ps((__m512)x, (__m512)y); }
inline Floats root(Floats x) { return (Floats)_mm512_sqrt_ps((__m512)x); }
inline bool all_negative(Floats x) { return _mm512_movepi32_mask((__m512i)x) == 0xFFFF; }
inline float sum(Floats x) { return _mm512_reduce_add_ps((__m512)x); }

#elif defined(__AVX2__)

inline Floats load(const float* p) { return (Floats)_mm256_loadu_ps(p); }
inline void store(int32_t* p, Ints x) { _mm256_storeu_si256((__m256i*)p, (__m256i)x); }
inline void store(float* p, Floats x) { _mm256_storeu_ps(p, (__m256)x); }
inline Floats larger(Floats x, Floats y) { return (Floats)_mm256_max_ps((__m256)x, (__m256)y); }
inline Floats smaller(Floats x, Floats y) { return (Floats)_mm256_min_ps((__m256)x, (__m256)y); }
inline Floats root(Floats x) { return (Floats)_mm256_sqrt_ps((__m256)x); }
inline bool all_negative(Floats x) { return _mm256_movemask_ps((__m256)x) == 0xFF; }
inline float sum(Floats x) {
  const __m256 v = (__m256)x;
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

#elif defined(__x86_64__)

inline Floats load(const float* p) { return (Floats)_mm_loadu_ps(p); }
inline void store(int32_t* p, Ints x) { _mm_storeu_si128((__m128i*)p, (__m128i)x); }
inline void store(float* p, Floats x) { _mm_storeu_ps(p, (__m128)x); }
inline Floats larger(Floats x, Floats y) { return (Floats)_mm_max_ps((__m128)x, (__m128)y); }
inline Floats smaller(Floats x, Floats y) { return (Floats)_mm_min_ps((__m128)x, (__m128)y); }
inline Floats root(Floats x) { return (Floats)_mm_sqrt_ps((__m128)x); }
inline bool all_negative(Floats x) { return _mm_movemask_ps((__m128)x) == 0xF; }
inline float sum(Floats x) {
  __m128 s = (__m128)x;
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

#else

typedef int32_t LooseInts __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
inline void store(int32_t* p, Ints x) { *reinterpret_cast<LooseInts*>(p) = x; }
typedef float LooseFloats __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
inline Floats load(const float* p) { return *reinterpret_cast<const LooseFloats*>(p); }
inline void store(float* p, Floats x) { *reinterpret_cast<LooseFloats*>(p) = x; }
inline Floats larger(Floats x, Floats y) { return x > y ? x : y; }
inline Floats smaller(Floats x, Floats y) { return x < y ? x : y; }
inline Floats root(Floats x) {
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
}
#if defined(__aarch64__)
inline bool all_negative(Floats x) { return vmaxvq_s32((int32x4_t)x) < 0; }
#else
inline bool all_negative(Floats x) {
  const Ints bits = (Ints)x;
  return (bits[0] & bits[1] & bits[2] & bits[3]) < 0;
}
#endif
inline float sum(Floats x) { return (x[0] + x[2]) + (x[1] + x[3]); }

#endif

// Towards zero.
inline Ints to_ints(Floats x) { return __builtin_convertvector(x, Ints); }

// -|x|, by the sign bit.
inline Floats negative(Floats x) { return (Floats)((Ints)x | INT32_MIN); }

// 2^x for x in [-126, 0], to about 1e-7 relative: the nearest integer, then a minimax polynomial.
inline Floats exp2(Floats x) {
  Floats n = x + 12582912.f;  // 1.5 * 2^23 leaves the rounded integer in the low mantissa bits.
  const Ints exponent = (Ints)n << 23;
  n = n - 12582912.f;
  const Floats r = x - n;
  Floats p = broadcast(0.0013276471992533978f);
  p = p * r + 0.009675541334453752f;
  p = p * r + 0.055507132734978495f;
  p = p * r + 0.24022119723839974f;
  p = p * r + 0.6931469670647609f;
  p = p * r + 1.0000000716546849f;
  return (Floats)((Ints)p + exponent);
}

}  // namespace
