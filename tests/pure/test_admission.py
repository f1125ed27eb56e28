"""What many senders may hold of one bound: all that is free for one, something for everybody, and nothing above the bound."""

from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastgood.collectors.otlp.admission import LATER, SHARE, Admission, BusyError, Shares, address
from lastgood.collectors.otlp.asgi import _Impatient

MOST = 1000


def filled(shares: Shares, sender: str) -> int:
    """How much a sender gets that takes all it can."""
    taken = 0
    while True:
        try:
            shares.fits(sender, 1)
        except BusyError:
            return taken
        shares.take(sender, 1)
        taken += 1


@pytest.mark.parametrize("noisy", [1, 2, 10])
def test_senders_that_want_everything_leave_something_for_the_next(noisy: int) -> None:
    """The first takes nearly all of it; once what they hold has turned over, all have the same."""
    shares, names = Shares(MOST, "bytes", "bytes"), [f"noisy-{i}" for i in range(noisy)]
    held = {name: filled(shares, name) for name in names}
    for _ in range(200):
        for name in names:
            back = (held[name] + 3) // 4
            shares.give({name: back})
            held[name] += filled(shares, name) - back
    expected = MOST * SHARE / (1 + noisy * SHARE)
    assert all(held[name] == pytest.approx(expected, rel=0.3) for name in names)
    assert filled(shares, "quiet") > 0


def test_a_sender_alone_gets_most_of_it_and_what_it_gives_back_is_there_for_others() -> None:
    shares = Shares(MOST, "bytes", "bytes")
    held = filled(shares, "noisy")
    assert held == pytest.approx(MOST * SHARE / (SHARE + 1), abs=SHARE)
    with pytest.raises(BusyError) as caught:
        shares.fits("noisy", 1)
    assert (caught.value.reason, caught.value.retry_after_s) == ("share", 1.0)
    with pytest.raises(BusyError) as caught:
        shares.fits("quiet", MOST)
    assert caught.value.reason == "bytes"
    shares.give({"noisy": held})
    assert shares.held == 0
    shares.fits("quiet", MOST)


def test_what_is_under_way_is_given_back_whatever_happens_to_it() -> None:
    admission = Admission(2, 100)
    with admission.enter("a") as first, admission.enter("b") as second:
        first.grow(60)
        second.fits(40)
        with pytest.raises(BusyError) as caught:
            second.grow(41)
        assert caught.value.reason == "bytes"
        with pytest.raises(BusyError) as caught, admission.enter("c"):
            raise AssertionError("a third export came in")
        assert caught.value.reason == "exports"
    with pytest.raises(ZeroDivisionError), admission.enter("a") as held:
        held.grow(100)
        raise ZeroDivisionError
    with admission.enter("b") as held:
        held.grow(100)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 400), st.booleans()), max_size=60))
def test_the_bound_holds_in_any_order_and_everything_comes_back(steps: list[tuple[str, int, bool]]) -> None:
    shares = Shares(MOST, "spool", "bytes")
    held: list[tuple[str, int]] = []
    for sender, size, gives in steps:
        if gives and held:
            name, back = held.pop()
            shares.give({name: back})
            continue
        try:
            shares.fits(sender, size)
        except BusyError as error:
            assert error.reason in LATER
            continue
        shares.take(sender, size)
        held.append((sender, size))
        assert shares.held == sum(part for _, part in held) <= MOST
    for name, back in held:
        shares.give({name: back})
    assert shares.held == 0


def test_an_ipv6_network_is_one_sender() -> None:
    assert address("2001:db8::1") == address("2001:db8::ffff") != address("2001:db8:0:1::1")
    assert address("10.0.0.1") != address("10.0.0.2")
    assert address("fe80::1%eth0") == address("fe80::2")
    assert address("fe80::1%eth0.100") == address("fe80::2%eth0.100")
    assert address("::ffff:10.0.0.1") == address("10.0.0.1") != address("::ffff:10.0.0.2")


def test_connections_of_an_ipv6_network_are_those_of_one_sender() -> None:
    """Who has a network opens each connection from another of its addresses."""

    class Protocol:
        def connection_made(self, transport: Any) -> None:
            self.client = transport.get_extra_info("peername")
            self.loop = Mock()

    heard: list[str] = []
    bounds = {
        "shares": Shares(MOST, "connections", "connections"),
        "patience_s": 1.0,
        "refused": staticmethod(heard.append),
    }
    made = type("Made", (_Impatient, Protocol), bounds)
    for number in range(MOST):
        transport = Mock()
        transport.get_extra_info.return_value = (f"2001:db8::{number:x}", 4711)
        made().connection_made(transport)
    assert heard.count("connections") >= MOST / (SHARE + 2)
    other = Mock()
    other.get_extra_info.return_value = ("2001:db8:1::1", 4711)
    made().connection_made(other)
    assert not other.close.called
