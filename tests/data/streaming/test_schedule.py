"""The order in which images are needed, against a list of all batches."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnbench.data.batches import epoch_order
from cnnbench.data.streaming import schedule
from cnnbench.data.streaming.schedule import (
    TEST,
    TRAIN,
    VALIDATION,
    BatchParts,
    BatchSchedule,
    Share,
)
from tests.support.streams import ArrayReader


class Known(NamedTuple):
    """A batch, and the rows of its split."""

    split: int
    epoch: int
    number: int
    rows: list[int]


def all_batches(plan: BatchSchedule) -> list[Known]:
    """Every batch, by loops."""
    found = []
    train, validation, test = plan.sizes
    for epoch in range(1, plan.epochs + 1):
        order = epoch_order(plan.seed, epoch, train).tolist()
        whole = range(0, train, plan.batch_size)
        for number, start in enumerate(whole):
            rows = order[start : start + plan.batch_size]
            if len(rows) == plan.batch_size or not plan.drop_last:
                found.append(Known(TRAIN, epoch, number, rows))
        for number, start in enumerate(range(0, validation, plan.chunk)):
            rows = list(range(validation))[start : start + plan.chunk]
            found.append(Known(VALIDATION, epoch, number, rows))
    for number, start in enumerate(range(0, test, plan.chunk)):
        rows = list(range(test))[start : start + plan.chunk]
        found.append(Known(TEST, plan.epochs, number, rows))
    return found


@st.composite
def schedules(draw: st.DrawFn) -> BatchSchedule:
    number = st.integers(1, 30)
    train = draw(number)
    return BatchSchedule(
        seed=draw(st.integers(0, 3)),
        epochs=draw(st.integers(1, 3)),
        sizes=(train, draw(st.integers(0, 30)), draw(number)),
        batch_size=draw(st.integers(1, train)),
        chunk=draw(st.integers(1, 12)),
        drop_last=draw(st.booleans()),
    )


@given(schedules())
def test_the_schedule_is_the_list_of_all_batches(plan: BatchSchedule) -> None:
    want = all_batches(plan)
    assert len(plan) == len(want)
    for place, known in enumerate(want):
        batch = plan.batch(place)
        assert plan.place(known.split, known.epoch, known.number) == place
        assert (batch.split, plan.rows(batch).tolist()) == (known.split, known.rows)


@given(schedules(), st.integers(1, 40))
def test_parts_of_batches_make_up_the_batches(plan: BatchSchedule, item_bytes: int) -> None:
    reader = ArrayReader(np.arange(120, dtype=np.uint8).reshape(-1, 1, 1, 1))
    places = [np.arange(30), np.arange(40, 70), np.arange(80, 110)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "ITEM_BYTES", item_bytes)
        parts = BatchParts.of(plan, reader, places)
    want = [places[known.split][known.rows].tolist() for known in all_batches(plan)]
    for place, indices in enumerate(want):
        own = [parts[place * parts.parts + part] for part in range(parts.parts)]
        sizes = [len(item["images"]) for item in own if item]
        assert [pixel for item in own if item for pixel in item["images"].ravel()] == indices
        assert max(sizes) <= item_bytes
    assert len(parts) == len(want) * parts.parts


@given(schedules(), st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_processes_decode_every_batch_together(plan: BatchSchedule, devices: list[int]) -> None:
    """Each image once, except the last of a batch, which fills the places of processes without."""
    reader = ArrayReader(np.arange(120, dtype=np.uint8).reshape(-1, 1, 1, 1))
    places = [np.arange(30), np.arange(40, 70), np.arange(80, 110)]
    ends = np.cumsum([0, *devices]).tolist()
    shares = [Share(*pair, ends[-1]) for pair in pairwise(ends)]
    parts = [BatchParts.of(plan, reader, places, share) for share in shares]
    for place, known in enumerate(all_batches(plan)):
        want = places[known.split][known.rows].tolist()
        whole = [None] * (Share(0, 1, ends[-1]).padded(plan.whole(plan.batch(place))))
        for share, own in zip(shares, parts, strict=True):
            items = [own[place * own.parts + part] for part in range(own.parts)]
            pixels = [pixel for item in items if item for pixel in item["images"].ravel()]
            slots = share.own(plan.whole(plan.batch(place)))
            room = slots.stop - slots.start
            assert 0 < len(pixels) <= room
            whole[slots] = [*pixels, *[pixels[-1]] * (room - len(pixels))]
        assert whole == [*want, *[want[-1]] * (len(whole) - len(want))]
