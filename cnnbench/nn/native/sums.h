/* Sums over the rows of an array of float32, in double precision: of values and their squares, or of
   errors and their products with centered values. Errors before a relu are not stored, but computed
   here from those after it. */

#pragma once

#include "vectors.h"

enum { WIDTH = LANES / 2 }; /* values of a vector in double precision */
/* Vectors of columns whose sums stay in registers: as many as possible, since memory is read faster
   in its order. */
enum { FEW = 4, VECTORS = REGISTERS < 32 ? FEW : 12 };
/* Rows that are summed at once; longer ones are better read one by one. */
enum { MOST_ROWS = 16, LONG = 3 * VECTORS * WIDTH };

typedef float Floats __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int32_t Choices __attribute__((vector_size(4 * WIDTH)));
typedef double Doubles __attribute__((vector_size(8 * WIDTH), aligned(8), may_alias));

/* Rows of `width` values, a multiple of WIDTH. Pointers may be NULL, except `values`. */
typedef struct {
  const float *values, *others;
  const float *middle, *factor, *bias; /* of each column */
  float limit;                         /* of a relu of (others - middle) * factor + bias */
  int64_t rows, width;
  double *first, *second; /* sums, (width,) */
} Rows;

INLINE Floats at(const float *values, int64_t place) { return *(const Floats *)(values + place); }

/* In double precision. GCC 12 computes `__builtin_convertvector` by halves. */
INLINE Doubles widened(Floats values) {
#if defined(__AVX512F__)
  return (Doubles)_mm512_cvtps_pd((__m256)values);
#elif defined(__AVX__)
  return (Doubles)_mm256_cvtps_pd((__m128)values);
#else
  return __builtin_convertvector(values, Doubles);
#endif
}

/* Errors before a relu of `x`. */
INLINE Floats passed(Floats error, Floats x, Floats limit) {
  Choices slopes = (x > (Floats){0}) & (x < limit);
  return (Floats)((Choices)error & slopes);
}

INLINE void add_columns(Rows of, int64_t column, int vectors) {
  Doubles first[VECTORS], second[VECTORS];
  Floats limit = (Floats){0} + of.limit;
  UNROLL for (int v = 0; v < vectors; ++v) first[v] = second[v] = (Doubles){0};
  for (int64_t row = 0; row < of.rows; ++row)
    UNROLL for (int v = 0; v < vectors; ++v) {
      int64_t here = column + v * WIDTH, place = row * of.width + here;
      Floats value = at(of.values, place), other = value;
      if (of.others) other = at(of.others, place) - at(of.middle, here);
      if (of.factor)
        value = passed(value, other * at(of.factor, here) + at(of.bias, here), limit);
      Doubles wide = widened(value);
      first[v] += wide;
      second[v] += wide * widened(other);
    }
  UNROLL for (int v = 0; v < vectors; ++v) {
    *(Doubles *)(of.first + column + v * WIDTH) += first[v];
    *(Doubles *)(of.second + column + v * WIDTH) += second[v];
  }
}

static void add_block(Rows of) {
  int64_t column = 0;
  for (; column + VECTORS * WIDTH <= of.width; column += VECTORS * WIDTH)
    add_columns(of, column, VECTORS);
  for (; column + FEW * WIDTH <= of.width; column += FEW * WIDTH) add_columns(of, column, FEW);
  for (; column < of.width; column += WIDTH) add_columns(of, column, 1);
}
