/* Scaled dot-product self-attention and its gradient.

   A block of queries stays in the cache: its scores with all keys are a matrix (tokens, BLOCK), so
   that maxima and sums over keys are those of vectors, and memory does not grow with the square of
   the tokens. The gradient computes the scores again instead of storing them, as in Dao et al.,
   "FlashAttention" (2022), https://arxiv.org/abs/2205.14135.

   Queries, keys and values are (n, tokens, 3, heads, size), outputs (n, tokens, heads, size). */

#include "functions.h"
#include "handler.h"

enum { BLOCK = 64 };                                 /* queries */
enum { ROWS = 6, VECTORS = REGISTERS < 32 ? 2 : 4 }; /* of a product whose sums stay in registers */

typedef struct {
  int64_t backward;
  int64_t images, tokens, heads, size; /* size: channels of a head */
} Sizes;

INLINE int64_t channels(const Sizes *of) { return of->heads * of->size; }

/* ---- Products ---- */

/* A matrix (rows, depth) times one of (depth, columns), whose rows are padded to whole vectors. */
typedef struct {
  const float *left;
  int64_t row, column; /* distances of its rows and columns */
  const float *right;
  int64_t right_row;
  float *to;
  int64_t to_row;
  int64_t depth, columns;
  int adds; /* to the values before */
} Product;

INLINE void multiply_each(Product of, int rows, int vectors) {
  Vector sums[ROWS][VECTORS];
  UNROLL for (int i = 0; i < rows; ++i)
    UNROLL for (int j = 0; j < vectors; ++j) {
      __builtin_prefetch(of.to + i * of.to_row + j * LANES, 1); /* while products are computed */
      sums[i][j] = (Vector){0};
    }
  for (int64_t k = 0; k < of.depth; ++k, of.left += of.column, of.right += of.right_row)
    UNROLL for (int i = 0; i < rows; ++i)
      UNROLL for (int j = 0; j < vectors; ++j)
        sums[i][j] += of.left[i * of.row] * *(const Vector *)(of.right + j * LANES);
  UNROLL for (int i = 0; i < rows; ++i)
    UNROLL for (int j = 0; j < vectors; ++j) {
      float *to = of.to + i * of.to_row + j * LANES;
      int64_t lanes = j < vectors - 1 ? LANES : of.columns - j * LANES;
      if (of.adds) sums[i][j] += load(to, lanes);
      store(to, sums[i][j], lanes);
    }
}

#define ROW(COUNT) \
  case COUNT: multiply_each(of, COUNT, vectors); break;

INLINE void multiply_rows(Product of, int64_t rows, int vectors) {
  for (int64_t done = 0, count; done < rows; done += count) {
    count = smaller(ROWS, rows - done);
    switch (count) { ROW(1) ROW(2) ROW(3) ROW(4) ROW(5) ROW(6) }
    of.left += count * of.row, of.to += count * of.to_row;
  }
}

#define VECTOR(COUNT) \
  case COUNT: if (COUNT <= VECTORS) multiply_rows(of, rows, COUNT); break;

static void multiply(Product of, int64_t rows) {
  for (; of.columns > 0; of.columns -= VECTORS * LANES) {
    switch (smaller(VECTORS, padded(of.columns) / LANES)) {
      VECTOR(1) VECTOR(2) VECTOR(3) VECTOR(4)
    }
    of.right += VECTORS * LANES, of.to += VECTORS * LANES;
  }
}

/* ---- Copies ---- */

/* Pads rows to whole vectors. */
static void pack(const float *from, int64_t row, int64_t rows, int64_t columns, float *to) {
  for (int64_t i = 0; i < rows; ++i, from += row)
    for (int64_t j = 0; j < columns; j += LANES, to += LANES)
      *(Vector *)to = load(from + j, columns - j);
}

/* Rows become the first columns of a block, padded to whole vectors. */
static void transpose(const float *from, int64_t row, int64_t rows, int64_t columns, float scale,
                      float *to) {
  int64_t whole = rows / 4 * 4, i;
  for (i = 0; i < whole; i += 4) {
    const float *four = from + i * row;
    int64_t j = 0;
    for (; j + 4 <= columns; j += 4)
      transpose_four(four + j, row, scale, to + j * BLOCK + i, BLOCK);
    for (; j < columns; ++j)
      for (int64_t k = 0; k < 4; ++k) to[j * BLOCK + i + k] = scale * four[k * row + j];
  }
  for (; i < padded(rows); ++i)
    for (int64_t j = 0; j < columns; ++j)
      to[j * BLOCK + i] = i < rows ? scale * from[i * row + j] : 0;
}

/* ---- Heads ---- */

/* Queries, keys and values of a head of an image, errors of its outputs, and its result. */
typedef struct {
  const float *from, *dy;
  float *to;
} Head;

typedef struct {
  const Sizes *of;
  float scale;            /* of scores */
  int64_t block;          /* queries */
  float *all, *some;      /* matrices with padded rows: of all tokens, and of a block */
  float *turned;          /* the columns of a block */
  float *shares, *errors; /* of all keys, in columns */
  Head head, next;
} Work;

int64_t workspace_bytes(const Sizes *of) {
  int64_t rows = of->tokens + BLOCK, columns = of->size + 2 * of->tokens;
  return (rows * padded(of->size) + columns * BLOCK) * sizeof(float);
}

static Work prepare(const Sizes *of, float *memory) {
  int64_t blocks = (of->tokens + BLOCK - 1) / BLOCK;
  double root = of->size; /* by Newton's method, without a library */
  for (int i = 0; i < 40; ++i) root = (root + of->size / root) / 2;
  Work work = {.of = of, .scale = 1 / root, .all = memory};
  work.block = padded((of->tokens + blocks - 1) / blocks);
  work.some = work.all + of->tokens * padded(of->size);
  work.turned = work.some + BLOCK * padded(of->size);
  work.shares = work.turned + of->size * BLOCK;
  work.errors = work.shares + of->tokens * BLOCK;
  return work;
}

INLINE Head head_of(const Sizes *of, Head all, int64_t number) {
  int64_t tokens = number / of->heads * of->tokens, first = number % of->heads * of->size;
  int64_t joined = 3 * tokens * channels(of) + first, single = tokens * channels(of) + first;
  if (!of->backward) return (Head){all.from + joined, NULL, all.to + single};
  return (Head){all.from + joined, all.dy + single, all.to + joined};
}

/* Reads a token of the next head ahead: waiting for memory took a tenth of the time. */
INLINE void fetch_next(const Work *work, int64_t token) {
  int64_t c = channels(work->of);
  for (int64_t part = 3 * token; part < 3 * token + 3; ++part)
    fetch(work->next.from + part * c, work->of->size);
  if (work->next.dy) fetch(work->next.dy + token * c, work->of->size);
}

/* ---- Softmax over the rows of a block ---- */

static void softmax(const Work *work, int64_t count) {
  const int64_t tokens = work->of->tokens, step = BLOCK / LANES, vectors = padded(count) / LANES;
  Vector *scores = (Vector *)work->shares, largest[BLOCK / LANES], sums[BLOCK / LANES];
  for (int64_t j = 0; j < vectors; ++j) largest[j] = scores[j], sums[j] = (Vector){0};
  for (int64_t i = 1; i < tokens; ++i)
    for (int64_t j = 0; j < vectors; ++j) {
      Vector score = scores[i * step + j];
      largest[j] = where(score > largest[j], score, largest[j]);
    }
  for (int64_t i = 0; i < tokens; ++i) {
    if (tokens <= BLOCK) fetch_next(work, i); /* longer sequences leave no place in the cache */
    for (int64_t j = 0; j < vectors; ++j)
      sums[j] += scores[i * step + j] = exponential(scores[i * step + j] - largest[j]);
  }
  for (int64_t j = 0; j < vectors; ++j) sums[j] = 1 / sums[j];
  for (int64_t i = 0; i < tokens; ++i)
    for (int64_t j = 0; j < vectors; ++j) scores[i * step + j] *= sums[j];
}

/* Turns errors of shares into those of scores. */
static void softmax_errors(const Work *work, int64_t count) {
  int64_t values = work->of->tokens * BLOCK;
  for (int64_t j = 0; j < count; j += LANES) {
    Vector mean = {0};
    for (int64_t i = j; i < values; i += BLOCK)
      mean += *(Vector *)(work->shares + i) * *(Vector *)(work->errors + i);
    for (int64_t i = j; i < values; i += BLOCK) {
      Vector *error = (Vector *)(work->errors + i);
      *error = work->scale * *(Vector *)(work->shares + i) * (*error - mean);
    }
  }
}

/* ---- Attention ---- */

/* Products of all keys or values with the columns of a block. */
static void compare(const Work *work, const float *keys, int64_t count, float *to) {
  int64_t row = 3 * channels(work->of), size = work->of->size;
  multiply((Product){keys, row, 1, work->turned, BLOCK, to, BLOCK, size, padded(count), 0},
           work->of->tokens);
}

static void find_shares(const Work *work, int64_t first, int64_t count) {
  int64_t c = channels(work->of), row = 3 * c;
  const float *queries = work->head.from + first * row;
  transpose(queries, row, count, work->of->size, work->scale, work->turned);
  compare(work, work->head.from + c, count, work->shares);
  softmax(work, count);
}

static void attend(const Work *work) {
  int64_t c = channels(work->of), tokens = work->of->tokens, size = work->of->size;
  int64_t row = padded(size);
  float *y = work->head.to;
  pack(work->head.from + 2 * c, 3 * c, tokens, size, work->all);
  for (int64_t first = 0, count; first < tokens; first += count, y += count * c) {
    count = smaller(work->block, tokens - first);
    find_shares(work, first, count);
    multiply((Product){work->shares, 1, BLOCK, work->all, row, y, c, tokens, size, 0}, count);
  }
}

static void attend_backward(const Work *work) {
  int64_t c = channels(work->of), tokens = work->of->tokens, size = work->of->size;
  int64_t row = padded(size), step = 3 * c;
  const float *queries = work->head.from, *dy = work->head.dy, *keys = queries + c;
  const float *shares = work->shares, *errors = work->errors, *some = work->some;
  float *dq = work->head.to, *dk = dq + c, *dv = dk + c;
  pack(keys, step, tokens, size, work->all);
  for (int64_t first = 0, count; first < tokens; first += count) {
    int adds = first > 0;
    count = smaller(work->block, tokens - first);
    find_shares(work, first, count);
    transpose(dy, c, count, size, 1, work->turned);
    compare(work, keys + c, count, work->errors);
    softmax_errors(work, count);
    multiply((Product){errors, 1, BLOCK, work->all, row, dq, step, tokens, size, 0}, count);
    pack(queries, step, count, size, work->some);
    multiply((Product){errors, BLOCK, 1, some, row, dk, step, count, size, adds}, tokens);
    pack(dy, c, count, size, work->some);
    multiply((Product){shares, BLOCK, 1, some, row, dv, step, count, size, adds}, tokens);
    queries += count * step, dy += count * c, dq += count * step;
  }
}

/* Operands: queries, keys and values, and the errors of the outputs for the gradient. */
XLA_FFI_Error *handle(XLA_FFI_CallFrame *frame) {
  if (!executes(frame)) return NULL;
  const Sizes *of = ((const XLA_FFI_Array *)frame->attrs.attrs[0])->data;
  const float *dy = of->backward ? data(frame->args.args[1]) : NULL;
  Head all = {data(frame->args.args[0]), dy, data(frame->rets.rets[0])};
  Work work = prepare(of, data(frame->rets.rets[1]));
  int64_t last = of->images * of->heads - 1;
  for (int64_t number = 0; number <= last; ++number) {
    work.head = head_of(of, all, number);
    work.next = head_of(of, all, smaller(number + 1, last));
    if (of->backward) attend_backward(&work);
    else attend(&work);
  }
  return NULL;
}
