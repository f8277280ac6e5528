"""Profile: exits and accesses are counted where they belong, in bounded memory."""

import errno
from collections.abc import Iterator

import pytest
from support.fake_vcpu import FakeVcpu, fails, io, mmio, plain
from support.profile_rig import ADDRESS, FIRST_NS, PORT, ProfileRig, Slow

from vmm.devices.device_io import DeviceIoMut, Locked
from vmm.kvm.abi import KVM_EXIT_HLT
from vmm.profile import recorder, vcpu
from vmm.profile.vcpu import Place, Tally

BYTE = memoryview(bytearray(1))
PORT_READ = Place("PIO", False, PORT, "Slow")
PORT_WRITE = Place("PIO", True, PORT, "Slow")


@pytest.fixture
def rig() -> Iterator[ProfileRig]:
    rig = ProfileRig()
    yield rig
    rig.close()


def numbers(tally: Tally) -> tuple[int, int, int, int]:
    return tally.exits, tally.accesses, tally.total_ns, tally.longest_ns


# Exits and accesses


def test_an_exit_is_counted_at_its_port_and_direction(rig: ProfileRig) -> None:
    rig.plug(Slow(rig, 30))
    rig.run(100, io(PORT, 1))
    rig.recorder.pio_read(PORT, BYTE)
    rig.run(100, io(PORT, 1, is_write=True))
    rig.recorder.pio_write(PORT, BYTE)
    tallies = rig.profile.tallies()
    assert numbers(tallies[PORT_READ]) == (1, 1, 30, 30)
    assert numbers(tallies[PORT_WRITE]) == (1, 1, 30, 30)


def test_mmio_is_counted_by_page(rig: ProfileRig) -> None:
    rig.plug(Slow(rig, 30))
    rig.run(100, mmio(ADDRESS + 4, 4))
    rig.recorder.mmio_read(ADDRESS + 4, BYTE)
    rig.run(100, mmio(ADDRESS + 8, 4, is_write=True))
    rig.recorder.mmio_write(ADDRESS + 8, BYTE)
    tallies = rig.profile.tallies()
    assert numbers(tallies[Place("MMIO", False, ADDRESS, "Slow")]) == (1, 1, 30, 30)
    assert numbers(tallies[Place("MMIO", True, ADDRESS, "Slow")]) == (1, 1, 30, 30)


def test_one_exit_of_rep_ins_has_several_accesses(rig: ProfileRig) -> None:
    rig.plug(Slow(rig, 30))
    rig.run(100, io(PORT, 1, count=3))
    for _ in range(3):
        rig.recorder.pio_read(PORT, BYTE)
    assert numbers(rig.profile.tallies()[PORT_READ]) == (1, 3, 90, 30)


def test_writes_that_kvm_collected_are_no_exits(rig: ProfileRig) -> None:
    """They come between the exit and what it asks for."""
    rig.plug(Slow(rig, 30))
    rig.run(100, io(PORT, 1))
    rig.recorder.pio_write(PORT, BYTE)
    rig.recorder.pio_write(PORT, BYTE)
    rig.recorder.pio_read(PORT, BYTE)
    assert rig.profile.tallies()[PORT_WRITE].exits == 0
    assert rig.profile.tallies()[PORT_READ].exits == 1


def test_a_kick_is_an_entry_but_nobodys_exit(rig: ProfileRig) -> None:
    rig.run(100, io(PORT, 1))
    with pytest.raises(InterruptedError):
        rig.run(100, fails(InterruptedError(errno.EINTR, "Interrupted system call")))
    assert rig.recorder.entries == 2
    assert [tally.exits for tally in rig.profile.tallies().values()] == [1]


def test_other_exits_are_at_no_place(rig: ProfileRig) -> None:
    rig.run(100, plain(KVM_EXIT_HLT))
    assert rig.recorder.entries == 1
    assert rig.profile.tallies() == {}


def test_where_there_is_no_device_none_is_named(rig: ProfileRig) -> None:
    rig.run(100, io(0x87, 1))
    rig.recorder.pio_read(0x87, BYTE)
    assert Place("PIO", False, 0x87, None) in rig.profile.tallies()


def test_a_locked_device_is_named_by_what_it_locks(rig: ProfileRig) -> None:
    rig.plug(Locked(DeviceIoMut()))
    rig.recorder.pio_read(PORT, BYTE)
    assert Place("PIO", False, PORT, "DeviceIoMut") in rig.profile.tallies()


def test_what_a_device_gives_reaches_the_guest(rig: ProfileRig) -> None:
    data = memoryview(bytearray(2))
    rig.recorder.pio_read(0x87, data)
    assert bytes(data) == b"\xff\xff"


def test_what_a_device_raises_passes_through(rig: ProfileRig) -> None:
    class Broken(Slow):
        def pio_read(self, base: int, offset: int, data: memoryview) -> None:
            raise ValueError("out of paper")

    device = Broken(rig, 0)
    rig.plug(device)
    with pytest.raises(ValueError, match="out of paper"):
        rig.recorder.pio_read(PORT, BYTE)
    assert rig.recorder.device_at_port(PORT) is device
    assert rig.recorder.device_at_address(ADDRESS) is device


def test_several_vcpus_are_merged(rig: ProfileRig) -> None:
    other = FakeVcpu()
    other.index = 1
    rig.plug(Slow(rig, 30))
    second = rig.profile.vcpu(other, rig.bus, rig)
    rig.recorder.pio_read(PORT, BYTE)
    second.pio_read(PORT, BYTE)
    assert rig.profile.tallies()[PORT_READ].accesses == 2
    assert [seen.device_ns for seen in rig.profile.vcpus.values()] == [30, 30]
    other.close()


# Time


def test_time_is_the_guests_the_devices_or_the_loops(rig: ProfileRig) -> None:
    rig.plug(Slow(rig, 30))
    rig.run(100, io(PORT, 1))
    rig.pass_ns(5)
    rig.recorder.pio_read(PORT, BYTE)
    rig.pass_ns(2)
    rig.run(200, plain(KVM_EXIT_HLT))
    rig.pass_ns(1)
    rig.profile.power_off()
    seen = rig.recorder
    assert (seen.guest_ns, seen.device_ns, seen.own_ns) == (300, 30, 8)


def test_time_between_two_boots_is_nobodys(rig: ProfileRig) -> None:
    rig.run(100, plain(KVM_EXIT_HLT))
    rig.profile.power_off()
    rig.pass_ns(1000)
    rig.profile.power_on()
    rig.recorder = rig.profile.vcpu(rig.vcpu, rig.bus, rig)
    rig.run(100, plain(KVM_EXIT_HLT))
    rig.profile.power_off()
    assert (rig.recorder.guest_ns, rig.recorder.own_ns) == (200, 0)


def test_the_longest_stretches_are_kept(
    rig: ProfileRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vcpu, "MAX_LONGEST", 2)
    for stay_ns in (5, 1, 9, 7, 7, 3):
        rig.run(stay_ns, plain(KVM_EXIT_HLT))
    assert [piece.duration_ns for piece in rig.recorder.slices()] == [9, 7]
    assert rig.recorder.left_out == 4


def test_slices_are_in_the_order_of_time(rig: ProfileRig) -> None:
    rig.plug(Slow(rig, 30))
    rig.run(100, io(PORT, 1))
    rig.recorder.pio_read(PORT, BYTE)
    rig.run(50, plain(KVM_EXIT_HLT))
    assert rig.recorder.slices() == [
        (FIRST_NS, 100, None),
        (FIRST_NS + 100, 30, PORT_READ),
        (FIRST_NS + 130, 50, None),
    ]


# Boots


def test_each_boot_has_its_time_its_exits_and_its_lines(rig: ProfileRig) -> None:
    rig.run(100, plain(KVM_EXIT_HLT))
    rig.print(b"one\n")
    rig.reboot()
    rig.print(b"two\nthree\n")
    rig.run(50, plain(KVM_EXIT_HLT))
    rig.profile.power_off()
    first, second = rig.profile.boots
    assert (first.first_line, first.last_line) == (0, 1)
    assert (second.first_line, second.last_line) == (1, 3)
    assert second.end.ns - second.start.ns == 50
    assert second.end.exits - second.start.exits == 1


def test_power_off_twice_is_one_boot(rig: ProfileRig) -> None:
    rig.profile.power_off()
    rig.profile.power_off()
    assert len(rig.profile.boots) == 1


# Bounds


def test_a_guest_that_goes_everywhere_does_not_make_it_grow(rig: ProfileRig) -> None:
    for port in range(vcpu.MAX_PLACES + 10):
        rig.run(1, io(port, 1))
        rig.recorder.pio_read(port, BYTE)
    rig.recorder.mmio_write(ADDRESS, BYTE)
    tallies = rig.profile.tallies()
    assert len(tallies) == vcpu.MAX_PLACES + 2
    assert tallies[Place("PIO", False, None, "(several)")].exits == 10
    assert tallies[Place("MMIO", True, None, "(several)")].accesses == 1


def test_a_guest_that_boots_for_ever_does_not_make_it_grow(rig: ProfileRig) -> None:
    for _ in range(recorder.MAX_BOOTS + 2):
        rig.reboot()
    assert len(rig.profile.boots) == recorder.MAX_BOOTS
    assert rig.profile.boots_left_out == 2
    assert list(rig.profile.vcpus) == [0]
