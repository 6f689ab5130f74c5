/* Maxima of windows of images (h, w, c), and their places: the number of the largest cell of each
   window, row by row. Of equal cells, it is the first one; of several NaN, the last. */

#include "functions.h"

enum { MOST_CELLS = 127 }; /* of a window */

typedef struct {
  int64_t high, wide;    /* cells of a window */
  int64_t down, across;  /* stride */
  int64_t rows, columns; /* windows */
} Windows;

typedef int8_t Bytes __attribute__((vector_size(LANES)));

/* The largest of the cells of a window, or NaN if there is one. Rows and columns of cells are `row`
   and `column` values apart. */
INLINE void find_largest(Windows of, const float *from, int64_t row, int64_t column, int64_t lanes,
                         float *largest, int8_t *place) {
  Vector most = load(from, lanes);
  Integers found = {0};
  for (int64_t i = 0, cell = 0; i < of.high; ++i)
    for (int64_t j = 0; j < of.wide; ++j, ++cell) {
      Vector value = load(from + i * row + j * column, lanes);
      Integers wins = (value > most) | (value != value);
      found = (found & ~wins) | ((int32_t)cell & wins);
      most = where(wins, value, most);
    }
  store(largest, most, lanes);
  Bytes narrow = __builtin_convertvector(found, Bytes);
  memcpy(place, &narrow, smaller(lanes, LANES));
}

/* Pools a row of windows with `channels` values per pixel. */
INLINE void pool_row(Windows of, const float *from, int64_t row, int64_t column, int64_t channels,
                     float *largest, int8_t *places) {
  for (int64_t j = 0; j < of.columns; ++j, from += of.across * column) {
    for (int64_t c = 0; c < channels; c += LANES)
      if (channels - c < LANES)
        find_largest(of, from + c, row, column, channels - c, largest + c, places + c);
      else find_largest(of, from + c, row, column, LANES, largest + c, places + c);
    largest += channels, places += channels;
  }
}
