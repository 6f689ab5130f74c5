/* Max pools of images (n, h, w, c), and their gradients. */

#include "handler.h"
#include "pool.h"

typedef struct {
  int64_t backward;
  int64_t images, height, width, channels;
  Windows windows;
} Sizes;

static void pool(const Sizes *of, const float *x, float *y, int8_t *places) {
  Windows windows = of->windows;
  int64_t row = of->width * of->channels, out = windows.columns * of->channels;
  for (int64_t n = 0; n < of->images; ++n, x += of->height * row)
    for (int64_t i = 0; i < windows.rows; ++i, y += out, places += out)
      pool_row(windows, x + i * windows.down * row, row, of->channels, of->channels, y, places);
}

/* Adds the error of a window to that of its largest cell. */
INLINE void return_error(const Sizes *of, const float *dy, const int8_t *places, float *dx,
                         int64_t lanes) {
  Windows windows = of->windows;
  Bytes narrow = {0};
  memcpy(&narrow, places, smaller(lanes, LANES));
  Integers place = __builtin_convertvector(narrow, Integers);
  Vector error = load(dy, lanes);
  for (int64_t i = 0, cell = 0; i < windows.high; ++i)
    for (int64_t j = 0; j < windows.wide; ++j, ++cell) {
      float *to = dx + (i * of->width + j) * of->channels;
      store(to, load(to, lanes) + where(place == (int32_t)cell, error, (Vector){0}), lanes);
    }
}

static void unpool(const Sizes *of, const float *dy, const int8_t *places, float *dx) {
  Windows windows = of->windows;
  int64_t row = of->width * of->channels;
  for (int64_t n = 0; n < of->images; ++n, dx += of->height * row) {
    memset(dx, 0, of->height * row * sizeof(float)); /* now, to be still in the cache below */
    for (int64_t i = 0; i < windows.rows; ++i)
      for (int64_t j = 0; j < windows.columns; ++j, dy += of->channels, places += of->channels)
        for (int64_t c = 0; c < of->channels; c += LANES) {
          float *to = dx + i * windows.down * row + j * windows.across * of->channels + c;
          return_error(of, dy + c, places + c, to, of->channels - c);
        }
  }
}

/* From images to maxima and places, or from errors and places to errors of images. */
XLA_FFI_Error *handle(XLA_FFI_CallFrame *frame) {
  if (!executes(frame)) return NULL;
  const Sizes *of = ((const XLA_FFI_Array *)frame->attrs.attrs[0])->data;
  const float *first = data(frame->args.args[0]);
  float *result = data(frame->rets.rets[0]);
  if (of->backward) unpool(of, first, data(frame->args.args[1]), result);
  else pool(of, first, result, data(frame->rets.rets[1]));
  return NULL;
}
