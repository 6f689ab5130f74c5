/* Elementary functions of vectors. */

#pragma once

#include "vectors.h"

typedef int32_t Integers __attribute__((vector_size(4 * LANES)));

INLINE Vector where(Integers chosen, Vector yes, Vector no) {
  return (Vector)(((Integers)yes & chosen) | ((Integers)no & ~chosen));
}
INLINE Vector filled(float value) { return (Vector){0} + value; }

/* e^x for x <= 0, or NaN, within two units in the last place; 0 instead of subnormal numbers. Cephes
   (Moshier 1992), expf: 2^n e^r with |r| <= log(2) / 2. */
INLINE Vector exponential(Vector x) {
  const float to_integer = 12582912; /* 1.5 * 2^23: the last bit of a sum is a one */
  Integers vanishes = x < -87.33654f;
  x = where(vanishes, (Vector){0}, x);
  Vector shifted = x * 1.44269504f + to_integer, n = shifted - to_integer;
  Vector r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  Integers power = ((Integers)shifted - (Integers)filled(to_integer) + 127) << 23;
  return where(vanishes, (Vector){0}, (p * r * r + r + 1) * (Vector)power);
}
