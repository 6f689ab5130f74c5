/* Gradients of images with few channels by a convolution with a stride of 1.

   Each value is the sum of products of the errors of some outputs with a kernel: of long rows of
   contiguous values, whose partial sums stay in registers. Images are (n, h, w, c), kernels (kh, kw,
   c, filters). */

#include "handler.h"
#include "vectors.h"

enum { POSITIONS = 6 }; /* of a row, with sums in registers */

typedef struct {
  int64_t images, height, width, channels, filters;
  int64_t top, left;     /* rows and columns of zeros before an image */
  int64_t high, wide;    /* taps of the kernel */
  int64_t rows, columns; /* outputs */
} Sizes;

/* A plane has the errors of an image in padded pixels, and zeros around them, so that each value has
   a window of errors. */
INLINE int64_t pixel(const Sizes *of) { return padded(of->filters); }
INLINE int64_t plane_row(const Sizes *of) { return (of->width + of->wide - 1) * pixel(of); }
INLINE int64_t plane_values(const Sizes *of) {
  return (of->height + of->high - 1) * plane_row(of);
}
INLINE int64_t line_of(const Sizes *of) { return of->wide * pixel(of); }
INLINE int64_t kernel_values(const Sizes *of) { return of->channels * of->high * line_of(of); }

int64_t workspace_bytes(const Sizes *of) {
  return (plane_values(of) + kernel_values(of)) * sizeof(float);
}

static void place(const Sizes *of, const float *dy, float *plane) {
  int64_t above = of->high - 1 - of->top, before = of->wide - 1 - of->left;
  for (int64_t i = larger(0, -above); i < smaller(of->rows, of->height + of->top); ++i)
    for (int64_t j = larger(0, -before); j < smaller(of->columns, of->width + of->left); ++j)
      memcpy(plane + (above + i) * plane_row(of) + (before + j) * pixel(of),
             dy + (i * of->columns + j) * of->filters, of->filters * sizeof(float));
}

/* The rotated kernel, (channels, high, wide, padded filters). */
static void rotate(const Sizes *of, const float *kernel, float *to) {
  memset(to, 0, kernel_values(of) * sizeof(float));
  for (int64_t tap = of->high * of->wide; tap--; to += pixel(of))
    for (int64_t c = 0; c < of->channels; ++c)
      memcpy(to + c * of->high * line_of(of), kernel + (tap * of->channels + c) * of->filters,
             of->filters * sizeof(float));
}

INLINE void correlate_each(const Sizes *of, const float *from, const float *kernel, float *to,
                           int positions) {
  Vector sums[POSITIONS];
  UNROLL for (int p = 0; p < positions; ++p) sums[p] = (Vector){0};
  for (int64_t i = 0; i < of->high; ++i, from += plane_row(of))
    for (int64_t k = 0; k < line_of(of); k += LANES, kernel += LANES) {
      Vector taps = *(const Vector *)kernel;
      UNROLL for (int p = 0; p < positions; ++p)
        sums[p] += taps * *(const Vector *)(from + p * pixel(of) + k);
    }
  UNROLL for (int p = 0; p < positions; ++p) to[p * of->channels] = sum_of(sums[p]);
}

#define POSITION(COUNT) \
  case COUNT: correlate_each(of, from, kernel, to, COUNT); break;

static void correlate(const Sizes *of, const float *from, const float *kernel, float *to,
                      int64_t positions) {
  switch (positions) {
    POSITION(1) POSITION(2) POSITION(3) POSITION(4) POSITION(5) POSITION(6)
  }
}

/* Operands: errors and kernel. */
XLA_FFI_Error *handle(XLA_FFI_CallFrame *frame) {
  if (!executes(frame)) return NULL;
  const Sizes *of = ((const XLA_FFI_Array *)frame->attrs.attrs[0])->data;
  const float *dy = data(frame->args.args[0]);
  float *x = data(frame->rets.rets[0]), *plane = data(frame->rets.rets[1]);
  float *kernel = plane + plane_values(of);
  memset(plane, 0, plane_values(of) * sizeof(float));
  rotate(of, data(frame->args.args[1]), kernel);
  for (int64_t n = 0; n < of->images; ++n, dy += of->rows * of->columns * of->filters) {
    place(of, dy, plane);
    for (int64_t i = 0; i < of->height; ++i)
      for (int64_t j = 0, count; j < of->width; j += count, x += count * of->channels) {
        count = smaller(POSITIONS, of->width - j);
        const float *from = plane + i * plane_row(of) + j * pixel(of);
        for (int64_t c = 0; c < of->channels; ++c)
          correlate(of, from, kernel + c * of->high * line_of(of), x + c, count);
      }
  }
  return NULL;
}
