"""How often: by steps, epochs and minutes, alike for a run that was interrupted."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnn import train
from jaxnn.train.record import Moment, ends_of


def moment(step, seconds=0.0, epoch=10):
    return Moment(step, epoch, seconds)


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        (train.Every(steps=4), [4, 8, 12, 16, 20]),
        (train.Every(epochs=1), [10, 20]),
        (train.Every(steps=8, epochs=1), [8, 10, 16, 20]),
    ],
)
def test_steps_and_epochs_count_from_the_beginning(every, steps):
    def fired(begin):
        last, found = moment(begin), []
        for step in range(begin + 1, 21):
            if every.due(moment(step), last):
                last = moment(step)
                found.append(step)
        return found

    assert fired(0) == steps
    assert fired(9) == [step for step in steps if step > 9]


def test_minutes_count_from_the_last_time():
    every = train.Every(minutes=0.5)
    assert not every.due(moment(1, 29.9), moment(0, 0.0))
    assert every.due(moment(1, 30.0), moment(0, 0.0))
    assert every.next_step(3, 10) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"takes steps, epochs, or minutes; write Every\(epochs=1\)"),
        ({"steps": 0}, "Every.steps must be None or an int >= 1, got 0"),
        ({"epochs": 1.5}, "Every.epochs must be None or an int >= 1, got 1.5"),
        ({"minutes": float("nan")}, "Every.minutes must be None or a number > 0, got nan"),
    ],
)
def test_what_is_no_interval_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        train.Every(**arguments)


counts = st.integers(1, 12)


@settings(max_examples=60, deadline=None)
@given(counts, counts, st.integers(1, 40), counts, counts, st.integers(0, 39))
def test_dispatches_end_where_they_would_have_without_an_interruption(
    epoch, at_once, total, often, saved, begin
):
    ends = ends_of(epoch, at_once, total, [train.Every(steps=often), train.Every(steps=saved)])

    def walked(step):
        found = []
        while step < total:
            step = ends(step)
            found.append(step)
        return found

    whole = walked(0)
    assert whole[-1] == total
    assert set(range(often, total, often)) <= set(whole)
    assert set(range(saved, total, saved)) <= set(whole)
    assert set(range(epoch, total, epoch)) <= set(whole)
    for step in whole:  # a checkpoint falls on the end of a dispatch
        assert walked(step) == [one for one in whole if one > step]
