/* Adds a bias to rows of values and applies an activation; gradients of both.

   One pass over the values, where XLA's takes three to five. */

#include "functions.h"
#include "handler.h"

enum { SILU, GELU, GELU_EXACT }; /* activations */
enum { ROWS = 16 };              /* summed in single precision */

typedef struct {
  int64_t backward, activation;
  int64_t rows, channels;
} Sizes;

INLINE int64_t width_of(const Sizes *of) {
  return of->channels * joined_rows(of->channels, LANES);
}

int64_t workspace_bytes(const Sizes *of) {
  return 2 * width_of(of) * sizeof(float) + of->channels * sizeof(double);
}

/* Share of the values that pass, and its derivative. */
typedef struct {
  Vector share, slope;
} Gate;

/* 1 / (1 + e^-x). */
INLINE Gate sigmoid(Vector x) {
  Integers negative = x < 0;
  Vector e = exponential(where(negative, x, -x)), inverse = 1 / (1 + e);
  return (Gate){where(negative, e, filled(1)) * inverse, e * inverse * inverse};
}

/* erf(x), with absolute errors below 3e-7: the rational function of Eigen and XLA. */
INLINE Vector erf_of(Vector x) {
  x = where(x > 4, filled(4), where(x < -4, filled(-4), x));
  Vector s = x * x;
  Vector p = s * -2.72614225801306e-10f + 2.77068142495902e-08f;
  p = p * s - 2.10102402082508e-06f;
  p = p * s - 5.69250639462346e-05f;
  p = p * s - 7.34990630326855e-04f;
  p = p * s - 2.95459980854025e-03f;
  p = p * s - 1.60960333262415e-02f;
  Vector q = s * -1.45660718464996e-05f - 2.13374055278905e-04f;
  q = q * s - 1.68282697438203e-03f;
  q = q * s - 7.37332916720468e-03f;
  q = q * s - 1.42647390514189e-02f;
  return x * p / q;
}

/* Activations are x times a gate of x. */
INLINE Gate gate(int activation, Vector x) {
  if (activation == SILU) return sigmoid(x);
  if (activation == GELU_EXACT) { /* the normal distribution */
    Vector share = erf_of(x * 0.707106781f) * 0.5f + 0.5f;
    return (Gate){share, exponential(x * x * -0.5f) * 0.398942280f};
  }
  Vector s = x * x; /* sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)) is (1 + tanh(...)) / 2 */
  Gate found = sigmoid(x * (s * 0.0713548163f + 1.59576912f));
  found.slope *= s * 0.214064449f + 1.59576912f;
  return found;
}

typedef struct {
  const float *z, *dy, *bias; /* `dy` is NULL in the forward pass */
  float *out;                 /* outputs, or gradient of `z` */
  float *sums;                /* of the gradient, (width,) */
  int64_t width, count;       /* values: some rows, of which the last may be shorter */
} Rows;

INLINE Vector result_at(int activation, const Rows *of, int64_t at, Vector bias, int64_t lanes) {
  Vector z = load(of->z + at, lanes) + bias;
  Gate found = gate(activation, z);
  if (!of->dy) return z * found.share;
  return load(of->dy + at, lanes) * (found.share + z * found.slope);
}

/* In the order of memory, which is read fastest. */
INLINE void apply_each(int activation, Rows of) {
  for (int64_t at = 0; at < of.count;)
    for (int64_t c = 0; c < of.width && at < of.count; c += LANES, at += LANES) {
      int64_t lanes = smaller(LANES, of.count - at);
      Vector result = result_at(activation, &of, at, *(const Vector *)(of.bias + c), lanes);
      store(of.out + at, result, lanes);
      if (of.dy) *(Vector *)(of.sums + c) += result;
    }
}

#define ACTIVATION(KIND) \
  case KIND: apply_each(KIND, of); break;

static void apply(int64_t activation, Rows of) {
  switch (activation) {
    ACTIVATION(SILU) ACTIVATION(GELU) ACTIVATION(GELU_EXACT)
  }
}

/* Operands: values, bias, and for gradients errors of the outputs. Results: outputs, or gradients of
   the values and the bias. */
XLA_FFI_Error *handle(XLA_FFI_CallFrame *frame) {
  if (!executes(frame)) return NULL;
  const Sizes *of = ((const XLA_FFI_Array *)frame->attrs.attrs[0])->data;
  int64_t width = width_of(of), left = of->rows * of->channels, step = ROWS * width;
  double *totals = data(frame->rets.rets[frame->rets.size - 1]);
  float *bias = (float *)(totals + of->channels), *sums = bias + width;
  memset(totals, 0, of->channels * sizeof(double));
  repeated(data(frame->args.args[1]), of->channels, bias, width);
  Rows rows = {data(frame->args.args[0]), of->backward ? data(frame->args.args[2]) : NULL, bias,
               data(frame->rets.rets[0]), sums, width, 0};
  for (; left > 0; left -= step, rows.z += step, rows.out += step) {
    rows.count = smaller(left, step);
    memset(sums, 0, width * sizeof(float));
    apply(of->activation, rows);
    if (!of->backward) continue;
    rows.dy += step;
    for (int64_t i = 0; i < width; ++i) totals[i % of->channels] += sums[i];
  }
  if (!of->backward) return NULL;
  for (int64_t i = 0; i < of->channels; ++i)
    ((float *)data(frame->rets.rets[1]))[i] = totals[i];
  return NULL;
}
