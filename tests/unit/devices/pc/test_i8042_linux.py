"""I8042Device: what Linux does with it, from probe to shutdown."""

import pytest
from support.i8042_rig import (
    AUXDATA,
    AUXDIS,
    AUXINT,
    KBDDIS,
    KBDINT,
    KEYLOCK,
    POWER_ON_CTR,
    TIMEOUT,
    XLATE,
    Rig,
)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def flush(rig: Rig) -> None:
    """i8042_flush: more than 16 bytes are no controller."""
    assert len(rig.drain()) <= 16


def probe_controller(rig: Rig) -> int:
    """i8042_controller_check, _selftest and _init; returns CTR."""
    flush(rig)
    assert rig.ask(0xAA) == 0x55
    ctr = rig.ctr
    assert rig.ctr == ctr  # read twice, must be stable
    ctr = ctr & ~KBDINT | KBDDIS
    assert rig.status & KEYLOCK
    assert ctr & XLATE
    rig.command(0x60, ctr)
    flush(rig)
    return ctr


def probe_keyboard(rig: Rig, ctr: int) -> None:
    """i8042_enable_kbd_port, then atkbd's probe, reset_state and activate."""
    rig.command(0x60, ctr & ~KBDDIS | KBDINT)
    rig.drain()  # the interrupt handler, should keys have waited
    before = rig.irq1.edges
    assert rig.send(0xF2) == [0xFA, 0xAB, 0x41]
    assert rig.send(0xF5) == [0xFA]
    for byte in (0xED, 0x00, 0xF3, 0x00, 0xF4):
        assert rig.send(byte) == [0xFA]
    assert rig.irq1.edges - before == 9


def test_linux_finds_controller_aux_port_and_keyboard() -> None:
    rig = Rig()
    rig.chip.send_scancodes(bytes(100))  # somebody leans on the keyboard
    ctr = probe_controller(rig)

    rig.command(0xD3, 0x5A)  # i8042_check_aux
    assert rig.status & AUXDATA
    assert rig.drain() == [0x5A]
    rig.command(0xA7)
    assert rig.ctr & AUXDIS
    rig.command(0xA8)
    assert not rig.ctr & AUXDIS
    rig.command(0x60, ctr & ~AUXDIS | AUXINT)
    rig.command(0xD3, 0xA5)
    assert rig.irq12.edges == 1
    assert rig.status & AUXDATA
    assert rig.drain() == [0xA5]
    rig.command(0x60, ctr | AUXDIS)

    for byte in (0xF0, 0x56, 0xA4):  # i8042_check_mux: A4 back is no multiplexer
        assert rig.ask(0xD3, byte) == byte

    rig.command(0x60, ctr & ~AUXDIS | AUXINT)
    rig.command(0xD4, 0xF2)  # psmouse and atkbd on the AUX port
    assert rig.irq12.edges == 2
    assert rig.status & TIMEOUT
    assert rig.drain() == [0xFE]
    probe_keyboard(rig, ctr)


def test_linux_finds_no_aux_port_where_there_is_none() -> None:
    rig = Rig(aux=False)
    ctr = probe_controller(rig)
    assert rig.ask(0xD3, 0x5A) != 0x5A  # not the loopback that it looks for,
    assert rig.ask(0xA9) in (1, 2, 3)  # and a stuck line: it gives up here
    probe_keyboard(rig, ctr)


def test_linux_turns_a20_on_without_resetting(rig: Rig) -> None:
    rig.command(0xD1, 0xDF)
    rig.command(0xFF)
    assert rig.reset.edges == 0


def test_linux_finds_the_controller_again_after_its_shutdown(rig: Rig) -> None:
    ctr = probe_controller(rig)
    probe_keyboard(rig, ctr)
    assert rig.send(0xFF) == [0xFA, 0xAA]  # atkbd_cleanup
    rig.command(0x60, POWER_ON_CTR)  # i8042_controller_reset
    probe_keyboard(rig, probe_controller(rig))
