"""I8042Device and its keyboard: one test per rule."""

import json
import threading
from dataclasses import asdict, replace

import pytest
from serial_rig import CountingTrigger

from vmm.devices.errors import InvalidState
from vmm.devices.i8042 import I8042Device
from vmm.devices.i8042_state import MAX_RESPONSES, I8042State
from vmm.devices.keyboard import MAX_SCANCODES, KeyboardState

DATA, COMMAND = 0, 4
OBF, SYSFLAG, CMDDAT, KEYLOCK, AUXDATA, TIMEOUT = 0x01, 0x04, 0x08, 0x10, 0x20, 0x40
KBDINT, AUXINT, KBDDIS, AUXDIS, XLATE = 0x01, 0x02, 0x10, 0x20, 0x40
POWER_ON_CTR = SYSFLAG | KBDDIS | AUXDIS | XLATE


class Rig:
    """A controller with its lines, and the guest's half of the protocol."""

    def __init__(self, aux: bool = True) -> None:
        self.reset, self.irq1, self.irq12 = (CountingTrigger() for _ in range(3))
        self.chip = I8042Device(self.reset, self.irq1, self.irq12 if aux else None)

    def command(self, command: int, *parameters: int) -> None:
        self.chip.write(COMMAND, command)
        for parameter in parameters:
            self.chip.write(DATA, parameter)

    def ask(self, command: int, *parameters: int) -> int:
        self.command(command, *parameters)
        assert self.status & OBF
        return self.chip.read(DATA)

    def send(self, *values: int) -> list[int]:
        """Write to the keyboard; return all that it answers."""
        for value in values:
            self.chip.write(DATA, value)
        return self.drain()

    def drain(self) -> list[int]:
        answers = []
        while self.status & OBF:
            answers.append(self.chip.read(DATA))
        return answers

    @property
    def status(self) -> int:
        return self.chip.read(COMMAND)

    @property
    def ctr(self) -> int:
        return self.ask(0x20)


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def listening(rig: Rig) -> Rig:
    """Keyboard on, with its interrupt, untranslated."""
    rig.command(0x60, KBDINT | SYSFLAG | AUXDIS)
    return rig


# --- status and command byte ---------------------------------------------


def test_status_at_power_on_is_empty_unlocked_and_past_its_self_test(rig: Rig) -> None:
    assert rig.status == SYSFLAG | KEYLOCK


def test_status_never_says_that_the_input_buffer_is_full(rig: Rig) -> None:
    rig.command(0xD1)
    assert not rig.status & 0x02


def test_status_tells_whether_a_command_or_data_was_written_last(rig: Rig) -> None:
    rig.command(0x60)
    assert rig.status & CMDDAT
    rig.chip.write(DATA, POWER_ON_CTR)
    assert not rig.status & CMDDAT


def test_ctr_at_power_on_translates_and_holds_both_ports(rig: Rig) -> None:
    assert rig.ctr == POWER_ON_CTR


def test_ctr_reads_back_what_was_written(rig: Rig) -> None:
    rig.command(0x60, 0x47)
    assert rig.ctr == 0x47


def test_sysflag_of_the_status_follows_ctr(rig: Rig) -> None:
    rig.command(0x60, POWER_ON_CTR & ~SYSFLAG)
    assert not rig.status & SYSFLAG


def test_the_controllers_ram_has_32_bytes(rig: Rig) -> None:
    for at in range(1, 32):
        rig.command(0x60 + at, 0x80 + at)
    assert [rig.ask(0x20 + at) for at in range(1, 32)] == [*range(0x81, 0xA0)]


def test_a_command_cancels_one_that_waits_for_its_parameter(rig: Rig) -> None:
    rig.command(0x60)
    assert rig.ctr == POWER_ON_CTR
    rig.chip.write(DATA, 0xEE)
    assert rig.drain() == [0xEE]


@pytest.mark.parametrize(
    ("off", "on", "bit"), [(0xA7, 0xA8, AUXDIS), (0xAD, 0xAE, KBDDIS)]
)
def test_port_commands_move_their_bit_of_ctr(
    rig: Rig, off: int, on: int, bit: int
) -> None:
    rig.command(on)
    assert rig.ctr == POWER_ON_CTR & ~bit
    rig.command(off)
    assert rig.ctr == POWER_ON_CTR


def test_unknown_commands_are_ignored(rig: Rig) -> None:
    for command in (0x00, 0x1F, 0x40, 0x90, 0xA4, 0xC1, 0xDD, 0xEF):
        rig.command(command)
    assert rig.status == SYSFLAG | KEYLOCK | CMDDAT
    assert rig.reset.edges == 0


def test_other_offsets_read_0_and_ignore_writes(rig: Rig) -> None:
    rig.chip.write(1, 0xFE)
    assert [rig.chip.read(at) for at in (1, 2, 3, 5)] == [0] * 4
    assert rig.reset.edges == 0


def test_data_that_was_read_is_read_again_while_nothing_new_came(rig: Rig) -> None:
    assert rig.ask(0xAA) == 0x55
    assert rig.chip.read(DATA) == 0x55


# --- tests, loopbacks and the output port --------------------------------


@pytest.mark.parametrize(
    ("command", "answer"), [(0xAA, 0x55), (0xAB, 0x00), (0xA9, 0x00), (0xC0, 0x80)]
)
def test_self_test_port_tests_and_input_port_answer(
    rig: Rig, command: int, answer: int
) -> None:
    rig.command(command)
    assert rig.status & (OBF | AUXDATA) == OBF
    assert rig.drain() == [answer]


def test_controller_answers_make_no_interrupt(rig: Rig) -> None:
    rig.command(0x60, KBDINT | AUXINT)
    rig.command(0x20)
    rig.command(0xAA)
    assert (rig.irq1.edges, rig.irq12.edges) == (0, 0)


def test_kbd_loop_comes_back_as_from_the_keyboard(rig: Rig) -> None:
    rig.command(0x60, KBDINT)
    rig.command(0xD2, 0x5A)
    assert rig.status & (OBF | AUXDATA) == OBF
    assert rig.irq1.edges == 1
    assert rig.drain() == [0x5A]


def test_aux_loop_comes_back_with_the_aux_bit_and_irq_12(rig: Rig) -> None:
    rig.command(0x60, AUXINT)
    rig.command(0xD3, 0x5A)
    assert rig.status & (OBF | AUXDATA | TIMEOUT) == OBF | AUXDATA
    assert (rig.irq1.edges, rig.irq12.edges) == (0, 1)
    assert rig.drain() == [0x5A]
    assert not rig.status & AUXDATA


def test_nothing_answers_on_the_aux_port_at_once(rig: Rig) -> None:
    rig.command(0x60, AUXINT)
    rig.command(0xD4, 0xF2)
    assert rig.status & (OBF | AUXDATA | TIMEOUT) == OBF | AUXDATA | TIMEOUT
    assert rig.irq12.edges == 1
    assert rig.drain() == [0xFE]


def test_without_an_aux_port_its_tests_fail_at_once() -> None:
    rig = Rig(aux=False)
    rig.command(0x60, AUXINT | AUXDIS)
    assert rig.ask(0xD3, 0x5A) == 0xFF
    assert rig.ask(0xA9) == 0x01
    rig.command(0xA8)
    assert rig.ctr & AUXDIS
    assert not rig.chip.has_aux


def test_output_port_reads_back_with_the_full_buffer_it_has(rig: Rig) -> None:
    assert rig.ask(0xD0) == 0xCF
    rig.command(0xD1, 0xDD)
    assert rig.ask(0xD0) == 0xCD
    rig.command(0xD3, 0x00)
    rig.command(0xD0)
    assert rig.drain() == [0x00, 0xED]
    rig.command(0xD2, 0x00)
    rig.command(0xD0)
    assert rig.drain() == [0x00, 0xDD]


# --- reset ---------------------------------------------------------------


@pytest.mark.parametrize("command", range(0xF0, 0x100))
def test_a_pulse_resets_if_its_bit_0_is_low(rig: Rig, command: int) -> None:
    rig.command(command)
    assert rig.reset.edges == (command + 1) % 2


@pytest.mark.parametrize(
    ("value", "resets"), [(0xDE, 1), (0x00, 1), (0xDF, 0), (0x01, 0)]
)
def test_an_output_port_write_resets_if_bit_0_is_low(
    rig: Rig, value: int, resets: int
) -> None:
    rig.command(0xD1, value)
    assert rig.reset.edges == resets


def test_reboot_k_of_linux_is_one_status_read_and_fe(rig: Rig) -> None:
    assert not rig.status & 0x02
    rig.command(0xFE)
    assert rig.reset.edges == 1


def test_whoever_hears_the_reset_may_reset_the_controller_at_once() -> None:
    class ResetNow:
        def trigger(self) -> None:
            chip.reset()

    chip = I8042Device(ResetNow(), CountingTrigger())
    chip.write(COMMAND, 0xFE)
    assert chip.read(COMMAND) == SYSFLAG | KEYLOCK


def test_reset_returns_to_power_on(listening: Rig) -> None:
    fresh = Rig().chip.state()
    listening.command(0xD1, 0x03)
    listening.command(0xD4)
    listening.chip.send_scancodes(b"\x1c\x32")
    listening.chip.write(DATA, 0xED)
    listening.chip.reset()
    assert listening.chip.state() == fresh


# --- interrupts ----------------------------------------------------------


def test_each_byte_of_the_keyboard_makes_one_irq_1(listening: Rig) -> None:
    listening.chip.write(DATA, 0xF2)
    for expected, edges in ((0xFA, 1), (0xAB, 2), (0x83, 3)):
        assert listening.irq1.edges == edges
        assert listening.chip.read(DATA) == expected
    assert listening.irq1.edges == 3


def test_no_irq_1_unless_ctr_allows_it(rig: Rig) -> None:
    assert rig.send(0xEE) == [0xEE]
    assert rig.irq1.edges == 0


def test_irq_1_comes_when_ctr_allows_it_and_a_byte_waits(rig: Rig) -> None:
    rig.chip.write(DATA, 0xEE)
    rig.command(0x60, KBDINT)
    assert rig.irq1.edges == 1


def test_ctr_written_again_makes_no_second_interrupt(listening: Rig) -> None:
    listening.chip.write(DATA, 0xEE)
    listening.command(0x60, KBDINT)
    assert listening.irq1.edges == 1


def test_a_controller_answer_overtakes_the_keyboards_byte_which_is_kept(
    listening: Rig,
) -> None:
    listening.chip.send_scancodes(b"\x1c")
    assert listening.ask(0xAA) == 0x55
    assert listening.irq1.edges == 2  # again: its first may have met the answer
    assert listening.drain() == [0x1C]


def test_a_keyboard_byte_behind_an_answer_waits_with_its_interrupt(
    listening: Rig,
) -> None:
    listening.command(0xAA)
    listening.chip.send_scancodes(b"\x1c")
    assert listening.irq1.edges == 0
    assert listening.chip.read(DATA) == 0x55
    assert listening.irq1.edges == 1


# --- keyboard commands ---------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        ((0xFF,), [0xFA, 0xAA]),
        ((0xF2,), [0xFA, 0xAB, 0x83]),
        ((0xEE,), [0xEE]),
        ((0xF4,), [0xFA]),
        ((0xF5,), [0xFA]),
        ((0xF6,), [0xFA]),
        ((0xFA,), [0xFA]),
        ((0xEF,), [0xFE]),
        ((0xF1,), [0xFE]),
        ((0x00,), [0xFE]),
    ],
)
def test_the_keyboard_answers_each_command(
    listening: Rig, sent: tuple[int, ...], answers: list[int]
) -> None:
    assert listening.send(*sent) == answers


def test_ed_sets_the_leds(listening: Rig) -> None:
    assert listening.send(0xED) + listening.send(0x05) == [0xFA, 0xFA]
    assert listening.chip.keyboard.leds == 0x05


def test_f3_sets_the_typematic_rate(listening: Rig) -> None:
    assert listening.send(0xF3) + listening.send(0x20) == [0xFA, 0xFA]
    assert listening.chip.keyboard.typematic == 0x20


def test_f0_sets_and_tells_the_scancode_set(listening: Rig) -> None:
    assert listening.send(0xF0) + listening.send(0) == [0xFA, 0xFA, 2]
    assert listening.send(0xF0) + listening.send(3) == [0xFA, 0xFA]
    assert listening.send(0xF0) + listening.send(0) == [0xFA, 0xFA, 3]
    assert listening.send(0xF0) + listening.send(4) == [0xFA, 0xFE]


def test_a_command_in_place_of_a_parameter_is_a_command(listening: Rig) -> None:
    assert listening.send(0xED) + listening.send(0xF2) == [0xFA, 0xFA, 0xAB, 0x83]
    assert listening.send(0x00) == [0xFE]


def test_fe_sends_the_last_byte_again(listening: Rig) -> None:
    listening.send(0xF2)
    assert listening.send(0xFE) == [0x83]


def test_f6_and_ff_return_to_the_defaults(listening: Rig) -> None:
    for command in (0xF6, 0xFF):
        listening.send(0xED)
        listening.send(0x07)
        listening.send(command)
        assert listening.chip.keyboard.state() == KeyboardState(
            last=listening.chip.keyboard.last
        )


def test_a_command_cuts_short_what_the_keyboard_was_answering(listening: Rig) -> None:
    listening.chip.write(DATA, 0xF2)
    assert listening.send(0xEE) == [0xFA, 0xEE]


def test_sending_to_the_keyboard_releases_its_port(rig: Rig) -> None:
    assert rig.send(0xEE) == [0xEE]
    assert not rig.ctr & KBDDIS


# --- keys ----------------------------------------------------------------


def test_scancodes_arrive_one_at_a_time_with_irq_1_each(listening: Rig) -> None:
    assert listening.chip.keyboard.send_scancodes(b"\x1c\xf0\x1c") == 3
    assert listening.irq1.edges == 1
    assert listening.drain() == [0x1C, 0xF0, 0x1C]
    assert listening.irq1.edges == 3


def test_translation_makes_set_1_of_set_2(rig: Rig) -> None:
    rig.command(0x60, XLATE)
    rig.chip.send_scancodes(b"\x1c\xf0\x1c\xe0\x75\xe0\xf0\x75\x83\x84")
    assert rig.drain() == [0x1E, 0x9E, 0xE0, 0x48, 0xE0, 0xC8, 0x41, 0x54]


def test_translation_reaches_the_identity_too(rig: Rig) -> None:
    rig.command(0x60, XLATE)
    assert rig.send(0xF2) == [0xFA, 0xAB, 0x41]


def test_a_break_prefix_waits_for_its_code_without_an_interrupt(rig: Rig) -> None:
    rig.command(0x60, XLATE | KBDINT)
    rig.chip.send_scancodes(b"\xf0")
    assert not rig.status & OBF
    rig.chip.send_scancodes(b"\x1c")
    assert rig.irq1.edges == 1
    assert rig.drain() == [0x9E]


def test_an_answer_between_prefix_and_code_is_left_alone(rig: Rig) -> None:
    rig.command(0x60, XLATE)
    rig.chip.send_scancodes(b"\xf0")
    assert rig.send(0xED) == [0xFA]
    rig.chip.send_scancodes(b"\x1c")
    assert rig.drain() == [0x9E]


def test_keys_wait_while_the_port_is_held(rig: Rig) -> None:
    assert rig.chip.send_scancodes(b"\x1c") == 1
    assert not rig.status & OBF
    rig.command(0xAE)
    assert rig.drain() == [0x1E]


def test_more_keys_than_fit_are_refused_by_their_count(rig: Rig) -> None:
    assert rig.chip.send_scancodes(bytes(MAX_SCANCODES + 10)) == MAX_SCANCODES
    assert rig.chip.send_scancodes(b"\x1c") == 0
    rig.command(0x60, 0)
    rig.chip.read(DATA)
    assert rig.chip.send_scancodes(b"\x1c\x32\x21") == 2


def test_keys_are_refused_while_scanning_is_disabled(listening: Rig) -> None:
    listening.send(0xF5)
    assert listening.chip.send_scancodes(b"\x1c") == 0
    listening.send(0xF4)
    assert listening.chip.send_scancodes(b"\x1c") == 1


def test_enabling_scanning_forgets_the_keys_before_it(rig: Rig) -> None:
    rig.chip.send_scancodes(b"\x1c")
    assert rig.send(0xF4) == [0xFA]


# --- bounds --------------------------------------------------------------


def test_answers_that_a_guest_leaves_unread_are_bounded(rig: Rig) -> None:
    for _ in range(1_000):
        rig.command(0xAA)
        rig.command(0xD3, 0x5A)
        rig.chip.write(DATA, 0xF2)
    assert len(rig.chip.state().responses) == MAX_RESPONSES
    assert len(rig.drain()) == MAX_RESPONSES + 4  # and FA, then FA AB 83


# --- what Linux does -----------------------------------------------------


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


# --- state ---------------------------------------------------------------


def busy_state() -> I8042State:
    rig = Rig()
    rig.command(0x60, KBDINT | XLATE)
    rig.chip.send_scancodes(b"\x1c\x32\xf0")
    rig.command(0xD3, 0x5A)
    rig.command(0xAA)
    rig.command(0xD1)
    return rig.chip.state()


def test_state_survives_json() -> None:
    state = busy_state()
    assert I8042State(**json.loads(json.dumps(asdict(state)))) == state


def test_a_restored_controller_continues_and_raises_what_was_due() -> None:
    rig = Rig()
    rig.chip.restore(replace(busy_state(), responses=()))
    assert rig.irq1.edges == 1
    rig.chip.write(DATA, 0xDE)
    assert rig.reset.edges == 1
    assert rig.drain() == [0x1E, 0x30]
    rig.chip.send_scancodes(b"\x1c")
    assert rig.drain() == [0x9E]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ram": (0,) * 31}, "31 bytes of RAM"),
        ({"responses": ((0, 0),) * 17}, "17 responses"),
        ({"ram": (256,) * 32}, "256 is no byte"),
        ({"latched": -1}, "-1 is no byte"),
        ({"last": "a"}, "'a' is no byte"),
        ({"responses": ((0, 4),)}, "4 is no source"),
        ({"keyboard": {"replies": [0] * 4}}, "4 replies and 0 scancodes"),
        ({"keyboard": {"scancodes": [0] * 257}}, "0 replies and 257 scancodes"),
        ({"keyboard": {"scancodes": [300]}}, "300 is no byte"),
    ],
)
def test_a_state_that_can_not_be_is_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidState, match=message):
        replace(busy_state(), **changes)  # type: ignore[arg-type]


def test_no_key_is_lost_or_doubled_between_host_and_guest(listening: Rig) -> None:
    sent = bytes(at % 0x80 for at in range(5_000))
    seen: list[int] = []

    def guest() -> None:
        while len(seen) < len(sent):
            if listening.status & OBF:
                seen.append(listening.chip.read(DATA))

    thread = threading.Thread(target=guest)
    thread.start()
    rest = sent
    while rest and thread.is_alive():
        rest = rest[listening.chip.send_scancodes(rest) :]
    thread.join(timeout=60)
    assert bytes(seen) == sent
