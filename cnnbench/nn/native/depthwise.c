/* Depthwise convolutions, which filter each channel separately, and their gradients.

   They take as long as reading and writing memory, which is fastest in its order: rows of images are
   copied to a ring of rows with zeros around them, and outputs are computed pixel by pixel. A batch
   norm and a relu before a convolution are computed in the ring; sums for the gradient of the norm
   are computed together with the errors of its outputs. Images are (n, h, w, c), kernels (kh, kw, 1,
   c). */

#include "functions.h"
#include "handler.h"
#include "sums.h"

enum { FORWARD, INPUT_GRADIENT, KERNEL_GRADIENT }; /* passes */
enum { POSITIONS = REGISTERS < 32 ? 4 : 8 };       /* of a row, with sums in registers */
enum { MOST_TAPS = 7 };                            /* of a row, with sums in registers */
enum { SQUARE = 3 };                               /* taps of kernels with all sums in registers */
enum { IMAGES = 8 };                               /* summed in single precision */

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

/* Computed before a convolution: a relu of (x - mean) * factor + bias. */
typedef struct {
  const float *mean, *factor, *bias; /* padded like a pixel; NULL if there is none */
  float limit;
} Norm;

INLINE int64_t ring_values(const Plane *of) { return of->ring * of->columns * of->pixel; }
INLINE int64_t kernel_values(const Sizes *of) { return of->high * of->wide * padded(of->channels); }
INLINE int64_t total_values(const Sizes *of) {
  return of->pass == KERNEL_GRADIENT ? kernel_values(of) : 0;
}

int64_t workspace_bytes(const Sizes *of) {
  Plane plane = plane_of(of);
  int64_t errors = of->columns * plane.pixel, norm = 3 * plane.pixel;
  int64_t values = ring_values(&plane) + kernel_values(of) + errors + norm;
  return total_values(of) * sizeof(double) + values * sizeof(float);
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

static void normalize(const Norm *by, int64_t pixel, float *x, int64_t count) {
  Vector zero = {0}, most = filled(by->limit);
  for (; count > 0; --count, x += pixel)
    for (int64_t c = 0; c < pixel; c += LANES) {
      Vector y = *(Vector *)(x + c) - *(const Vector *)(by->mean + c);
      y = y * *(const Vector *)(by->factor + c) + *(const Vector *)(by->bias + c);
      y = where(y < zero, zero, y); /* keeps NaN */
      *(Vector *)(x + c) = where(y > most, most, y);
    }
}

/* A row of a plane; NULL if it is zero. */
INLINE float *row_at(const Plane *of, int64_t row) {
  int64_t i = row - of->top;
  if (i < 0 || i % of->down || i / of->down >= of->height) return NULL;
  return of->values + row % of->ring * of->columns * of->pixel;
}

/* Reads a row from an image, as far as it is in the plane. */
static void read_row(const Plane *of, const Norm *norm, const float *image, int64_t row) {
  float *to = row_at(of, row);
  int64_t before = larger(0, (-of->left + of->across - 1) / of->across);
  int64_t after = smaller(of->width, (of->columns - of->left + of->across - 1) / of->across);
  if (!to || after <= before) return;
  const float *from = image + ((row - of->top) / of->down * of->width + before) * of->channels;
  to += (of->left + before * of->across) * of->pixel;
  copy_pixels(from, after - before, of->channels, to, of->across);
  if (norm->mean) normalize(norm, of->pixel, to, after - before);
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

INLINE void filter_row(Window of, int64_t columns, int64_t channels, float *to, int small) {
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

/* What a call computes with. Pointers may be NULL where a pass does not need them. */
typedef struct {
  const Sizes *of;
  Plane plane;
  Norm norm;      /* of inputs that are read */
  Rows sums;      /* of errors before a norm */
  double *totals; /* of the gradient of the kernel */
  float *kernel, *errors;
} Work;

static void read_rows(const Work *work, const float *from, int64_t first, int64_t *read,
                      const float **window) {
  int64_t high = work->of->high;
  for (*read = larger(*read, first); *read < first + high; ++*read)
    read_row(&work->plane, &work->norm, from, *read);
  for (int64_t k = 0; k < high; ++k) window[k] = row_at(&work->plane, first + k);
}

/* Outputs of an image; or errors of its inputs, and sums of those of inputs `x` of a norm. */
static void convolve_image(const Work *work, const float *from, float *to, const float *x) {
  const Sizes *of = work->of;
  int backward = of->pass == INPUT_GRADIENT;
  int64_t rows = backward ? of->height : of->rows, columns = backward ? of->width : of->columns;
  int64_t down = backward ? 1 : of->down, across = backward ? 1 : of->across, read = 0;
  const float *window[of->high];
  for (int64_t i = 0; i < rows; ++i, to += columns * of->channels) {
    Rows sums = work->sums;
    read_rows(work, from, i * down, &read, window);
    if (x) fetch(x, columns * of->channels);
    filter((Window){window, work->kernel, of->high, of->wide, work->plane.pixel, across}, columns,
           of->channels, to);
    if (!x) continue;
    sums.values = to, sums.others = x, sums.rows = columns;
    add_block(sums);
    x += columns * of->channels;
  }
}

/* Adds to the gradient of the kernel. */
static void correlate_image(const Work *work, const float *from, const float *dy) {
  const Sizes *of = work->of;
  int64_t read = 0;
  const float *window[of->high];
  Window row = {window, NULL, of->high, of->wide, work->plane.pixel, of->across};
  for (int64_t i = 0; i < of->rows; ++i, dy += of->columns * of->channels) {
    read_rows(work, from, i * of->down, &read, window);
    copy_pixels(dy, of->columns, of->channels, work->errors, 1);
    correlate(row, work->errors, of->columns, work->kernel);
  }
}

/* Moves sums in single precision to those in double. */
static void add_to_totals(const Work *work) {
  int64_t count = kernel_values(work->of);
  for (int64_t i = 0; i < count; ++i) work->totals[i] += work->kernel[i];
  memset(work->kernel, 0, count * sizeof(float));
}

static void correlate_images(const Work *work, const float *x, const float *dy, float *to) {
  const Sizes *of = work->of;
  for (int64_t n = 0; n < of->images; ++n) {
    correlate_image(work, x, dy);
    if (n % IMAGES == IMAGES - 1 || n == of->images - 1) add_to_totals(work);
    x += of->height * of->width * of->channels, dy += of->rows * of->columns * of->channels;
  }
  for (int64_t tap = 0; tap < of->high * of->wide; ++tap)
    for (int64_t c = 0; c < of->channels; ++c)
      *to++ = work->totals[tap * work->plane.pixel + c];
}

static Norm norm_of(XLA_FFI_CallFrame *frame, int64_t channels, float *memory) {
  int64_t pixel = padded(channels);
  for (int64_t k = 0; k < 3; ++k)
    copy_pixels(data(frame->args.args[2 + k]), 1, channels, memory + k * pixel, 1);
  float limit = *(const float *)data(frame->args.args[5]);
  return (Norm){memory, memory + pixel, memory + 2 * pixel, limit};
}

static Rows sums_of(XLA_FFI_CallFrame *frame, int64_t channels) {
  double *sums = data(frame->rets.rets[1]);
  memset(sums, 0, 2 * channels * sizeof(double));
  return (Rows){.middle = data(frame->args.args[2]),
                .factor = data(frame->args.args[3]),
                .bias = data(frame->args.args[4]),
                .limit = *(const float *)data(frame->args.args[5]),
                .width = channels,
                .first = sums,
                .second = sums + channels};
}

static Work prepare(XLA_FFI_CallFrame *frame, const Sizes *of) {
  Work work = {.of = of, .plane = plane_of(of)};
  work.totals = data(frame->rets.rets[frame->rets.size - 1]);
  float *memory = (float *)(work.totals + total_values(of));
  memset(work.totals, 0, total_values(of) * sizeof(double));
  work.plane.values = memory;
  work.kernel = memory + ring_values(&work.plane);
  work.errors = work.kernel + kernel_values(of);
  memset(memory, 0, (ring_values(&work.plane) + kernel_values(of)) * sizeof(float));
  if (frame->args.size < 3) return work;
  if (of->pass == INPUT_GRADIENT) work.sums = sums_of(frame, of->channels);
  else work.norm = norm_of(frame, of->channels, work.errors + of->columns * work.plane.pixel);
  return work;
}

/* Operands: images and kernel, errors and kernel, or images and errors. Also mean, factor and bias of
   a norm, and the limit of its relu; for errors of a norm, its inputs, too. Results: outputs, or a
   gradient; for errors of a norm, sums, (2, channels), too. */
XLA_FFI_Error *handle(XLA_FFI_CallFrame *frame) {
  if (!executes(frame)) return NULL;
  const Sizes *of = ((const XLA_FFI_Array *)frame->attrs.attrs[0])->data;
  const float *from = data(frame->args.args[0]), *other = data(frame->args.args[1]), *x = NULL;
  float *to = data(frame->rets.rets[0]);
  int64_t inputs = of->height * of->width * of->channels;
  int64_t outputs = of->rows * of->columns * of->channels;
  Work work = prepare(frame, of);
  if (of->pass == KERNEL_GRADIENT) {
    correlate_images(&work, from, other, to);
    return NULL;
  }
  pack(of, other, work.kernel);
  int64_t step = of->pass == INPUT_GRADIENT ? outputs : inputs;
  if (work.sums.factor) x = data(frame->args.args[6]);
  for (int64_t n = 0; n < of->images; ++n)
    convolve_image(&work, from + n * step, to + n * (inputs + outputs - step),
                   x ? x + n * inputs : NULL);
  return NULL;
}
