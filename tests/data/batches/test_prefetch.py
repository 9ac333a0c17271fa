"""Values made ahead: their order, errors, and the end of the thread."""

import threading
from itertools import count

import pytest

from alignbench.data.batches.prefetch import Prefetch


def test_values_come_in_order_and_each_is_made_once_in_a_thread_of_its_own():
    numbers, threads = count(), set()

    def make():
        threads.add(threading.get_ident())
        return next(numbers)

    values = Prefetch()
    for number in range(3):
        values.start(make)
        values.start(make)  # it was begun
        assert values.take() == number
    values.close()
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_the_next_value_is_made_before_it_is_asked_for():
    made = threading.Event()
    values = Prefetch()
    values.start(made.set)
    assert made.wait(10)
    values.close()


def test_an_error_is_raised_as_it_is_where_the_value_is_asked_for():
    error = KeyError("gone")

    def make():
        raise error

    values = Prefetch()
    values.start(make)
    with pytest.raises(KeyError) as raised:
        values.take()
    assert raised.value is error
    values.close()


def test_closing_waits_for_the_value_that_is_being_made_and_ends_the_thread():
    begun, go_on, done = threading.Event(), threading.Event(), []

    def make():
        begun.set()
        go_on.wait(10)
        done.append(threading.current_thread())

    values = Prefetch()
    values.start(make)
    begun.wait(10)
    threading.Timer(0.05, go_on.set).start()
    values.close()
    assert not done[0].is_alive()
