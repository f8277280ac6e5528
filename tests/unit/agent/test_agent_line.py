"""COM2's host side and the ports beside it, with a guest made of register accesses."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.stopped_clock import StoppedClock

from vmm.agent.line import COM2, FETCH_FIRST, FETCHES, INBOX, MORE, OUTBOX, POST
from vmm.agent.port import AgentPort
from vmm.devices.serial.reg import (
    UART_FCR,
    UART_IER,
    UART_LSR,
    UART_LSR_BI,
    UART_LSR_DR,
    UART_RX,
    UART_SCR,
    UART_TX,
)


class Rig:
    """A port, and a guest that drives it."""

    def __init__(self) -> None:
        self.memory = b""
        self.port = AgentPort(StoppedClock(), lambda size: self.memory[:size])
        self.uart, self.ports = self.port.devices
        self.line = self.port._line
        self.out(UART_FCR, 1)
        self.out(UART_IER, 5)

    def out(self, register: int, value: int) -> None:
        self.uart.pio_write(COM2, register, memoryview(bytearray((value,))))

    def read(self, register: int) -> int:
        data = bytearray(1)
        self.uart.pio_read(COM2, register, memoryview(data))
        return data[0]

    def read_all(self) -> bytes:
        """All that comes by the UART, as its driver reads it."""
        found = bytearray()
        while self.read(UART_LSR) & UART_LSR_DR:
            found.append(self.read(UART_RX))
        return bytes(found)

    def fetch(self, count: int, offset: int = 0) -> bytes:
        found = bytearray()
        for _ in range(count):
            data = bytearray(1)
            self.ports.pio_read(INBOX, offset, memoryview(data))
            found += data
        return bytes(found)

    def put(self, data: bytes) -> None:
        for at in range(0, len(data), 4):
            self.ports.pio_write(OUTBOX, 0, memoryview(bytearray(data[at : at + 4])))

    def hear(self) -> list[bytes]:
        """What the session is given from now on."""
        heard: list[bytes] = []
        self.line.on_output = lambda: heard.append(self.line.take())
        return heard


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_what_is_sent_comes_by_the_uart_as_it_is_read(rig: Rig) -> None:
    data = bytes(range(256)) * 5
    rig.line.send(data)
    assert rig.read_all() == data
    assert rig.line.waiting == 0


def test_tail_is_no_shorter_than_a_trigger_level(rig: Rig) -> None:
    rig.line.send(bytes(70))
    assert len(rig.uart.state().in_buffer) == 50  # type: ignore[union-attr]
    assert rig.line.waiting == 20


def test_output_is_handed_on_with_the_end_of_a_frame(rig: Rig) -> None:
    heard = rig.hear()
    for byte in b"frame":
        rig.out(UART_TX, byte)
    assert heard == []
    rig.out(UART_TX, 0)
    assert heard == [b"frame\0"]


def test_output_without_an_end_is_handed_on_all_the_same(rig: Rig) -> None:
    heard = rig.hear()
    for _ in range(5000):
        rig.out(UART_TX, 1)
    assert [len(piece) for piece in heard] == [4096]


def test_who_fetches_is_rung_for_once(rig: Rig) -> None:
    rig.out(UART_SCR, FETCHES)
    rig.line.send(b"one\0")
    rig.line.send(b"two\0")
    assert rig.read(UART_LSR) & UART_LSR_BI
    assert rig.read_all() == b"\0"
    first = rig.fetch(FETCH_FIRST)
    assert first == (b"\x08\0one\0two\0").ljust(FETCH_FIRST, b"\0")
    assert rig.fetch(FETCH_FIRST) == bytes(FETCH_FIRST)  # no more
    rig.line.send(b"three\0")
    assert rig.read_all() == b"\0"


def test_pieces(rig: Rig) -> None:
    rig.out(UART_SCR, FETCHES)
    data = bytes(range(1, 251)) * 40  # 10,000
    rig.line.send(data)
    found, more = b"", True
    while more:
        first = rig.fetch(FETCH_FIRST)
        size = int.from_bytes(first[:2], "little")
        more = bool(size & MORE)
        size &= ~MORE
        piece = first[2 : 2 + size]
        piece += rig.fetch(size - len(piece), offset=1)
        found += piece
    assert found == data


def test_rest_that_another_host_has_is_zeros(rig: Rig) -> None:
    """A clone goes on in the middle of a piece."""
    rig.out(UART_SCR, FETCHES)
    rig.line.send(b"hello\0")
    assert rig.fetch(300, offset=1) == bytes(300)
    assert rig.fetch(FETCH_FIRST)[:8] == b"\x06\0hello\0"


def test_what_is_taken_from_memory(rig: Rig) -> None:
    heard = rig.hear()
    rig.memory = b"a frame\0"
    answer = memoryview(bytearray(4))
    for size, taken in ((8, 8), (5, 5), (100, 8), (1 << 20, 0), (0, 0)):
        size_word = memoryview(bytearray(size.to_bytes(4, "little")))
        rig.ports.pio_write(POST, 0, size_word)
        rig.ports.pio_read(POST, 0, answer)
        assert int.from_bytes(answer, "little") == taken
    rig.ports.pio_write(POST, 0, answer[:2])
    assert heard == [b"a frame\0", b"a fraa frame\0"]


def test_uart_of_one_who_has_ports_is_somebody_elses(rig: Rig) -> None:
    heard = rig.hear()
    rig.put(b"ours\0\0\0\0")
    for byte in b"theirs\0":
        rig.out(UART_TX, byte)
    assert b"".join(heard) == b"ours\0\0\0\0"


def test_nothing_reaches_a_guest_that_stands(rig: Rig) -> None:
    rig.port.hold()
    rig.line.send(b"later")
    assert rig.uart.state().in_buffer == ()  # type: ignore[union-attr]
    rig.port.go_on()
    assert rig.read_all() == b"later"


def test_odd_accesses_are_nothing(rig: Rig) -> None:
    data = memoryview(bytearray(4))
    rig.ports.pio_read(INBOX, 0, data[:2])
    rig.ports.pio_read(OUTBOX, 0, data)
    assert bytes(data) == b"\xff" * 4
    rig.ports.pio_write(INBOX, 0, data)
    assert rig.fetch(2) == b"\0\0"


def test_state_of_the_ports_is_none(rig: Rig) -> None:
    rig.ports.restore(rig.ports.state())


def test_another_machine_goes_on_from_the_uarts_state(rig: Rig) -> None:
    rig.out(UART_SCR, FETCHES)
    rig.line.send(b"a session's that nobody has any more")
    clone = Rig()
    clone.uart.restore(rig.uart.state())
    clone.port.guest.reconnect()
    clone.read_all()
    first = clone.fetch(FETCH_FIRST)
    assert first[2:5] == b"\0\x02\x01"  # HELLO, behind the end of whatever there was
    assert int.from_bytes(first[:2], "little") > 45


def test_vcpus_that_fetch_at_once_while_a_session_ends(
    rig: Rig,
) -> None:
    def fetch_much() -> None:
        for _ in range(300_000):
            rig.line.fetch()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            vcpus = [pool.submit(fetch_much) for _ in range(3)]
            while not all(vcpu.done() for vcpu in vcpus):
                rig.line.clear()
                rig.line.send(b"x")
            for vcpu in vcpus:
                vcpu.result()
    finally:
        sys.setswitchinterval(interval)
