/* Sums over the rows of an array of float32, in double precision: of values and their squares, or of
   errors and their products with centered values. They are limited only by memory bandwidth. Errors
   before a relu are not stored, but computed here from those after it. */

#include "handler.h"
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

/* A value for each of `width` columns, from one for each channel. */
static float *repeated(const float *values, int64_t channels, float *to, int64_t width) {
  for (int64_t i = 0; i < width; ++i) to[i] = values[i % channels];
  return to;
}

/* Operands: values, (rows, channels). For the second kind of sums also others, (rows, channels), and
   their middle, (channels,); for errors after a relu, also its factor and bias, (channels,), and its
   limit as an attribute. Results: both sums, (2, channels), and working memory.

   Short rows are added as a longer one whose width is a multiple of WIDTH. */
XLA_FFI_Error *handle(XLA_FFI_CallFrame *frame) {
  if (!executes(frame)) return NULL;
  const XLA_FFI_Buffer *values = frame->args.args[0];
  int64_t rows = values->dims[0], channels = values->dims[1];
  int64_t together = WIDTH;
  while (together > 1 && channels * together / 2 % WIDTH == 0) together /= 2;
  while (channels * together < FEW * WIDTH) together *= 2;
  int64_t width = channels * together;
  double *sums = data(frame->rets.rets[0]), *work = data(frame->rets.rets[1]);
  Rows of = {.values = values->data, .width = width, .first = work, .second = work + width};
  memset(sums, 0, 2 * channels * sizeof(double));
  memset(work, 0, 2 * width * sizeof(double));
  const float *columns[3] = {NULL};
  for (int64_t i = 2; i < frame->args.size; ++i)
    columns[i - 2] = repeated(data(frame->args.args[i]), channels,
                              (float *)(work + 2 * width) + (i - 2) * width, width);
  of.middle = columns[0], of.factor = columns[1], of.bias = columns[2];
  if (of.middle) of.others = data(frame->args.args[1]);
  if (of.factor) of.limit = *(const float *)((const XLA_FFI_Scalar *)frame->attrs.attrs[0])->value;
  for (int64_t left = rows / together; left > 0; left -= of.rows) {
    of.rows = smaller(left, width < LONG ? MOST_ROWS : 1);
    add_block(of);
    of.values += of.rows * width;
    if (of.others) of.others += of.rows * width;
  }
  for (int64_t i = 0; i < width; ++i) {
    sums[i % channels] += of.first[i];
    sums[channels + i % channels] += of.second[i];
  }
  for (int64_t i = 0; i < rows % together * channels; ++i) {
    float value = of.values[i], other = of.others ? of.others[i] - of.middle[i] : value;
    float y = of.factor ? other * of.factor[i] + of.bias[i] : 0;
    if (of.factor && !(y > 0 && y < of.limit)) value = 0;
    sums[i % channels] += value;
    sums[channels + i % channels] += (double)value * other;
  }
  return NULL;
}
