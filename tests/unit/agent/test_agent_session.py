"""The host's side of the agent's channel, against guests of every kind."""

import struct
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm import ExitReason, GuestEnded, RunResult, VmmError
from vmm.agent import frames
from vmm.agent.channel import OUTPUT_WINDOW
from vmm.agent.frames import WIRE_MAX, Decoder, Frame, decode, encode
from vmm.agent.order import order
from vmm.agent.session import UNASKED_MAX, WIRE_WINDOW, Session

TRUE = order(["true"])


class FakeWire:
    """Keeps what was sent, and reads it as an agent does."""

    def __init__(self) -> None:
        self.sent = b""
        self.waiting = 0

    def send(self, data: bytes) -> None:
        self.sent += data

    def clear(self) -> None:
        self.sent = b""

    def frames(self) -> list[Frame]:
        sent, self.sent = self.sent, b""
        return Decoder().feed(sent)


class FakeAgent:
    """The guest's side, as far as a test needs it."""

    def __init__(self) -> None:
        self.wire = FakeWire()
        self.session = Session(self.wire)
        self.sequence = 0

    def say(self, kind: int, payload: bytes = b"", channel: int = 0) -> None:
        data = encode(kind, self.sequence, channel, payload)
        self.sequence += 1
        self.session.receive(lambda: data)

    def welcome(self) -> None:
        """Answer HELLO."""
        hello = next(f for f in self.wire.frames() if f.type == frames.HELLO)
        self.sequence = 0
        self.say(frames.WELCOME, hello.payload[:5])


@pytest.fixture
def agent() -> FakeAgent:
    agent = FakeAgent()
    agent.session.greet()
    agent.welcome()
    return agent


bodies = st.one_of(
    st.binary(max_size=600),
    st.builds(
        lambda byte, size: byte * size,
        st.binary(min_size=1, max_size=1),
        st.integers(0, 2000),
    ),
)


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 65535), bodies)
def test_frame_comes_out_as_it_went_in(
    kind: int, sequence: int, channel: int, payload: bytes
) -> None:
    wire = encode(kind, sequence, channel, payload)
    assert wire.count(0) == 1
    assert len(wire) <= WIRE_MAX + 1
    assert decode(wire[:-1]) == Frame(kind, sequence, channel, payload)


@pytest.mark.parametrize("size", [246, 247, 248, 249, 500, 501, 502, 503, 2048])
def test_frames_about_the_length_of_a_code(size: int) -> None:
    for payload in (b"x" * size, b"x" * (size - 1) + b"\0", b"\0" * size):
        assert decode(encode(1, 2, 3, payload)[:-1]) == Frame(1, 2, 3, payload)


@given(st.binary(), st.binary(max_size=50), st.integers(0, 100))
def test_frame_behind_garbage_is_found(junk: bytes, cut: bytes, at: int) -> None:
    decoder = Decoder()
    wire = junk + b"\0" + encode(1, 0, 5, b"payload") + cut
    found = decoder.feed(wire[:at]) + decoder.feed(wire[at:])
    assert Frame(1, 0, 5, b"payload") in found


@given(st.lists(st.binary(max_size=5000), max_size=20))
def test_decoder_keeps_no_more_than_a_frame(pieces: list[bytes]) -> None:
    decoder = Decoder()
    for piece in pieces:
        decoder.feed(piece)
        assert len(decoder._rest) <= WIRE_MAX


def test_every_bit_counts() -> None:
    wire = bytearray(encode(1, 0, 5, b"payload")[:-1])
    for at in range(8 * len(wire)):
        wire[at // 8] ^= 1 << at % 8
        assert decode(bytes(wire)) is None
        wire[at // 8] ^= 1 << at % 8


kinds = st.one_of(st.integers(0, 255), st.sampled_from(range(0x80, 0x8C)))
guest_frames = st.builds(
    encode, kinds, st.integers(0, 3), st.integers(0, 3), st.binary(max_size=300)
)


@given(st.lists(st.one_of(st.binary(max_size=100), guest_frames), max_size=40))
def test_no_guest_makes_the_session_raise_or_grow(pieces: list[bytes]) -> None:
    agent = FakeAgent()
    session = agent.session
    session.greet()
    agent.welcome()
    with session.changed:
        channels = [session.open(TRUE) for _ in range(3)]
    for piece in pieces:
        session.receive(lambda piece=piece: piece)  # type: ignore[misc]
    assert len(agent.wire.sent) < WIRE_WINDOW
    assert len(session._queue) < 64
    for channel in channels:
        assert sum(map(len, channel.output)) <= 2 * OUTPUT_WINDOW


def test_command_goes_behind_hello_and_again_when_the_agent_was_not_there() -> None:
    agent = FakeAgent()
    with agent.session.changed:
        agent.session.open(TRUE)
    assert agent.wire.sent == b""  # nobody is there
    agent.say(frames.READY)
    first = agent.wire.frames()
    assert [frame.type for frame in first] == [frames.HELLO, frames.RUN]
    agent.say(frames.READY)  # it hasn't got it: its driver has emptied the FIFO
    again = agent.wire.frames()
    assert again[0].payload[:5] == first[0].payload[:5]  # the same session
    assert again[1] == first[1]  # and number: it does nothing twice


def test_no_more_than_so_much_without_an_answer() -> None:
    agent = FakeAgent()
    agent.session.greet()
    with agent.session.changed:
        for _ in range(UNASKED_MAX + 10):
            agent.session.open(TRUE)
    assert len(Decoder().feed(agent.wire.sent)) == 1 + UNASKED_MAX
    agent.welcome()
    assert len(agent.wire.frames()) == 10


def test_what_was_given_up_before_it_was_sent_never_runs() -> None:
    agent = FakeAgent()
    with agent.session.changed:
        kept = agent.session.open(TRUE)
        for _ in range(UNASKED_MAX):
            channel = agent.session.open(TRUE * 2000)  # many frames
            channel.write(b"its input")
            agent.session.forget(channel)
    agent.say(frames.READY)
    sent = [(frame.type, frame.channel) for frame in agent.wire.frames()]
    assert sent == [(frames.HELLO, 0), (frames.RUN, kept.number)]
    assert agent.session._queued == 0


def test_what_was_given_up_when_a_part_was_sent_is_ended() -> None:
    agent = FakeAgent()
    agent.session.greet()
    with agent.session.changed:
        channel = agent.session.open(TRUE * 20_000)
        agent.session.forget(channel)
    agent.welcome()
    agent.say(frames.TAKEN, struct.pack("<I", 1 << 20))
    kinds = [frame.type for frame in agent.wire.frames()]
    assert kinds[0] == frames.RUN_MORE
    assert kinds[-3:] == [frames.RUN, frames.SIGNAL, frames.CLOSE]


def test_frames_of_another_session_are_nothing() -> None:
    agent = FakeAgent()
    agent.session.greet()
    with agent.session.changed:
        channel = agent.session.open(TRUE)
    agent.say(frames.OUTPUT, b"old", channel.number)
    agent.say(frames.WELCOME, struct.pack("<BI", 1, 12345))
    agent.say(frames.CHANGED, struct.pack("<BH", 7, 0), channel.number)
    assert not channel.is_over
    assert not agent.session.is_ready


def test_hello_has_entropy_and_differs_each_time() -> None:
    seen = set()
    for _ in range(3):
        agent = FakeAgent()
        agent.session.greet()
        hello = agent.wire.frames()[0].payload
        assert len(hello) == 1 + 4 + 32 + 8
        seen.add(hello[:37])
    assert len(seen) == 3


def test_wall_clock_is_told() -> None:
    wire = FakeWire()
    session = Session(wire)
    session.greet()
    assert wire.frames()[0].payload[-8:] == bytes(8)
    session.greet(tells_time=True)
    (now,) = struct.unpack("<Q", wire.frames()[0].payload[-8:])
    assert abs(now - time.time_ns()) < 60e9


def test_gap_fails_what_runs(agent: FakeAgent) -> None:
    with agent.session.changed:
        channel = agent.session.open(TRUE)
    agent.sequence += 1
    agent.say(frames.PONG)
    assert isinstance(channel.error, VmmError)
    assert "damaged on the way" in str(channel.error)


def test_damage_is_asked_about(agent: FakeAgent) -> None:
    for _ in range(3):
        agent.session.receive(lambda: b"garbage\0")
    assert [frame.type for frame in agent.wire.frames()] == [frames.PING]


def test_more_output_than_was_allowed_ends_the_command(agent: FakeAgent) -> None:
    with agent.session.changed:
        channel = agent.session.open(TRUE)
    for _ in range(OUTPUT_WINDOW // 2048 + 1):
        agent.say(frames.OUTPUT, bytes(2048), channel.number)
    assert "more output" in str(channel.error)


@pytest.mark.parametrize("status", [0x137F, 0xFFFF, 0x7F, 0xFF])
def test_status_of_one_that_hasnt_ended_is_nonsense(
    agent: FakeAgent, status: int
) -> None:
    with agent.session.changed:
        channel = agent.session.open(TRUE)
    agent.say(frames.CHANGED, struct.pack("<BH", 7, status), channel.number)
    assert channel.status is None
    assert "makes no sense" in str(channel.error)


def test_guest_that_takes_nothing_is_sent_no_more(agent: FakeAgent) -> None:
    with agent.session.changed:
        channel = agent.session.open(TRUE)
        for _ in range(1000):
            channel.write(bytes(8192))
            channel.input_room = 8192  # as a liar would say
    assert len(agent.wire.sent) < WIRE_WINDOW + 2 * WIRE_MAX
    assert agent.session._queued <= WIRE_WINDOW + 8192


def result() -> RunResult:
    return RunResult(ExitReason.PANIC, 34, detail="Kernel panic", oops="BUG: it\nwas")


def test_end_of_the_guest(agent: FakeAgent) -> None:
    with agent.session.changed:
        channel = agent.session.open(TRUE)
    agent.session.end(result())
    assert isinstance(channel.error, GuestEnded)
    assert str(channel.error).endswith("(panic): Kernel panic\nBUG: it\nwas")
    with agent.session.changed, pytest.raises(GuestEnded):
        agent.session.open(TRUE)
    agent.session.end(None)
    with agent.session.changed:
        agent.session.open(TRUE)


@pytest.mark.parametrize(
    ("restart", "why"),
    [
        (lambda agent: agent.session.power_on(), "has booted anew"),
        (lambda agent: agent.session.greet(), "was made anew"),
        (lambda agent: agent.say(frames.READY), "has started anew"),
    ],
)
def test_another_session_ends_the_commands_of_this(
    agent: FakeAgent, restart: Callable[[FakeAgent], None], why: str
) -> None:
    with agent.session.changed:
        channel = agent.session.open(TRUE)
    restart(agent)
    assert why in str(channel.error)
    assert not agent.session.is_ready
