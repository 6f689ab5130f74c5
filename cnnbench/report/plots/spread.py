"""Positions in a row for labels or arrowheads: close to where they are wanted, without overlap."""

from collections.abc import Sequence
from itertools import pairwise


def spread(wanted: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Centers in a row from 0 to 1, close to where they are wanted, without overlap.

    Args:
      wanted: the preferred center of each.
      sizes: their lengths; if they sum to more than 1, the row extends below 0.

    >>> [round(place, 2) for place in spread([0.5, 0.52, 0.98], [0.1, 0.1, 0.1])]
    [0.46, 0.56, 0.95]
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = list(wanted)
    for _ in range(50):  # overlapping neighbors push each other apart, half of the way each
        for one, other in pairwise(order):
            overlap = (sizes[one] + sizes[other]) / 2 - (places[other] - places[one])
            if overlap > 0:
                places[one] -= overlap / 2
                places[other] += overlap / 2
    below, above = 0.0, 1.0
    for i in order:
        places[i] = max(places[i], below + sizes[i] / 2)
        below = places[i] + sizes[i] / 2
    for i in reversed(order):
        places[i] = min(places[i], above - sizes[i] / 2)
        above = places[i] - sizes[i] / 2
    return places
