/* Gradients of the kernels of depthwise convolutions, which filter each channel separately.

   Images are (n, h, w, c), kernels (kh, kw, 1, c). A vector of channels of an image is copied to a
   plane with zeros around it, which stays in the cache while all taps are applied. */

#include "handler.h"
#include "vectors.h"

enum { MOST_TAPS = 7 }; /* of a row in registers */

typedef struct {
  int64_t images, height, width, channels;
  int64_t top, left;     /* rows and columns of zeros before an image */
  int64_t high, wide;    /* taps of the kernel */
  int64_t down, across;  /* stride */
  int64_t rows, columns; /* outputs */
} Sizes;

/* Rows of vectors, with a place for each value that is read. */
typedef struct {
  float *values;
  int64_t rows, columns;
} Plane;

INLINE Plane plane_of(const Sizes *of) {
  int64_t rows = (of->rows - 1) * of->down + of->high;
  return (Plane){NULL, rows, (of->columns - 1) * of->across + of->wide};
}

INLINE int64_t size(Plane of) { return of.rows * of.columns * LANES; }

int64_t workspace_bytes(const Sizes *of) { return size(plane_of(of)) * sizeof(float); }

/* Copies a vector of channels of an image to its place among the zeros of a plane. */
static void place(const Sizes *of, Plane plane, const float *image, int64_t lanes) {
  int64_t rows = smaller(of->height, plane.rows - of->top);
  int64_t columns = smaller(of->width, plane.columns - of->left);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      float *to = plane.values + ((of->top + i) * plane.columns + of->left + j) * LANES;
      *(Vector *)to = load(image + (i * of->width + j) * of->channels, lanes);
    }
}

/* Adds the products of errors with the inputs of some taps of a row. */
INLINE void correlate_each(const Sizes *of, Plane plane, const float *dy, int64_t lanes, float *to,
                           int64_t i, int64_t j, int taps) {
  Vector sums[MOST_TAPS];
  UNROLL for (int k = 0; k < taps; ++k) sums[k] = (Vector){0};
  for (int64_t row = 0; row < of->rows; ++row) {
    const float *from = plane.values + ((row * of->down + i) * plane.columns + j) * LANES;
    for (int64_t column = 0; column < of->columns; ++column, from += of->across * LANES) {
      Vector error = load(dy + (row * of->columns + column) * of->channels, lanes);
      UNROLL for (int k = 0; k < taps; ++k) sums[k] += error * *(const Vector *)(from + k * LANES);
    }
  }
  UNROLL for (int k = 0; k < taps; ++k) {
    float *at = to + (i * of->wide + j + k) * of->channels;
    store(at, load(at, lanes) + sums[k], lanes);
  }
}

#define CORRELATE(TAPS) \
  case TAPS: correlate_each(of, plane, dy, lanes, to, i, j, TAPS); break;

static void correlate(const Sizes *of, Plane plane, const float *dy, int64_t lanes, float *to) {
  for (int64_t i = 0; i < of->high; ++i)
    for (int64_t j = 0; j < of->wide; j += MOST_TAPS)
      switch (smaller(of->wide - j, MOST_TAPS)) {
        CORRELATE(1) CORRELATE(2) CORRELATE(3) CORRELATE(4) CORRELATE(5) CORRELATE(6) CORRELATE(7)
      }
}

/* Operands: images and errors. */
XLA_FFI_Error *handle(XLA_FFI_CallFrame *frame) {
  if (!executes(frame)) return NULL;
  const Sizes *of = ((const XLA_FFI_Array *)frame->attrs.attrs[0])->data;
  const float *image = data(frame->args.args[0]), *dy = data(frame->args.args[1]);
  float *kernel = data(frame->rets.rets[0]);
  Plane plane = plane_of(of);
  plane.values = data(frame->rets.rets[1]);
  memset(plane.values, 0, size(plane) * sizeof(float));
  memset(kernel, 0, of->high * of->wide * of->channels * sizeof(float));
  for (int64_t n = 0; n < of->images; ++n) {
    for (int64_t c = 0; c < of->channels; c += LANES) {
      place(of, plane, image + c, of->channels - c);
      correlate(of, plane, dy + c, of->channels - c, kernel + c);
    }
    image += of->height * of->width * of->channels;
    dy += of->rows * of->columns * of->channels;
  }
  return NULL;
}
