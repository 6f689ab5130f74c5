/* Convolutions of images with few channels, followed by a max pool without overlap.

   The outputs of a row of windows stay in the first-level cache, where the largest are found; no
   others are stored. The gradient of the kernel is the sum, over windows, of the error of each
   filter times the patch of its largest cell: a ninth of the products for windows of 3x3.

   Images are (n, h, w, c), kernels (kh, kw, c, filters). */

#include "handler.h"
#include "pool.h"

enum { POSITIONS = 12 }; /* of a row, with sums in registers */
enum { MOST_LINES = 12 }; /* of a kernel, with sums in registers */

typedef struct {
  int64_t gradient;
  int64_t images, height, width, channels, filters;
  int64_t top, left;    /* rows and columns of zeros before an image, not negative */
  int64_t high, wide;   /* taps of the kernel */
  int64_t down, across; /* stride of the convolution */
  Windows windows;      /* of outputs */
} Sizes;

/* ---- Images with zeros around them ---- */

INLINE int64_t line_of(const Sizes *of) { return of->wide * of->channels; }
INLINE int64_t places_down(const Sizes *of) { return of->windows.rows * of->windows.high; }
INLINE int64_t places_across(const Sizes *of) { return of->windows.columns * of->windows.wide; }
INLINE int64_t plane_rows(const Sizes *of) { return (places_down(of) - 1) * of->down + of->high; }
INLINE int64_t plane_row(const Sizes *of) {
  return ((places_across(of) - 1) * of->across + of->wide) * of->channels;
}

static void place(const Sizes *of, const float *image, float *plane) {
  int64_t before = of->left * of->channels, rows = smaller(of->height, plane_rows(of) - of->top);
  int64_t values = smaller(of->width * of->channels, plane_row(of) - before);
  for (int64_t i = 0; i < rows; ++i)
    memcpy(plane + (of->top + i) * plane_row(of) + before, image + i * of->width * of->channels,
           larger(0, values) * sizeof(float));
}

/* ---- Outputs ---- */

INLINE void correlate_each(const Sizes *of, const float *from, const float *kernel, float *to,
                           int positions, int vectors) {
  Vector sums[POSITIONS][2];
  int64_t width = padded(of->filters), step = of->across * of->channels;
  UNROLL for (int p = 0; p < positions; ++p)
    UNROLL for (int v = 0; v < vectors; ++v) sums[p][v] = (Vector){0};
  for (int64_t i = 0; i < of->high; ++i, from += plane_row(of))
    for (int64_t k = 0; k < line_of(of); ++k, kernel += width)
      UNROLL for (int p = 0; p < positions; ++p)
        UNROLL for (int v = 0; v < vectors; ++v)
          sums[p][v] += from[p * step + k] * *(const Vector *)(kernel + v * LANES);
  UNROLL for (int p = 0; p < positions; ++p)
    UNROLL for (int v = 0; v < vectors; ++v)
      *(Vector *)(to + p * width + v * LANES) = sums[p][v];
}

#define POSITION(COUNT) \
  case COUNT: correlate_each(of, from, kernel, to, COUNT, vectors); break;

INLINE void correlate(const Sizes *of, const float *from, const float *kernel, float *to,
                      int64_t positions, int vectors) {
  switch (positions) {
    POSITION(1) POSITION(2) POSITION(3) POSITION(4) POSITION(5) POSITION(6)
    POSITION(7) POSITION(8) POSITION(9) POSITION(10) POSITION(11) POSITION(12)
  }
}

/* A row of outputs (columns, padded filters). */
static void correlate_row(const Sizes *of, const float *from, const float *kernel, float *to) {
  int64_t width = padded(of->filters), columns = places_across(of);
  int64_t most = REGISTERS < 32 ? POSITIONS / 2 : POSITIONS, parts = (columns + most - 1) / most;
  for (int64_t part = 0; part < parts; ++part) {
    int64_t first = columns * part / parts, count = columns * (part + 1) / parts - first;
    const float *at = from + first * of->across * of->channels;
    for (int64_t f = 0; f < width; f += 2 * LANES) {
      float *start = to + first * width + f;
      if (width - f > LANES) correlate(of, at, kernel + f, start, count, 2);
      else correlate(of, at, kernel + f, start, count, 1);
    }
  }
}

/* ---- Working memory, in values ---- */

INLINE int64_t plane_values(const Sizes *of) { return plane_rows(of) * plane_row(of) + 2 * LANES; }
INLINE int64_t kernel_values(const Sizes *of) {
  int64_t width = of->gradient ? padded(line_of(of)) : line_of(of);
  return of->high * width * padded(of->filters);
}
INLINE int64_t outputs(const Sizes *of) {
  return of->gradient ? 0 : of->windows.high * places_across(of) * padded(of->filters);
}

int64_t workspace_bytes(const Sizes *of) {
  return (plane_values(of) + kernel_values(of) + outputs(of)) * sizeof(float);
}

static void forward(const Sizes *of, const float *x, const float *kernel, float *y, int8_t *places,
                    float *plane) {
  float *taps = plane + plane_values(of), *found = taps + kernel_values(of);
  int64_t width = padded(of->filters), row = places_across(of) * width;
  Windows windows = of->windows;
  memset(taps, 0, kernel_values(of) * sizeof(float));
  for (int64_t k = 0; k < of->high * line_of(of); ++k)
    memcpy(taps + k * width, kernel + k * of->filters, of->filters * sizeof(float));
  for (int64_t n = 0; n < of->images; ++n, x += of->height * of->width * of->channels) {
    place(of, x, plane);
    for (int64_t i = 0; i < windows.rows; ++i) {
      for (int64_t line = 0; line < windows.high; ++line) {
        int64_t start = (i * windows.high + line) * of->down * plane_row(of);
        correlate_row(of, plane + start, taps, found + line * row);
      }
      pool_row(windows, found, row, width, of->filters, y, places);
      y += windows.columns * of->filters, places += windows.columns * of->filters;
    }
  }
}

/* ---- Gradient of the kernel ---- */

#define LINES(NAME, COUNT) \
  case COUNT: NAME##_each(of, plane, dy, places, cells, to, COUNT); break;

/* Adds the errors of a filter, times the patches of the largest cells, to `lines` lines of a vector
   of taps. Sums of few lines are those of two windows in turn, so that they need not wait. */
#define ADD_PATCHES(NAME, TYPE)                                                                  \
  INLINE void NAME##_each(const Sizes *of, const float *plane, const float *dy,                  \
                          const int8_t *places, const int64_t *cells, float *to, int lines) {    \
    TYPE sums[2][MOST_LINES] = {0};                                                              \
    Windows windows = of->windows;                                                               \
    int64_t width = padded(line_of(of)), row = plane_row(of), filters = of->filters;             \
    int64_t across = windows.wide * of->across * of->channels;                                   \
    int sets = lines <= MOST_LINES / 2 ? 2 : 1;                                                  \
    for (int64_t r = 0; r < windows.rows; ++r) {                                                 \
      const float *at = plane + r * windows.high * of->down * row;                               \
      int64_t c = 0;                                                                             \
      for (; c + sets <= windows.columns; c += sets)                                             \
        UNROLL for (int set = 0; set < sets; ++set) {                                            \
          const float *patch = at + (c + set) * across + cells[places[set * filters]];           \
          UNROLL for (int i = 0; i < lines; ++i)                                                 \
            sums[set][i] += dy[set * filters] * *(const TYPE *)(patch + i * row);                \
          if (set == sets - 1) dy += sets * filters, places += sets * filters;                   \
        }                                                                                        \
      for (; c < windows.columns; ++c, dy += filters, places += filters)                         \
        UNROLL for (int i = 0; i < lines; ++i)                                                   \
          sums[0][i] += *dy * *(const TYPE *)(at + c * across + cells[*places] + i * row);       \
    }                                                                                            \
    UNROLL for (int i = 0; i < lines; ++i)                                                       \
      *(TYPE *)(to + i * width) += sums[0][i] + sums[1][i];                                      \
  }                                                                                              \
  static void NAME(const Sizes *of, const float *plane, const float *dy, const int8_t *places,   \
                   const int64_t *cells, float *to, int64_t lines) {                             \
    switch (lines) {                                                                             \
      LINES(NAME, 1) LINES(NAME, 2) LINES(NAME, 3) LINES(NAME, 4) LINES(NAME, 5) LINES(NAME, 6)  \
      LINES(NAME, 7) LINES(NAME, 8) LINES(NAME, 9) LINES(NAME, 10) LINES(NAME, 11)               \
      LINES(NAME, 12)                                                                            \
    }                                                                                            \
  }

/* Enough for rows of up to half a vector of taps. */
typedef float Half __attribute__((vector_size(2 * LANES), aligned(4), may_alias));
ADD_PATCHES(add_patches, Vector)
ADD_PATCHES(add_narrow_patches, Half)

static void add_image(const Sizes *of, const float *plane, const float *dy, const int8_t *places,
                      const int64_t *cells, float *sums) {
  int64_t width = padded(line_of(of)), row = plane_row(of);
  for (int64_t f = 0; f < of->filters; ++f)
    for (int64_t i = 0, lines; i < of->high; i += lines) {
      lines = smaller(MOST_LINES, of->high - i);
      for (int64_t k = 0; k < line_of(of); k += LANES) {
        float *to = sums + (f * of->high + i) * width + k;
        const float *from = plane + i * row + k;
        if (line_of(of) - k <= LANES / 2)
          add_narrow_patches(of, from, dy + f, places + f, cells, to, lines);
        else add_patches(of, from, dy + f, places + f, cells, to, lines);
      }
    }
}

static void gradient(const Sizes *of, const float *x, const float *dy, const int8_t *places,
                     float *kernel, float *plane) {
  float *sums = plane + plane_values(of);
  int64_t cells[MOST_CELLS], width = padded(line_of(of));
  Windows windows = of->windows;
  for (int64_t cell = 0; cell < windows.high * windows.wide; ++cell)
    cells[cell] = cell / windows.wide * of->down * plane_row(of) +
                  cell % windows.wide * of->across * of->channels;
  memset(sums, 0, kernel_values(of) * sizeof(float));
  for (int64_t n = 0; n < of->images; ++n, x += of->height * of->width * of->channels) {
    place(of, x, plane);
    add_image(of, plane, dy, places, cells, sums);
    dy += windows.rows * windows.columns * of->filters;
    places += windows.rows * windows.columns * of->filters;
  }
  for (int64_t i = 0; i < of->high; ++i)
    for (int64_t k = 0; k < line_of(of); ++k)
      for (int64_t f = 0; f < of->filters; ++f)
        *kernel++ = sums[(f * of->high + i) * width + k];
}

/* From images and kernel to maxima and places, or from images, errors and places to the gradient of
   the kernel. */
XLA_FFI_Error *handle(XLA_FFI_CallFrame *frame) {
  if (!executes(frame)) return NULL;
  const Sizes *of = ((const XLA_FFI_Array *)frame->attrs.attrs[0])->data;
  const float *x = data(frame->args.args[0]), *second = data(frame->args.args[1]);
  float *result = data(frame->rets.rets[0]);
  float *memory = data(frame->rets.rets[frame->rets.size - 1]);
  memset(memory, 0, plane_values(of) * sizeof(float));
  if (of->gradient) gradient(of, x, second, data(frame->args.args[2]), result, memory);
  else forward(of, x, second, result, data(frame->rets.rets[1]), memory);
  return NULL;
}
