/* Convolutions with a stride of 1 and kernels of 2 to 7 taps along each axis, and their gradients,
   by Winograd's algorithm: F(4x4, 3x3) needs 36 products for 16 outputs instead of 144. See Lavin &
   Gray, "Fast Algorithms for Convolutional Neural Networks" (2015),
   https://arxiv.org/abs/1509.09308.

   Images are (n, h, w, c). A tile of inputs has 6x6 or 8x8 pixels (its side), and an output for each
   position of the kernel inside it. A block of tiles stays in the second-level cache: its inputs are
   transformed to a matrix (tiles, channels) for each point, multiplied by those of the kernel,
   (channels, filters), and transformed to outputs. Rows of matrices are padded to whole vectors. */

#include "handler.h"
#include "vectors.h"

enum { SMALL = 6, LARGE = 8, MOST_POINTS = LARGE * LARGE }; /* sides of tiles */
enum { ROWS = 12, FEW_ROWS = 4 };       /* of a product whose sums stay in registers */
enum { BLOCK_VALUES = 1 << 16 };        /* 256 KiB */
enum { LEAST_TILES = 12, MOST_TILES = 60 }; /* of a block */

enum { FORWARD, INPUT_GRADIENT, KERNEL_GRADIENT };

typedef struct {
  int64_t pass;
  int64_t side;                  /* of a tile of inputs */
  int64_t high, wide;            /* taps of the kernel */
  int64_t images, height, width; /* inputs */
  int64_t top, left;             /* rows and columns of zeros before them */
  int64_t rows, columns;         /* outputs */
  int64_t channels, filters;
} Sizes;

INLINE int64_t num_points(const Sizes *of) { return of->side * of->side; }
/* Rows and columns of the outputs of a tile. */
INLINE uint32_t tile_rows(const Sizes *of) { return of->side + 1 - of->high; }
INLINE uint32_t tile_columns(const Sizes *of) { return of->side + 1 - of->wide; }
/* Tiles of an image. */
INLINE uint32_t down(const Sizes *of) { return (of->rows - 1) / tile_rows(of) + 1; }
INLINE uint32_t across(const Sizes *of) { return (of->columns - 1) / tile_columns(of) + 1; }
INLINE int64_t num_tiles(const Sizes *of) { return of->images * down(of) * across(of); }

/* ---- Transforms of a line of vectors, in place ----

   The points are 0, 1, -1, 2, -2 and infinity, and for the large side also 1/2 and -1/2. Matrices
   have even and odd columns with the same values for a point and its negative, up to the sign. */

static const float POWERS[3][7] = {
    {1, 1, 1, 1, 1, 1, 1},
    {1, 2, 4, 8, 16, 32, 64},
    {1, 0.5f, 0.25f, 0.125f, 0.0625f, 0.03125f, 0.015625f},
};
/* Of the kernel, for each point. */
static const float SMALL_SCALES[SMALL] = {0.25f, -1 / 6.f, -1 / 6.f, 1 / 24.f, 1 / 24.f, 1};
static const float LARGE_SCALES[LARGE] = {1,         -2 / 9.f,  -2 / 9.f,  1 / 90.f,
                                          1 / 90.f, 32 / 45.f, 32 / 45.f, 1};

INLINE const float *scales_of(int side) { return side == SMALL ? SMALL_SCALES : LARGE_SCALES; }

INLINE void set_pair(Vector *to, Vector even, Vector odd) {
  to[0] = even + odd;
  to[1] = even - odd;
}

/* B^T of inputs. */
INLINE void to_points(Vector *line, int side) {
  Vector a = line[0], b = line[1], c = line[2], d = line[3], e = line[4], f = line[5];
  if (side == SMALL) {
    line[0] = 4 * a - 5 * c + e;
    set_pair(line + 1, e - 4 * c, d - 4 * b);
    set_pair(line + 3, e - c, 2 * (d - b));
    line[5] = 4 * b - 5 * d + f;
  } else {
    Vector g = line[6];
    line[0] = a - g + 5.25f * (e - c);
    line[7] = line[7] - b + 5.25f * (d - f);
    set_pair(line + 1, c - 4.25f * e + g, b - 4.25f * d + f);
    set_pair(line + 3, 0.25f * c - 1.25f * e + g, 0.5f * b - 2.5f * d + 2 * f);
    set_pair(line + 5, 4 * c - 5 * e + g, 2 * b - 2.5f * d + 0.5f * f);
  }
}

/* The transpose of `to_points`. */
INLINE void from_points(Vector *line, int side) {
  Vector sums[3], differences[3], first = line[0], last = line[side - 1];
  UNROLL for (int pair = 0; pair < side / 2 - 1; ++pair) {
    sums[pair] = line[1 + 2 * pair] + line[2 + 2 * pair];
    differences[pair] = line[1 + 2 * pair] - line[2 + 2 * pair];
  }
  Vector *s = sums, *d = differences;
  if (side == SMALL) {
    line[0] = 4 * first;
    line[1] = 4 * (last - d[0]) - 2 * d[1];
    line[2] = -5 * first - 4 * s[0] - s[1];
    line[3] = d[0] + 2 * d[1] - 5 * last;
    line[4] = first + s[0] + s[1];
  } else {
    line[1] = d[0] + 0.5f * d[1] + 2 * d[2] - last;
    line[2] = s[0] + 0.25f * s[1] + 4 * s[2] - 5.25f * first;
    line[3] = 5.25f * last - 4.25f * d[0] - 2.5f * (d[1] + d[2]);
    line[4] = 5.25f * first - 4.25f * s[0] - 1.25f * s[1] - 5 * s[2];
    line[5] = d[0] + 2 * d[1] + 0.5f * d[2] - 5.25f * last;
    line[6] = s[0] + s[1] + s[2] - first;
  }
}

/* The values of a polynomial with `count` coefficients: A of errors, and G of taps up to scales. */
INLINE void evaluate_each(Vector *line, int side, int count) {
  Vector coefficients[LARGE];
  UNROLL for (int i = 0; i < count; ++i) coefficients[i] = line[i];
  UNROLL for (int pair = 0; pair < side / 2 - 1; ++pair) {
    Vector even = coefficients[0], odd = POWERS[pair][1] * coefficients[1];
    UNROLL for (int i = 2; i < count; i += 2) even += POWERS[pair][i] * coefficients[i];
    UNROLL for (int i = 3; i < count; i += 2) odd += POWERS[pair][i] * coefficients[i];
    set_pair(line + 1 + 2 * pair, even, odd);
  }
  line[side - 1] = coefficients[count - 1];
}

/* The transpose of `evaluate_each`: A^T of products, and G^T of scaled sums. */
INLINE void collect_each(Vector *line, int side, int count) {
  Vector sums[LARGE / 2], differences[LARGE / 2], last = line[side - 1];
  UNROLL for (int pair = 0; pair < side / 2 - 1; ++pair) {
    sums[pair] = line[1 + 2 * pair] + line[2 + 2 * pair];
    differences[pair] = line[1 + 2 * pair] - line[2 + 2 * pair];
    line[0] += sums[pair];
  }
  UNROLL for (int i = 1; i < count; ++i) {
    const Vector *parts = i % 2 ? differences : sums;
    Vector total = parts[0];
    UNROLL for (int pair = 1; pair < side / 2 - 1; ++pair) total += POWERS[pair][i] * parts[pair];
    line[i] = total;
  }
  line[count - 1] += last;
}

/* Defines NAME for a number of coefficients that is not known to the compiler. */
#define FOR_EACH_COUNT(NAME)                                     \
  INLINE void NAME(Vector *line, int side, int64_t count) {      \
    switch (count) {                                             \
      case 2: NAME##_each(line, side, 2); break;                 \
      case 3: NAME##_each(line, side, 3); break;                 \
      case 4: NAME##_each(line, side, 4); break;                 \
      case 5: NAME##_each(line, side, 5); break;                 \
      case 6: if (side == LARGE) NAME##_each(line, side, 6); break; \
      case 7: if (side == LARGE) NAME##_each(line, side, 7); break; \
      default: __builtin_unreachable();                          \
    }                                                            \
  }
FOR_EACH_COUNT(evaluate)
FOR_EACH_COUNT(collect)

/* Evaluates lines of `count` vectors, in rows of the large side, and stores a vector for each point,
   `plane` values apart, multiplied by scales or not. */
INLINE void evaluate_lines(const Vector *values, int side, int64_t count, const float *scales,
                           float *to, int64_t plane) {
  Vector line[LARGE];
  for (int i = 0; i < side; ++i) {
    UNROLL for (int j = 0; j < side - 1; ++j) line[j] = values[LARGE * i + j];
    evaluate(line, side, count);
    UNROLL for (int j = 0; j < side; ++j) {
      if (scales) line[j] *= scales[i] * scales[j];
      *(Vector *)(to + (side * i + j) * plane) = line[j];
    }
  }
}

/* ---- Tiles ---- */

typedef struct {
  int64_t image, row, column; /* of the first output */
} Tile;

INLINE Tile tile_of(const Sizes *of, uint32_t number) {
  uint32_t row = number / across(of), column = number % across(of);
  return (Tile){row / down(of), row % down(of) * tile_rows(of), column * tile_columns(of)};
}

/* An image, or its errors. */
typedef struct {
  const float *values;
  int64_t height, width, channels;
} Image;

/* The addresses of `high` rows and `wide` columns of pixels, in rows of the large side; others, and
   those outside of the image, are those of `zeros`. */
INLINE void find_pixels(const float **pixels, Image of, int64_t row, int64_t column, int64_t high,
                        int64_t wide, int side, const float *zeros) {
  for (int i = 0; i < side; ++i)
    for (int j = 0; j < side; ++j) {
      int inside = row + i >= 0 && row + i < of.height && column + j >= 0 && column + j < of.width;
      int64_t pixel = (row + i) * of.width + column + j;
      pixels[LARGE * i + j] =
          inside && i < high && j < wide ? of.values + pixel * of.channels : zeros;
    }
}

static int is_blank(const float *pixel, int64_t channels) {
  for (int64_t c = 0; c < channels; c += LANES)
    if (any_nonzero(load(pixel + c, channels - c))) return 0;
  return 1;
}

/* Bits of the outputs whose windows are zero: they must be zero, not only up to rounding. The bit of
   an output is that of its first pixel, in rows of the large side. */
INLINE uint64_t blank_outputs(const Sizes *of, const float *const *pixels, int side) {
  uint64_t blank = 0, windows = ~(uint64_t)0;
  for (int i = 0; i < side; ++i)
    for (int j = 0; j < side; ++j)
      blank |= (uint64_t)is_blank(pixels[LARGE * i + j], of->channels) << (LARGE * i + j);
  if (!blank) return 0;
  for (int i = 0; i < of->high; ++i)
    for (int j = 0; j < of->wide; ++j) windows &= blank >> (LARGE * i + j);
  return windows;
}

/* Transforms the inputs of tiles to a matrix (count, padded channels) for each point; matrices are
   `plane` values apart. */
INLINE void transform_inputs(const Sizes *of, int side, const float *x, const float *zeros,
                             int64_t first, int64_t count, float *to, int64_t plane,
                             uint64_t *blanks) {
  for (int64_t t = 0; t < count; ++t, to += padded(of->channels)) {
    const float *pixels[MOST_POINTS];
    Tile at = tile_of(of, first + t);
    Image image = {x + at.image * of->height * of->width * of->channels, of->height, of->width,
                   of->channels};
    find_pixels(pixels, image, at.row - of->top, at.column - of->left, side, side, side, zeros);
    if (blanks) blanks[t] = blank_outputs(of, pixels, side);
    for (int64_t c = 0; c < of->channels; c += LANES) {
      Vector values[MOST_POINTS], line[LARGE];
      for (int j = 0; j < side; ++j) {
        UNROLL for (int i = 0; i < side; ++i)
          line[i] = load(pixels[LARGE * i + j] + c, of->channels - c);
        to_points(line, side);
        UNROLL for (int i = 0; i < side; ++i) values[LARGE * i + j] = line[i];
      }
      for (int i = 0; i < side; ++i) {
        UNROLL for (int j = 0; j < side; ++j) line[j] = values[LARGE * i + j];
        to_points(line, side);
        UNROLL for (int j = 0; j < side; ++j)
          *(Vector *)(to + (side * i + j) * plane + c) = line[j];
      }
    }
  }
}

/* Bits of the inputs that no nonzero error of a tile reaches: they must be zero, as above. */
INLINE uint64_t unreached_inputs(const Sizes *of, const float *const *pixels) {
  uint64_t errors = 0, reached = 0;
  int high = tile_rows(of), wide = tile_columns(of);
  for (int i = 0; i < high; ++i)
    for (int j = 0; j < wide; ++j)
      errors |= (uint64_t)!is_blank(pixels[LARGE * i + j], of->filters) << (LARGE * i + j);
  for (int i = 0; i < of->high; ++i)
    for (int j = 0; j < of->wide; ++j) reached |= errors << (LARGE * i + j);
  return ~reached;
}

/* Transforms the errors of the outputs of tiles to a matrix (count, padded filters) for each point. */
INLINE void transform_errors(const Sizes *of, int side, const float *dy, const float *zeros,
                             int64_t first, int64_t count, float *to, int64_t plane,
                             uint64_t *blanks) {
  int64_t high = tile_rows(of), wide = tile_columns(of);
  for (int64_t t = 0; t < count; ++t, to += padded(of->filters)) {
    const float *pixels[MOST_POINTS];
    Tile at = tile_of(of, first + t);
    Image image = {dy + at.image * of->rows * of->columns * of->filters, of->rows, of->columns,
                   of->filters};
    find_pixels(pixels, image, at.row, at.column, high, wide, side, zeros);
    if (blanks) blanks[t] = unreached_inputs(of, pixels);
    for (int64_t f = 0; f < of->filters; f += LANES) {
      Vector values[MOST_POINTS], line[LARGE];
      for (int j = 0; j < wide; ++j) {
        UNROLL for (int i = 0; i < side - 1; ++i)
          line[i] = load(pixels[LARGE * i + j] + f, of->filters - f);
        evaluate(line, side, high);
        UNROLL for (int i = 0; i < side; ++i) values[LARGE * i + j] = line[i];
      }
      evaluate_lines(values, side, wide, NULL, to + f, plane);
    }
  }
}

/* The transpose of `transform_inputs`: adds products, a matrix (count, padded channels) for each
   point, to images. */
INLINE void add_products(const Sizes *of, int side, const float *from, int64_t plane,
                         int64_t first, int64_t count, float *x, const uint64_t *blanks) {
  int64_t size = of->height * of->width * of->channels;
  for (int64_t t = 0; t < count; ++t, from += padded(of->channels)) {
    Tile at = tile_of(of, first + t);
    float *image = x + at.image * size;
    if (!at.row && !at.column) memset(image, 0, size * sizeof(float));
    int64_t top = at.row - of->top, left = at.column - of->left;
    for (int64_t c = 0; c < of->channels; c += LANES) {
      Vector values[MOST_POINTS], line[LARGE];
      for (int j = 0; j < side; ++j) {
        UNROLL for (int i = 0; i < side; ++i)
          line[i] = *(const Vector *)(from + (side * i + j) * plane + c);
        from_points(line, side);
        UNROLL for (int i = 0; i < side; ++i) values[LARGE * i + j] = line[i];
      }
      for (int i = larger(0, -top); i < smaller(side, of->height - top); ++i) {
        UNROLL for (int j = 0; j < side; ++j) line[j] = values[LARGE * i + j];
        from_points(line, side);
        float *to = image + ((top + i) * of->width + left) * of->channels + c;
        UNROLL for (int j = 0; j < side; ++j, to += of->channels) {
          if (left + j < 0 || left + j >= of->width || blanks[t] >> (LARGE * i + j) & 1) continue;
          store(to, load(to, of->channels - c) + line[j], of->channels - c);
        }
      }
    }
  }
}

/* Transforms products, a matrix (count, padded filters) for each point, to the outputs of tiles. */
INLINE void transform_products(const Sizes *of, int side, const float *from, int64_t plane,
                               int64_t first, int64_t count, float *y, const uint64_t *blanks) {
  int64_t high = tile_rows(of), wide = tile_columns(of);
  for (int64_t t = 0; t < count; ++t, from += padded(of->filters)) {
    Tile at = tile_of(of, first + t);
    int64_t pixel = (at.image * of->rows + at.row) * of->columns + at.column;
    int64_t rows = smaller(high, of->rows - at.row), columns = smaller(wide, of->columns - at.column);
    for (int64_t f = 0; f < of->filters; f += LANES) {
      Vector values[MOST_POINTS], line[LARGE];
      for (int j = 0; j < side; ++j) {
        UNROLL for (int i = 0; i < side; ++i)
          line[i] = *(const Vector *)(from + (side * i + j) * plane + f);
        collect(line, side, high);
        UNROLL for (int i = 0; i < side - 1; ++i) values[LARGE * i + j] = line[i];
      }
      for (int i = 0; i < rows; ++i) {
        UNROLL for (int j = 0; j < side; ++j) line[j] = values[LARGE * i + j];
        collect(line, side, wide);
        float *to = y + (pixel + i * of->columns) * of->filters + f;
        UNROLL for (int j = 0; j < side - 1; ++j) {
          if (j >= columns) break;
          if (blanks[t] >> (LARGE * i + j) & 1) line[j] = (Vector){0};
          store(to + j * of->filters, line[j], of->filters - f);
        }
      }
    }
  }
}

/* ---- Kernels ---- */

/* Transforms a kernel (high, wide, channels, filters) to a matrix (channels, padded filters) for
   each point, or (filters, padded channels) for the gradient of inputs. */
INLINE void transform_kernel(const Sizes *of, int side, const float *kernel, float *to) {
  int backward = of->pass == INPUT_GRADIENT;
  int64_t high = of->high, wide = of->wide, plane = of->channels * of->filters;
  int64_t depth = backward ? of->filters : of->channels;
  int64_t width = backward ? of->channels : of->filters, row = padded(width);
  int64_t by_depth = backward ? 1 : of->filters, by_column = backward ? of->filters : 1;
  for (int64_t first = 0; first < width; first += LANES)
    for (int64_t k = 0; k < depth; ++k) {
      Vector values[MOST_POINTS], line[LARGE];
      int64_t lanes = smaller(LANES, width - first);
      for (int j = 0; j < wide; ++j) {
        for (int i = 0; i < high; ++i) {
          float some[LANES] = {0};
          const float *from = kernel + (i * wide + j) * plane + k * by_depth + first * by_column;
          for (int64_t lane = 0; lane < lanes; ++lane) some[lane] = from[lane * by_column];
          line[i] = *(const Vector *)some;
        }
        evaluate(line, side, high);
        UNROLL for (int i = 0; i < side; ++i) values[LARGE * i + j] = line[i];
      }
      evaluate_lines(values, side, wide, scales_of(side), to + k * row + first, depth * row);
    }
}

/* Transforms sums of products, (channels, padded filters) for each point, to the gradient of the
   kernel. */
INLINE void transform_sums(const Sizes *of, int side, const float *from, float *kernel) {
  const float *scales = scales_of(side);
  int64_t plane = of->channels * of->filters, row = padded(of->filters);
  for (int64_t f = 0; f < of->filters; f += LANES)
    for (int64_t c = 0; c < of->channels; ++c) {
      Vector values[MOST_POINTS], line[LARGE];
      for (int j = 0; j < side; ++j) {
        UNROLL for (int i = 0; i < side; ++i) {
          const float *sums = from + ((side * i + j) * of->channels + c) * row + f;
          line[i] = *(const Vector *)sums * (scales[i] * scales[j]);
        }
        collect(line, side, of->high);
        UNROLL for (int i = 0; i < side - 1; ++i) values[LARGE * i + j] = line[i];
      }
      for (int i = 0; i < of->high; ++i) {
        UNROLL for (int j = 0; j < side; ++j) line[j] = values[LARGE * i + j];
        collect(line, side, of->wide);
        float *to = kernel + i * of->wide * plane + c * of->filters + f;
        for (int j = 0; j < of->wide; ++j, to += plane) store(to, line[j], of->filters - f);
      }
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
  int64_t tiles = BLOCK_VALUES / (num_points(of) * (channels + filters)) / ROWS * ROWS;
  tiles = smaller(larger(tiles, LEAST_TILES), MOST_TILES);
  /* The distance of matrices must not be a multiple of a page. */
  return (Workspace){tiles,
                     larger(channels, filters),
                     num_points(of) * larger(of->channels * filters, of->filters * channels),
                     tiles * channels + CACHE_LINE,
                     tiles * filters + CACHE_LINE,
                     2 * MOST_TILES};
}

/* Bytes of working memory. */
int64_t workspace_bytes(const Sizes *of) {
  Workspace work = workspace(of);
  int64_t block = num_points(of) * (work.inputs + work.outputs) + work.blanks;
  return (work.zeros + work.kernel + block) * sizeof(float);
}

/* From images to outputs, or by the transposed steps from errors to the gradient of images: as a
   convolution of the errors with the rotated kernel, there would be more tiles. */
INLINE void convolve(const Sizes *of, int side, const float *from, const float *kernel, float *to,
                     float *memory) {
  Workspace work = workspace(of);
  float *zeros = memory, *taps = zeros + work.zeros, *inputs = taps + work.kernel;
  float *outputs = inputs + num_points(of) * work.inputs;
  uint64_t *blanks = (uint64_t *)(outputs + num_points(of) * work.outputs);
  int64_t channels = of->channels, filters = of->filters;
  int backward = of->pass == INPUT_GRADIENT;
  int64_t matrix = backward ? filters * padded(channels) : channels * padded(filters);
  memset(zeros, 0, work.zeros * sizeof(float));
  transform_kernel(of, side, kernel, taps);
  for (int64_t first = 0, count; first < num_tiles(of); first += count) {
    count = smaller(work.tiles, num_tiles(of) - first);
    if (backward)
      transform_errors(of, side, from, zeros, first, count, outputs, work.outputs, blanks);
    else transform_inputs(of, side, from, zeros, first, count, inputs, work.inputs, blanks);
    for (int p = 0; p < num_points(of); ++p) {
      float *in = inputs + p * work.inputs, *out = outputs + p * work.outputs;
      const float *right = taps + p * matrix;
      Product of_point = {in, right, out, padded(channels), 1, channels, padded(filters), 0};
      if (backward)
        of_point = (Product){out, right, in, padded(filters), 1, filters, padded(channels), 0};
      multiply_all(of_point, count);
    }
    if (backward) add_products(of, side, inputs, work.inputs, first, count, to, blanks);
    else transform_products(of, side, outputs, work.outputs, first, count, to, blanks);
  }
}

INLINE void kernel_gradient(const Sizes *of, int side, const float *x, const float *dy,
                            float *kernel, float *memory) {
  Workspace work = workspace(of);
  float *zeros = memory, *sums = zeros + work.zeros, *inputs = sums + work.kernel;
  float *errors = inputs + num_points(of) * work.inputs;
  int64_t channels = padded(of->channels), filters = padded(of->filters);
  memset(zeros, 0, (work.zeros + work.kernel) * sizeof(float));
  for (int64_t first = 0, count; first < num_tiles(of); first += count) {
    count = smaller(work.tiles, num_tiles(of) - first);
    transform_inputs(of, side, x, zeros, first, count, inputs, work.inputs, NULL);
    transform_errors(of, side, dy, zeros, first, count, errors, work.outputs, NULL);
    for (int p = 0; p < num_points(of); ++p) {
      const float *left = inputs + p * work.inputs, *right = errors + p * work.outputs;
      float *to = sums + p * of->channels * filters;
      multiply_all((Product){left, right, to, 1, channels, count, filters, 1}, of->channels);
    }
  }
  transform_sums(of, side, sums, kernel);
}

INLINE void run(const Sizes *of, int side, const float *first, const float *second, float *result,
                float *memory) {
  if (of->pass == KERNEL_GRADIENT) kernel_gradient(of, side, first, second, result, memory);
  else convolve(of, side, first, second, result, memory);
}

/* Operands: images and kernel, errors and kernel, or images and errors. */
XLA_FFI_Error *handle(XLA_FFI_CallFrame *frame) {
  if (!executes(frame)) return NULL;
  const Sizes *of = ((const XLA_FFI_Array *)frame->attrs.attrs[0])->data;
  const float *first = data(frame->args.args[0]), *second = data(frame->args.args[1]);
  float *result = data(frame->rets.rets[0]), *memory = data(frame->rets.rets[1]);
  if (of->side == SMALL) run(of, SMALL, first, second, result, memory);
  else run(of, LARGE, first, second, result, memory);
  return NULL;
}
