/* Sums of a batch norm, limited only by memory bandwidth; see sums.h. */

#include "handler.h"
#include "sums.h"

static void add_rows(Rows of) {
  int64_t left = of.rows, most = of.width < LONG ? MOST_ROWS : 1;
  for (; left > 0; left -= of.rows) {
    of.rows = smaller(left, most);
    add_block(of);
    of.values += of.rows * of.width;
    if (of.others) of.others += of.rows * of.width;
  }
}

/* Operands: values, (rows, channels). For the second kind of sums also others, (rows, channels), and
   their middle, (channels,); for errors after a relu, also its factor and bias, (channels,), and its
   limit as an attribute. Results: both sums, (2, channels), and working memory.

   Short rows are added as a longer one whose width is a multiple of WIDTH. */
XLA_FFI_Error *handle(XLA_FFI_CallFrame *frame) {
  if (!executes(frame)) return NULL;
  const XLA_FFI_Buffer *values = frame->args.args[0];
  int64_t rows = values->dims[0], channels = values->dims[1];
  int64_t together = joined_rows(channels, WIDTH);
  while (channels * together < FEW * WIDTH) together *= 2;
  int64_t width = channels * together;
  double *sums = data(frame->rets.rets[0]), *work = data(frame->rets.rets[1]);
  Rows of = {.values = values->data, .width = width, .first = work, .second = work + width};
  memset(sums, 0, 2 * channels * sizeof(double));
  memset(work, 0, 2 * width * sizeof(double));
  const float *columns[3] = {NULL};
  for (int64_t i = 2; i < frame->args.size; ++i)
    columns[i - 2] = repeated(data(frame->args.args[i]), channels,
                              (float *)(work + 2 * width) + (i - 2) * width, width);
  of.middle = columns[0], of.factor = columns[1], of.bias = columns[2];
  if (of.middle) of.others = data(frame->args.args[1]);
  if (of.factor) of.limit = *(const float *)((const XLA_FFI_Scalar *)frame->attrs.attrs[0])->value;
  of.rows = rows / together;
  add_rows(of);
  for (int64_t i = 0; i < width; ++i) {
    sums[i % channels] += of.first[i];
    sums[channels + i % channels] += of.second[i];
  }
  for (int64_t i = of.rows * width; i < rows * channels; ++i) {
    int64_t c = i % channels;
    float value = of.values[i], other = of.others ? of.others[i] - of.middle[c] : value;
    float y = of.factor ? other * of.factor[c] + of.bias[c] : 0;
    if (of.factor && !(y > 0 && y < of.limit)) value = 0;
    sums[c] += value;
    sums[channels + c] += (double)value * other;
  }
  return NULL;
}
