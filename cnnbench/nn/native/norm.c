/* Layer norms of rows, and their gradients: each row stays in the first-level cache. */

#include "functions.h"
#include "handler.h"

enum { ROWS = 16 }; /* whose gradients are summed in single precision */

typedef struct {
  int64_t backward;
  int64_t rows, channels;
} Sizes;

int64_t workspace_bytes(const Sizes *of) {
  return 2 * of->channels * (sizeof(double) + sizeof(float));
}

/* The mean is the sum of the first three. */
typedef struct {
  float first, middle, rest, factor; /* factor: 1 / deviation */
} Moments;

#define EACH_VECTOR                                                             \
  for (int64_t c = 0, lanes; lanes = smaller(LANES, channels - c), c < channels; \
       c += LANES)

INLINE Vector apart(const float *x, const Moments *of, int64_t lanes) {
  return load(x, lanes) - of->first - of->middle;
}

/* The first lanes, and zeros. */
INLINE Vector only(Vector values, int64_t lanes) {
  return lanes < LANES ? load((const float *)&values, lanes) : values;
}

/* The "corrected two-pass algorithm" (Chan, Golub & LeVeque 1983), about the first value: the
   rounding error of the mean is removed, and equal values become exactly 0. */
static Moments moments(const float *x, int64_t channels, float epsilon) {
  Moments found = {.first = x[0]};
  Vector sum = {0}, rest = {0}, squares = {0};
  EACH_VECTOR sum += only(apart(x + c, &found, lanes), lanes);
  found.middle = sum_of(sum) / channels;
  EACH_VECTOR {
    Vector distance = only(apart(x + c, &found, lanes), lanes);
    rest += distance, squares += distance * distance;
  }
  found.rest = sum_of(rest) / channels;
  float variance = sum_of(squares) / channels - found.rest * found.rest;
  found.factor = 1 / __builtin_sqrtf(variance + epsilon);
  return found;
}

INLINE Vector standardized(const float *x, const Moments *of, int64_t lanes) {
  return (apart(x, of, lanes) - of->rest) * of->factor;
}

typedef struct {
  int64_t channels;
  float epsilon;
  const float *scale, *bias;
  float *slopes, *shifts; /* sums of the gradients of both */
} Layer;

static void normalize(Layer of, const float *x, float *y) {
  int64_t channels = of.channels;
  Moments about = moments(x, channels, of.epsilon);
  EACH_VECTOR {
    Vector value = standardized(x + c, &about, lanes);
    store(y + c, value * load(of.scale + c, lanes) + load(of.bias + c, lanes), lanes);
  }
}

static void differentiate(Layer of, const float *x, const float *dy, float *dx) {
  int64_t channels = of.channels;
  Moments about = moments(x, channels, of.epsilon);
  Vector sum = {0}, along = {0};
  EACH_VECTOR {
    Vector value = only(standardized(x + c, &about, lanes), lanes), error = load(dy + c, lanes);
    store(of.slopes + c, load(of.slopes + c, lanes) + error * value, lanes);
    store(of.shifts + c, load(of.shifts + c, lanes) + error, lanes);
    error *= load(of.scale + c, lanes);
    sum += error, along += error * value;
  }
  float mean = sum_of(sum) / channels, share = sum_of(along) / channels;
  EACH_VECTOR {
    Vector value = standardized(x + c, &about, lanes), error = load(dy + c, lanes);
    error = error * load(of.scale + c, lanes) - mean - value * share;
    store(dx + c, error * about.factor, lanes);
  }
}

static void differentiate_rows(const Sizes *sizes, Layer of, const float *x, const float *dy,
                               float *dx, double *totals) {
  int64_t channels = sizes->channels;
  memset(totals, 0, 2 * channels * sizeof(double));
  for (int64_t row = 0; row < sizes->rows; ++row) {
    if (row % ROWS == 0) memset(of.slopes, 0, 2 * channels * sizeof(float));
    int64_t at = row * channels;
    differentiate(of, x + at, dy + at, dx + at);
    if (row % ROWS == ROWS - 1 || row == sizes->rows - 1)
      for (int64_t i = 0; i < 2 * channels; ++i) totals[i] += of.slopes[i];
  }
}

/* Operands: values, scale, bias, epsilon, and for gradients errors of the outputs. Results: outputs,
   or gradients of the values, and of scale and bias, (2, channels). */
XLA_FFI_Error *handle(XLA_FFI_CallFrame *frame) {
  if (!executes(frame)) return NULL;
  const Sizes *of = ((const XLA_FFI_Array *)frame->attrs.attrs[0])->data;
  const float *x = data(frame->args.args[0]);
  double *totals = data(frame->rets.rets[frame->rets.size - 1]);
  float *result = data(frame->rets.rets[0]), *sums = (float *)(totals + 2 * of->channels);
  Layer layer = {of->channels, *(const float *)data(frame->args.args[3]),
                 data(frame->args.args[1]), data(frame->args.args[2]),
                 sums, sums + of->channels};
  if (of->backward) {
    differentiate_rows(of, layer, x, data(frame->args.args[4]), result, totals);
    float *gradients = data(frame->rets.rets[1]);
    for (int64_t i = 0; i < 2 * of->channels; ++i) gradients[i] = totals[i];
    return NULL;
  }
  for (int64_t i = 0; i < of->rows * of->channels; i += of->channels)
    normalize(layer, x + i, result + i);
  return NULL;
}
