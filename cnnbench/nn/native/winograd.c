/* Convolutions with 3x3 kernels and a stride of 1, and their gradients, by Winograd's algorithm
   F(4x4, 3x3): 36 products for 16 outputs instead of 144. See Lavin & Gray, "Fast Algorithms for
   Convolutional Neural Networks" (2015), https://arxiv.org/abs/1509.09308. The points are 0, 1, -1,
   2, -2 and infinity.

   Images are (n, h, w, c). Outputs are divided into tiles of 4x4, which read 6x6 inputs. A block of
   tiles stays in the second-level cache: its inputs are transformed to 36 matrices (tiles,
   channels), multiplied by those of the kernel, (channels, filters), and transformed to outputs.
   Rows of matrices are padded to whole vectors.

   Vectors are an extension of GCC and Clang; loops over registers are unrolled. */

#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "handler.h"

#if defined(__AVX512F__)
enum { LANES = 16, REGISTERS = 32 };
#elif defined(__AVX__)
enum { LANES = 8, REGISTERS = 16 };
#else
enum { LANES = 4, REGISTERS = 32 };
#endif
enum { TAPS = 3, TILE = 4, SIDE = TILE + TAPS - 1, POINTS = SIDE * SIDE };
enum { ROWS = 12, FEW_ROWS = 4 };       /* of a product whose sums stay in registers */
enum { BLOCK_VALUES = 1 << 16 };        /* 256 KiB */
enum { LEAST_TILES = 12, MOST_TILES = 60 }; /* of a block */
enum { CACHE_LINE = 16 };               /* values */

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline, unused))
#define UNROLL _Pragma("GCC unroll 36")

enum { FORWARD, INPUT_GRADIENT, KERNEL_GRADIENT };

typedef struct {
  int64_t pass;
  int64_t images, height, width; /* inputs, or errors for the gradient of inputs */
  int64_t top, left;             /* rows and columns of zeros before them */
  int64_t rows, columns;         /* outputs */
  int64_t channels, filters;
} Sizes;

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t padded(int64_t count) { return (count + LANES - 1) / LANES * LANES; }
INLINE uint32_t down(const Sizes *of) { return (of->rows + TILE - 1) / TILE; }
INLINE uint32_t across(const Sizes *of) { return (of->columns + TILE - 1) / TILE; }
INLINE int64_t num_tiles(const Sizes *of) { return of->images * down(of) * across(of); }

/* ---- Vectors ---- */

#if defined(__AVX512F__)
INLINE __mmask16 mask(int64_t lanes) { return lanes < LANES ? (1 << lanes) - 1 : 0xffff; }
INLINE Vector load(const float *from, int64_t lanes) {
  return (Vector)_mm512_maskz_loadu_ps(mask(lanes), from);
}
INLINE void store(float *to, Vector values, int64_t lanes) {
  _mm512_mask_storeu_ps(to, mask(lanes), (__m512)values);
}
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
INLINE int any_nonzero(Vector values) {
  int any = 0;
  UNROLL for (int i = 0; i < LANES; ++i) any |= values[i] != 0;
  return any;
}
#endif

/* ---- Transforms along one axis, of vectors at a distance ---- */

typedef void Transform(Vector *to, const Vector *from, int step);

/* B^T of 6 inputs. */
INLINE void of_inputs(Vector *to, const Vector *from, int step) {
  Vector a = from[0], b = from[step], c = from[2 * step], d = from[3 * step], e = from[4 * step];
  Vector even = e - 4 * c, odd = d - 4 * b, even2 = e - c, odd2 = 2 * (d - b);
  to[0] = 4 * a - 5 * c + e;
  to[step] = even + odd;
  to[2 * step] = even - odd;
  to[3 * step] = even2 + odd2;
  to[4 * step] = even2 - odd2;
  to[5 * step] = 4 * b - 5 * d + from[5 * step];
}

/* A^T of 6 products. */
INLINE void of_products(Vector *to, const Vector *from, int step) {
  Vector b = from[step], c = from[2 * step], d = from[3 * step], e = from[4 * step];
  Vector even = b + c, odd = b - c, even2 = d + e, odd2 = d - e;
  to[0] = from[0] + even + even2;
  to[step] = odd + 2 * odd2;
  to[2 * step] = even + 4 * even2;
  to[3 * step] = odd + 8 * odd2 + from[5 * step];
}

/* A of 4 errors. */
INLINE void of_errors(Vector *to, const Vector *from, int step) {
  Vector a = from[0], b = from[step], c = from[2 * step], d = from[3 * step];
  Vector even = a + c, odd = b + d, even2 = a + 4 * c, odd2 = 2 * b + 8 * d;
  to[0] = a;
  to[step] = even + odd;
  to[2 * step] = even - odd;
  to[3 * step] = even2 + odd2;
  to[4 * step] = even2 - odd2;
  to[5 * step] = d;
}

/* G of 3 taps. */
INLINE void of_taps(Vector *to, const Vector *from, int step) {
  Vector a = from[0], b = from[step], c = from[2 * step];
  Vector even = (a + c) * (-1 / 6.0f), odd = b * (-1 / 6.0f);
  Vector even2 = a * (1 / 24.0f) + c * (1 / 6.0f), odd2 = b * (1 / 12.0f);
  to[0] = a * 0.25f;
  to[step] = even + odd;
  to[2 * step] = even - odd;
  to[3 * step] = even2 + odd2;
  to[4 * step] = even2 - odd2;
  to[5 * step] = c;
}

/* G^T of 6 sums. */
INLINE void of_sums(Vector *to, const Vector *from, int step) {
  Vector b = from[step], c = from[2 * step], d = from[3 * step], e = from[4 * step];
  Vector even = (b + c) * (-1 / 6.0f), odd = (c - b) * (1 / 6.0f);
  Vector even2 = d + e, odd2 = (d - e) * (1 / 12.0f);
  to[0] = from[0] * 0.25f + even + even2 * (1 / 24.0f);
  to[step] = odd + odd2;
  to[2 * step] = even + even2 * (1 / 6.0f) + from[5 * step];
}

/* Transforms columns and rows in place, from (before, before) to (after, after) of (6, 6). */
INLINE void transform(Vector *values, int before, int after, Transform *along) {
  UNROLL for (int j = 0; j < before; ++j) along(values + j, values + j, SIDE);
  UNROLL for (int i = 0; i < after; ++i) along(values + SIDE * i, values + SIDE * i, 1);
}

/* ---- Tiles ---- */

typedef struct {
  int64_t image, row, column; /* of the first output */
} Tile;

INLINE Tile tile_of(const Sizes *of, uint32_t number) {
  uint32_t row = number / across(of), column = number % across(of);
  return (Tile){row / down(of), row % down(of) * TILE, column * TILE};
}

/* The addresses of (side, side) pixels, those of `zeros` outside of the image. */
INLINE void find_pixels(const float **pixels, int side, const float *image, int64_t row,
                        int64_t column, int64_t height, int64_t width, int64_t channels,
                        const float *zeros) {
  for (int i = 0; i < side; ++i)
    for (int j = 0; j < side; ++j) {
      int inside = row + i >= 0 && row + i < height && column + j >= 0 && column + j < width;
      int64_t pixel = (row + i) * width + column + j;
      pixels[SIDE * i + j] = inside ? image + pixel * channels : zeros;
    }
}

/* Transforms pixels to a row of each matrix; these are `plane` values apart. */
INLINE void transform_pixels(float *to, int64_t plane, const float *const *pixels, int side,
                             Transform *along, int64_t channels) {
  for (int64_t c = 0; c < channels; c += LANES) {
    Vector values[POINTS];
    UNROLL for (int i = 0; i < side; ++i)
      UNROLL for (int j = 0; j < side; ++j)
        values[SIDE * i + j] = load(pixels[SIDE * i + j] + c, channels - c);
    transform(values, side, SIDE, along);
    UNROLL for (int p = 0; p < POINTS; ++p) *(Vector *)(to + p * plane + c) = values[p];
  }
}

static int is_blank(const float *pixel, int64_t channels) {
  for (int64_t c = 0; c < channels; c += LANES)
    if (any_nonzero(load(pixel + c, channels - c))) return 0;
  return 1;
}

/* Bits of the outputs whose windows are zero: they must be zero, not only up to rounding. */
static uint16_t blank_outputs(const float *const *pixels, int64_t channels) {
  int blank[SIDE][SIDE], any = 0;
  for (int i = 0; i < SIDE; ++i)
    for (int j = 0; j < SIDE; ++j)
      any |= blank[i][j] = is_blank(pixels[SIDE * i + j], channels);
  uint16_t found = 0;
  for (int output = 0; any && output < TILE * TILE; ++output) {
    int all = 1;
    for (int tap = 0; tap < TAPS * TAPS; ++tap)
      all &= blank[output / TILE + tap / TAPS][output % TILE + tap % TAPS];
    found |= (uint16_t)(all << output);
  }
  return found;
}

/* Transforms the inputs of tiles to 36 matrices (count, padded channels). */
static void transform_inputs(const Sizes *of, const float *x, const float *zeros, int64_t first,
                             int64_t count, float *to, int64_t plane, uint16_t *blanks) {
  for (int64_t t = 0; t < count; ++t, to += padded(of->channels)) {
    Tile at = tile_of(of, first + t);
    const float *pixels[POINTS], *image = x + at.image * of->height * of->width * of->channels;
    find_pixels(pixels, SIDE, image, at.row - of->top, at.column - of->left, of->height, of->width,
                of->channels, zeros);
    if (blanks) blanks[t] = blank_outputs(pixels, of->channels);
    transform_pixels(to, plane, pixels, SIDE, of_inputs, of->channels);
  }
}

/* Transforms the errors of the outputs of tiles to 36 matrices (count, padded filters). */
static void transform_errors(const Sizes *of, const float *dy, const float *zeros, int64_t first,
                             int64_t count, float *to, int64_t plane) {
  for (int64_t t = 0; t < count; ++t, to += padded(of->filters)) {
    Tile at = tile_of(of, first + t);
    const float *pixels[POINTS], *image = dy + at.image * of->rows * of->columns * of->filters;
    find_pixels(pixels, TILE, image, at.row, at.column, of->rows, of->columns, of->filters, zeros);
    transform_pixels(to, plane, pixels, TILE, of_errors, of->filters);
  }
}

/* Transforms 36 products (count, padded filters) to the outputs of tiles. */
static void transform_products(const Sizes *of, const float *from, int64_t plane, int64_t first,
                               int64_t count, float *y, const uint16_t *blanks) {
  for (int64_t t = 0; t < count; ++t, from += padded(of->filters)) {
    Tile at = tile_of(of, first + t);
    int64_t high = of->rows - at.row, wide = of->columns - at.column;
    int64_t pixel = (at.image * of->rows + at.row) * of->columns + at.column;
    for (int64_t f = 0; f < of->filters; f += LANES) {
      Vector values[POINTS];
      UNROLL for (int p = 0; p < POINTS; ++p) values[p] = *(const Vector *)(from + p * plane + f);
      transform(values, SIDE, TILE, of_products);
      UNROLL for (int i = 0; i < TILE; ++i)
        UNROLL for (int j = 0; j < TILE; ++j) {
          if (i >= high || j >= wide) continue;
          if (blanks[t] >> (TILE * i + j) & 1) values[SIDE * i + j] = (Vector){0};
          float *to = y + (pixel + i * of->columns + j) * of->filters + f;
          store(to, values[SIDE * i + j], of->filters - f);
        }
    }
  }
}

/* ---- Kernels ---- */

/* Transforms a kernel (3, 3, channels, filters) to 36 matrices (channels, padded filters). For the
   gradient of inputs, it is (3, 3, filters, channels), and rotated. */
static void transform_kernel(const Sizes *of, const float *kernel, float *to) {
  int64_t plane = of->channels * of->filters, row = padded(of->filters);
  int rotated = of->pass == INPUT_GRADIENT;
  int64_t by_channel = rotated ? 1 : of->filters, by_filter = rotated ? of->channels : 1;
  for (int64_t f = 0; f < of->filters; f += LANES)
    for (int64_t c = 0; c < of->channels; ++c) {
      Vector values[POINTS];
      for (int tap = 0; tap < TAPS * TAPS; ++tap) {
        float taps[LANES] = {0};
        const float *from = kernel + (rotated ? TAPS * TAPS - 1 - tap : tap) * plane;
        for (int64_t i = 0; i < smaller(LANES, of->filters - f); ++i)
          taps[i] = from[c * by_channel + (f + i) * by_filter];
        values[SIDE * (tap / TAPS) + tap % TAPS] = *(const Vector *)taps;
      }
      transform(values, TAPS, SIDE, of_taps);
      for (int p = 0; p < POINTS; ++p)
        *(Vector *)(to + (p * of->channels + c) * row + f) = values[p];
    }
}

/* Transforms 36 sums of products (channels, padded filters) to the gradient of the kernel. */
static void transform_sums(const Sizes *of, const float *from, float *kernel) {
  int64_t plane = of->channels * of->filters, row = padded(of->filters);
  for (int64_t f = 0; f < of->filters; f += LANES)
    for (int64_t c = 0; c < of->channels; ++c) {
      Vector values[POINTS];
      for (int p = 0; p < POINTS; ++p)
        values[p] = *(const Vector *)(from + (p * of->channels + c) * row + f);
      transform(values, SIDE, TAPS, of_sums);
      for (int tap = 0; tap < TAPS * TAPS; ++tap)
        store(kernel + tap * plane + c * of->filters + f,
              values[SIDE * (tap / TAPS) + tap % TAPS], of->filters - f);
    }
}

/* ---- Products ---- */

/* A matrix (rows, depth) times one of (depth, columns), where columns are whole vectors. */
typedef struct {
  const float *left, *right;
  float *to;
  int64_t row, column;  /* distances of the rows and columns of `left` */
  int64_t depth, width; /* `width` is the number of columns of `right` and `to` */
  int adds;             /* to the values before */
} Product;

INLINE void multiply(Product of, int rows, int vectors) {
  Vector sums[ROWS][2];
  UNROLL for (int i = 0; i < rows; ++i)
    UNROLL for (int j = 0; j < vectors; ++j) sums[i][j] = (Vector){0};
  for (int64_t k = 0; k < of.depth; ++k, of.left += of.column, of.right += of.width)
    UNROLL for (int i = 0; i < rows; ++i)
      UNROLL for (int j = 0; j < vectors; ++j)
        sums[i][j] += of.left[i * of.row] * *(const Vector *)(of.right + j * LANES);
  UNROLL for (int i = 0; i < rows; ++i)
    UNROLL for (int j = 0; j < vectors; ++j) {
      Vector *to = (Vector *)(of.to + i * of.width + j * LANES);
      if (of.adds) sums[i][j] += *to;
      *to = sums[i][j];
    }
}

INLINE void multiply_rows(Product of, int64_t rows, int vectors) {
  int most = REGISTERS < 32 && vectors == 2 ? ROWS / 2 : ROWS;
  for (int64_t done = 0, count; done < rows; done += count) {
    count = rows - done >= most ? most : rows - done >= FEW_ROWS ? FEW_ROWS : 1;
    if (count == most) multiply(of, most, vectors);
    else if (count == FEW_ROWS) multiply(of, FEW_ROWS, vectors);
    else multiply(of, 1, vectors);
    of.left += count * of.row, of.to += count * of.width;
  }
}

static void multiply_all(Product of, int64_t rows) {
  for (int64_t done = 0; done < of.width; done += 2 * LANES) {
    if (of.width - done > LANES) multiply_rows(of, rows, 2);
    else multiply_rows(of, rows, 1);
    of.right += 2 * LANES, of.to += 2 * LANES;
  }
}

/* ---- Convolutions ---- */

/* Working memory, in values. */
typedef struct {
  int64_t tiles;                   /* of a block */
  int64_t zeros, kernel;           /* padded pixels, and the matrices of the kernel */
  int64_t inputs, outputs, blanks; /* matrices of a block, and bits for each tile */
} Workspace;

static Workspace workspace(const Sizes *of) {
  int64_t channels = padded(of->channels), filters = padded(of->filters);
  int64_t tiles = BLOCK_VALUES / (POINTS * (channels + filters)) / ROWS * ROWS;
  tiles = smaller(larger(tiles, LEAST_TILES), MOST_TILES);
  /* The distance of matrices must not be a multiple of a page. */
  return (Workspace){tiles,
                     larger(channels, filters),
                     POINTS * of->channels * filters,
                     tiles * channels + CACHE_LINE,
                     tiles * filters + CACHE_LINE,
                     MOST_TILES};
}

/* Bytes of working memory. */
int64_t workspace_bytes(const Sizes *of) {
  Workspace work = workspace(of);
  int64_t values = work.zeros + work.kernel + POINTS * (work.inputs + work.outputs) + work.blanks;
  return values * sizeof(float);
}

static void convolve(const Sizes *of, const float *x, const float *kernel, float *y,
                     float *memory) {
  Workspace work = workspace(of);
  float *zeros = memory, *taps = zeros + work.zeros, *inputs = taps + work.kernel;
  float *products = inputs + POINTS * work.inputs;
  uint16_t *blanks = (uint16_t *)(products + POINTS * work.outputs);
  int64_t channels = padded(of->channels), filters = padded(of->filters);
  memset(zeros, 0, work.zeros * sizeof(float));
  transform_kernel(of, kernel, taps);
  for (int64_t first = 0, count; first < num_tiles(of); first += count) {
    count = smaller(work.tiles, num_tiles(of) - first);
    transform_inputs(of, x, zeros, first, count, inputs, work.inputs, blanks);
    for (int p = 0; p < POINTS; ++p) {
      const float *left = inputs + p * work.inputs, *right = taps + p * of->channels * filters;
      float *to = products + p * work.outputs;
      multiply_all((Product){left, right, to, channels, 1, of->channels, filters, 0}, count);
    }
    transform_products(of, products, work.outputs, first, count, y, blanks);
  }
}

static void kernel_gradient(const Sizes *of, const float *x, const float *dy, float *kernel,
                            float *memory) {
  Workspace work = workspace(of);
  float *zeros = memory, *sums = zeros + work.zeros, *inputs = sums + work.kernel;
  float *errors = inputs + POINTS * work.inputs;
  int64_t channels = padded(of->channels), filters = padded(of->filters);
  memset(zeros, 0, (work.zeros + work.kernel) * sizeof(float));
  for (int64_t first = 0, count; first < num_tiles(of); first += count) {
    count = smaller(work.tiles, num_tiles(of) - first);
    transform_inputs(of, x, zeros, first, count, inputs, work.inputs, NULL);
    transform_errors(of, dy, zeros, first, count, errors, work.outputs);
    for (int p = 0; p < POINTS; ++p) {
      const float *left = inputs + p * work.inputs, *right = errors + p * work.outputs;
      float *to = sums + p * of->channels * filters;
      multiply_all((Product){left, right, to, 1, channels, count, filters, 1}, of->channels);
    }
  }
  transform_sums(of, sums, kernel);
}

static void *data(void *buffer) { return ((XLA_FFI_Buffer *)buffer)->data; }

/* Operands: images and kernel, errors and kernel, or images and errors. */
XLA_FFI_Error *handle(XLA_FFI_CallFrame *frame) {
  if (!executes(frame)) return NULL;
  const Sizes *of = ((const XLA_FFI_Array *)frame->attrs.attrs[0])->data;
  const float *first = data(frame->args.args[0]), *second = data(frame->args.args[1]);
  float *result = data(frame->rets.rets[0]), *memory = data(frame->rets.rets[1]);
  if (of->pass == KERNEL_GRADIENT) kernel_gradient(of, first, second, result, memory);
  else convolve(of, first, second, result, memory);
  return NULL;
}
