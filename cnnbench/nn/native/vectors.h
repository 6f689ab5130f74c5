/* Vectors of float32, an extension of GCC and Clang. Loops over registers are unrolled. */

#pragma once

#include <stdint.h>
#include <string.h>
#if defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { LANES = 16, REGISTERS = 32 };
#elif defined(__AVX__)
enum { LANES = 8, REGISTERS = 16 };
#elif defined(__x86_64__)
enum { LANES = 4, REGISTERS = 16 };
#else
enum { LANES = 4, REGISTERS = 32 };
#endif

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline, unused))
#define UNROLL _Pragma("GCC unroll 16")

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t padded(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

enum { CACHE_LINE = 16 }; /* values */

/* Reads memory ahead. */
INLINE void fetch(const float *values, int64_t count) {
  for (int64_t i = 0; i < count; i += CACHE_LINE) __builtin_prefetch(values + i);
}

/* Short rows that are processed as one, whose width is a multiple of `vector`, a power of two. */
INLINE int64_t joined_rows(int64_t channels, int64_t vector) {
  int64_t together = vector;
  while (together > 1 && channels * together / 2 % vector == 0) together /= 2;
  return together;
}

/* A value for each of `width` columns of joined rows, from one for each channel. */
INLINE float *repeated(const float *values, int64_t channels, float *to, int64_t width) {
  for (int64_t i = 0; i < width; ++i) to[i] = values[i % channels];
  return to;
}

#if defined(__AVX512F__)
INLINE __mmask16 mask(int64_t lanes) { return lanes < LANES ? (1 << lanes) - 1 : 0xffff; }
INLINE Vector load(const float *from, int64_t lanes) {
  return (Vector)_mm512_maskz_loadu_ps(mask(lanes), from);
}
INLINE void store(float *to, Vector values, int64_t lanes) {
  _mm512_mask_storeu_ps(to, mask(lanes), (__m512)values);
}
INLINE float sum_of(Vector values) { return _mm512_reduce_add_ps((__m512)values); }
INLINE int any_nonzero(Vector values) {
  return _mm512_cmp_ps_mask((__m512)values, _mm512_setzero_ps(), _CMP_NEQ_UQ) != 0;
}
#else
/* The first lanes, and zeros. */
INLINE Vector load(const float *from, int64_t lanes) {
  Vector found = {0};
  if (lanes < LANES) memcpy(&found, from, lanes * sizeof(float));
  else found = *(const Vector *)from;
  return found;
}
INLINE void store(float *to, Vector values, int64_t lanes) {
  if (lanes < LANES) memcpy(to, &values, lanes * sizeof(float));
  else *(Vector *)to = values;
}
INLINE float sum_of(Vector values) {
  float sum = 0;
  UNROLL for (int i = 0; i < LANES; ++i) sum += values[i];
  return sum;
}
INLINE int any_nonzero(Vector values) {
  int any = 0;
  UNROLL for (int i = 0; i < LANES; ++i) any |= values[i] != 0;
  return any;
}
#endif

typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));

#if defined(__clang__)
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(a, b, ...) \
  __builtin_shuffle(a, b, (int32_t __attribute__((vector_size(16)))){__VA_ARGS__})
#endif

/* Transposes 4 x 4 values; rows are `row` values apart, and those of the result `to_row`. */
INLINE void transpose_four(const float *from, int64_t row, float scale, float *to, int64_t to_row) {
  Four rows[4], pairs[4];
  UNROLL for (int i = 0; i < 4; ++i) rows[i] = scale * *(const Four *)(from + i * row);
  UNROLL for (int i = 0; i < 2; ++i) {
    pairs[i] = PICK(rows[i], rows[i + 2], 0, 4, 1, 5);
    pairs[i + 2] = PICK(rows[i], rows[i + 2], 2, 6, 3, 7);
  }
  UNROLL for (int i = 0; i < 4; i += 2) {
    *(Four *)(to + i * to_row) = PICK(pairs[i], pairs[i + 1], 0, 4, 1, 5);
    *(Four *)(to + (i + 1) * to_row) = PICK(pairs[i], pairs[i + 1], 2, 6, 3, 7);
  }
}
