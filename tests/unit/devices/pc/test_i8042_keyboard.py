"""The keyboard on an I8042Device: its commands, its keys, their translation."""

import threading

import pytest
from support.i8042_rig import DATA, KBDDIS, KBDINT, OBF, XLATE, Rig

from vmm.devices.pc.keyboard import MAX_SCANCODES, KeyboardState


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def listening(rig: Rig) -> Rig:
    rig.listen()
    return rig


# --- commands ------------------------------------------------------------


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
