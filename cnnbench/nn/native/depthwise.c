/* Depthwise convolutions, which filter each channel separately, and their gradients.

   They take as long as reading and writing memory, which is fastest in its order: rows of images are
   copied to a ring of rows with zeros around them, and outputs are computed pixel by pixel. Images
   are (n, h, w, c), kernels (kh, kw, 1, c). */

#include "handler.h"
#include "vectors.h"

enum { FORWARD, INPUT_GRADIENT, KERNEL_GRADIENT }; /* passes */
enum { POSITIONS = REGISTERS < 32 ? 4 : 8 };       /* of a row, with sums in registers */
enum { MOST_TAPS = 7 };                            /* of a row, with sums in registers */
enum { SQUARE = 3 };                               /* taps of kernels with all sums in registers */

typedef struct {
  int64_t pass;
  int64_t images, height, width, channels;
  int64_t top, left;     /* rows and columns of zeros before an image */
  int64_t high, wide;    /* taps of the kernel */
  int64_t down, across;  /* stride */
  int64_t rows, columns; /* outputs */
} Sizes;

/* Images among zeros, of which a ring holds as many rows as a kernel has. */
typedef struct {
  int64_t height, width; /* of an image */
  int64_t top, left;     /* place of its first pixel */
  int64_t down, across;  /* distances of its pixels */
  int64_t ring, columns;
  int64_t channels, pixel; /* values, and with zeros up to whole vectors */
  float *values;
} Plane;

INLINE Plane plane_of(const Sizes *of) {
  int64_t pixel = padded(of->channels), above = of->high - 1 - of->top;
  if (of->pass == INPUT_GRADIENT)
    return (Plane){of->rows,     of->columns, above,    of->wide - 1 - of->left,
                   of->down,     of->across,  of->high, of->width + of->wide - 1,
                   of->channels, pixel,       NULL};
  int64_t columns = (of->columns - 1) * of->across + of->wide;
  return (Plane){of->height, of->width, of->top,      of->left, 1,   1,
                 of->high,   columns,   of->channels, pixel,    NULL};
}

INLINE int64_t ring_values(const Plane *of) { return of->ring * of->columns * of->pixel; }
INLINE int64_t kernel_values(const Sizes *of) { return of->high * of->wide * padded(of->channels); }

int64_t workspace_bytes(const Sizes *of) {
  Plane plane = plane_of(of);
  int64_t errors = of->columns * plane.pixel;
  return (ring_values(&plane) + kernel_values(of) + errors) * sizeof(float);
}

/* ---- Rows ---- */

/* Pixels with zeros up to whole vectors, at a distance in pixels. */
static void copy_pixels(const float *from, int64_t count, int64_t channels, float *to,
                        int64_t across) {
  int64_t pixel = padded(channels);
  if (across == 1 && pixel == channels) {
    memcpy(to, from, count * pixel * sizeof(float));
    return;
  }
  for (; count > 0; --count, from += channels, to += across * pixel)
    for (int64_t c = 0; c < pixel; c += LANES) *(Vector *)(to + c) = load(from + c, channels - c);
}

/* A row of a plane; NULL if it is zero. */
INLINE float *row_at(const Plane *of, int64_t row) {
  int64_t i = row - of->top;
  if (i < 0 || i % of->down || i / of->down >= of->height) return NULL;
  return of->values + row % of->ring * of->columns * of->pixel;
}

/* Reads a row from an image, as far as it is in the plane. */
static void read_row(const Plane *of, const float *image, int64_t row) {
  float *to = row_at(of, row);
  int64_t before = larger(0, (-of->left + of->across - 1) / of->across);
  int64_t after = smaller(of->width, (of->columns - of->left + of->across - 1) / of->across);
  if (!to || after <= before) return;
  const float *from = image + ((row - of->top) / of->down * of->width + before) * of->channels;
  copy_pixels(from, after - before, of->channels,
              to + (of->left + before * of->across) * of->pixel, of->across);
}

/* The kernel with padded pixels, rotated for the gradient of images. */
static void pack(const Sizes *of, const float *kernel, float *to) {
  int64_t taps = of->high * of->wide, pixel = padded(of->channels);
  for (int64_t tap = 0; tap < taps; ++tap) {
    int64_t place = of->pass == INPUT_GRADIENT ? taps - 1 - tap : tap;
    copy_pixels(kernel + tap * of->channels, 1, of->channels, to + place * pixel, 1);
  }
}

/* ---- Convolution ---- */

typedef struct {
  const float *const *rows; /* of a plane, for each row of taps; NULL if it is zero */
  const float *kernel;
  int64_t high, wide, pixel;
  int64_t across; /* distance of outputs in the plane */
} Window;

INLINE void filter_each(Window of, int64_t first, float *to, int64_t channels, int positions,
                        int small) {
  int64_t step = small ? of.pixel : of.across * of.pixel, wide = small ? SQUARE : of.wide;
  for (int64_t c = 0; c < channels; c += LANES) {
    Vector sums[POSITIONS];
    const float *tap = of.kernel + c;
    UNROLL for (int p = 0; p < positions; ++p) sums[p] = (Vector){0};
    for (int64_t i = 0; i < of.high; ++i) {
      if (!of.rows[i]) { tap += of.wide * of.pixel; continue; }
      const float *from = of.rows[i] + first * step + c;
      UNROLL for (int64_t j = 0; j < wide; ++j, from += of.pixel, tap += of.pixel)
        UNROLL for (int p = 0; p < positions; ++p)
          sums[p] += *(const Vector *)tap * *(const Vector *)(from + p * step);
    }
    UNROLL for (int p = 0; p < positions; ++p)
      store(to + p * channels + c, sums[p], channels - c);
  }
}

#define POSITION(COUNT) \
  case COUNT: if (COUNT <= POSITIONS) filter_each(of, j, to, channels, COUNT, small); break;

INLINE void filter_row(Window of, int64_t columns, int64_t channels, float *to,
                       int small) {
  for (int64_t j = 0, count; j < columns; j += count, to += count * channels) {
    count = smaller(POSITIONS, columns - j);
    switch (count) {
      POSITION(1) POSITION(2) POSITION(3) POSITION(4)
      POSITION(5) POSITION(6) POSITION(7) POSITION(8)
    }
  }
}

static void filter(Window of, int64_t columns, int64_t channels, float *to) {
  if (of.wide == SQUARE && of.across == 1) filter_row(of, columns, channels, to, 1);
  else filter_row(of, columns, channels, to, 0);
}

/* ---- Gradient of the kernel ---- */

/* Adds the products of a row of errors with the inputs of some taps, for a vector of channels. */
INLINE void correlate_each(Window of, const float *dy, int64_t columns, float *to, int64_t first,
                           int high, int wide) {
  Vector sums[SQUARE][MOST_TAPS];
  int64_t step = of.across * of.pixel, at = first * of.pixel;
  UNROLL for (int i = 0; i < high; ++i)
    UNROLL for (int j = 0; j < wide; ++j) sums[i][j] = (Vector){0};
  for (int64_t column = 0; column < columns; ++column, at += step, dy += of.pixel)
    UNROLL for (int i = 0; i < high; ++i)
      UNROLL for (int j = 0; j < wide; ++j)
        sums[i][j] += *(const Vector *)dy * *(const Vector *)(of.rows[i] + at + j * of.pixel);
  UNROLL for (int i = 0; i < high; ++i)
    UNROLL for (int j = 0; j < wide; ++j)
      *(Vector *)(to + (i * of.wide + first + j) * of.pixel) += sums[i][j];
}

#define TAPS(COUNT) \
  case COUNT: correlate_each(of, dy, columns, to, j, 1, COUNT); break;

static void correlate_row(Window of, const float *dy, int64_t columns, float *to) {
  for (int64_t j = 0, count; j < of.wide; j += count) {
    count = smaller(MOST_TAPS, of.wide - j);
    switch (count) { TAPS(1) TAPS(2) TAPS(3) TAPS(4) TAPS(5) TAPS(6) TAPS(7) }
  }
}

static void correlate(Window of, const float *dy, int64_t columns, float *to) {
  int square = of.high == SQUARE && of.wide == SQUARE && of.rows[0] && of.rows[1] && of.rows[2];
  for (int64_t c = 0; c < of.pixel; c += LANES) {
    const float *rows[of.high];
    for (int64_t i = 0; i < of.high; ++i) rows[i] = of.rows[i] ? of.rows[i] + c : NULL;
    Window part = of;
    part.rows = rows;
    if (square) correlate_each(part, dy + c, columns, to + c, 0, SQUARE, SQUARE);
    else
      for (int64_t i = 0; i < of.high; ++i, ++part.rows)
        if (*part.rows) correlate_row(part, dy + c, columns, to + c + i * of.wide * of.pixel);
  }
}

/* ---- Passes ---- */

/* Computes an image, or adds to the gradient of the kernel. */
static void pass_image(const Sizes *of, const Plane *plane, const float *from, const float *dy,
                       float *errors, float *kernel, float *to) {
  int inputs = of->pass == INPUT_GRADIENT;
  int64_t rows = inputs ? of->height : of->rows, columns = inputs ? of->width : of->columns;
  int64_t down = inputs ? 1 : of->down, read = 0;
  const float *window[of->high];
  Window row = {window, kernel, of->high, of->wide, plane->pixel, inputs ? 1 : of->across};
  for (int64_t i = 0; i < rows; ++i) {
    int64_t first = i * down, last = first + of->high;
    for (read = larger(read, first); read < last; ++read) read_row(plane, from, read);
    for (int64_t k = 0; k < of->high; ++k) window[k] = row_at(plane, first + k);
    if (of->pass != KERNEL_GRADIENT) {
      filter(row, columns, of->channels, to + i * columns * of->channels);
      continue;
    }
    copy_pixels(dy + i * columns * of->channels, columns, of->channels, errors, 1);
    correlate(row, errors, columns, kernel);
  }
}

/* Operands: images and kernel, errors and kernel, or images and errors. */
XLA_FFI_Error *handle(XLA_FFI_CallFrame *frame) {
  if (!executes(frame)) return NULL;
  const Sizes *of = ((const XLA_FFI_Array *)frame->attrs.attrs[0])->data;
  const float *from = data(frame->args.args[0]), *other = data(frame->args.args[1]);
  float *to = data(frame->rets.rets[0]);
  int64_t images = of->height * of->width * of->channels;
  int64_t outputs = of->rows * of->columns * of->channels, backward = of->pass == INPUT_GRADIENT;
  Plane plane = plane_of(of);
  plane.values = data(frame->rets.rets[1]);
  float *kernel = plane.values + ring_values(&plane), *errors = kernel + kernel_values(of);
  memset(plane.values, 0, (ring_values(&plane) + kernel_values(of)) * sizeof(float));
  if (of->pass != KERNEL_GRADIENT) pack(of, other, kernel);
  for (int64_t n = 0; n < of->images; ++n) {
    pass_image(of, &plane, from, other, errors, kernel, to);
    from += backward ? outputs : images;
    if (of->pass == KERNEL_GRADIENT) other += outputs;
    else to += backward ? images : outputs;
  }
  if (of->pass == KERNEL_GRADIENT)
    for (int64_t tap = 0; tap < of->high * of->wide; ++tap)
      memcpy(to + tap * of->channels, kernel + tap * plane.pixel, of->channels * sizeof(float));
  return NULL;
}
