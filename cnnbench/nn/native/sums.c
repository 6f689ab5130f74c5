/* Sums over the rows of an array of float32, in double precision: of values and their squares, or of
   errors and their products with centered values. They are limited only by memory bandwidth. */

#include "handler.h"
#include "vectors.h"

enum { WIDTH = LANES / 2 }; /* values of a vector in double precision */
enum { VECTORS = 4 };       /* of columns whose sums stay in registers */
enum { MOST_ROWS = 16 };    /* summed before they are added to others: rounding errors grow with the
                               number of terms */

typedef float Floats __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef double Doubles __attribute__((vector_size(8 * WIDTH), aligned(8), may_alias));

/* Rows of `width` values, a multiple of WIDTH. */
typedef struct {
  const float *values, *others, *middle; /* `others` may be NULL */
  int64_t rows, width;
  double *first, *second; /* sums, (width,) */
} Rows;

INLINE void add_columns(Rows of, int64_t at, int vectors) {
  Doubles first[VECTORS], second[VECTORS];
  UNROLL for (int v = 0; v < vectors; ++v) first[v] = second[v] = (Doubles){0};
  for (int64_t row = 0; row < of.rows; ++row)
    UNROLL for (int v = 0; v < vectors; ++v) {
      int64_t place = row * of.width + at + v * WIDTH;
      Floats value = *(const Floats *)(of.values + place);
      Doubles wide = __builtin_convertvector(value, Doubles);
      first[v] += wide;
      if (of.others) {
        Floats other = *(const Floats *)(of.others + place);
        Floats product = value * (other - *(const Floats *)(of.middle + at + v * WIDTH));
        second[v] += __builtin_convertvector(product, Doubles);
      } else {
        second[v] += wide * wide;
      }
    }
  UNROLL for (int v = 0; v < vectors; ++v) {
    *(Doubles *)(of.first + at + v * WIDTH) += first[v];
    *(Doubles *)(of.second + at + v * WIDTH) += second[v];
  }
}

static void add_block(Rows of) {
  int64_t at = 0;
  for (; at + VECTORS * WIDTH <= of.width; at += VECTORS * WIDTH) add_columns(of, at, VECTORS);
  for (; at < of.width; at += WIDTH) add_columns(of, at, 1);
}

/* Operands: values, (rows, channels), and for the second kind of sums also others, (rows, channels),
   and their middle, (channels,). Results: both sums, (2, channels), and working memory.

   Short rows are added as a longer one whose width is a multiple of WIDTH. */
XLA_FFI_Error *handle(XLA_FFI_CallFrame *frame) {
  if (!executes(frame)) return NULL;
  const XLA_FFI_Buffer *values = frame->args.args[0];
  int64_t rows = values->dims[0], channels = values->dims[1];
  int64_t together = WIDTH;
  while (together > 1 && channels * together / 2 % WIDTH == 0) together /= 2;
  while (channels * together < VECTORS * WIDTH) together *= 2;
  int64_t width = channels * together;
  double *sums = data(frame->rets.rets[0]), *work = data(frame->rets.rets[1]);
  float *middle = (float *)(work + 2 * width);
  Rows of = {values->data, NULL, middle, 0, width, work, work + width};
  memset(sums, 0, 2 * channels * sizeof(double));
  memset(work, 0, 2 * width * sizeof(double));
  if (frame->args.size > 1) {
    of.others = data(frame->args.args[1]);
    for (int64_t i = 0; i < width; ++i)
      middle[i] = ((const float *)data(frame->args.args[2]))[i % channels];
  }
  for (int64_t left = rows / together; left > 0; left -= of.rows) {
    of.rows = left < MOST_ROWS ? left : MOST_ROWS;
    add_block(of);
    of.values += of.rows * width;
    if (of.others) of.others += of.rows * width;
  }
  for (int64_t i = 0; i < width; ++i) {
    sums[i % channels] += of.first[i];
    sums[channels + i % channels] += of.second[i];
  }
  for (int64_t i = 0; i < rows % together * channels; ++i) {
    double value = of.values[i];
    sums[i % channels] += value;
    sums[channels + i % channels] +=
        of.others ? (double)(of.values[i] * (of.others[i] - middle[i % channels])) : value * value;
  }
  return NULL;
}
