"""VirtioDevice: what its author may say, and what comes of it where he says nothing."""

import pytest
from support.virtio_echo import Echo

from vmm.devices.errors import InvalidDevice, InvalidState
from vmm.devices.virtio.device import VirtioDevice


class Plain(VirtioDevice):
    device_type = 4
    queue_sizes = (8,)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("device_type", 0, "device_type is 0"),
        ("device_type", 64, "device_type is 64"),
        ("device_type", None, "device_type is None"),
        ("queue_sizes", (8, 0), "queue_sizes has 0"),
        ("queue_sizes", (24,), "queue_sizes has 24"),
        ("queue_sizes", (65536,), "queue_sizes has 65536"),
        ("features", 1 << 24, "features is 0x1000000"),
        ("features", 1 << 32, "features is"),
        ("features", 1 << 41, "features is"),
        ("features", 1 << 49, "features is"),
        ("features", 1 << 64, "features is"),
        ("features", -1, "features is"),
    ],
)
def test_attributes_that_cannot_be(name: str, value: object, message: str) -> None:
    kind = type("Wrong", (Plain,), {name: value})
    with pytest.raises(InvalidDevice, match=rf"Wrong\.{message}"):
        kind()


def test_a_type_that_was_forgotten() -> None:
    with pytest.raises(InvalidDevice, match=r"VirtioDevice\.device_type is None"):
        VirtioDevice()


@pytest.mark.parametrize("bit", [0, 23, 42, 50, 63])
def test_bits_of_its_own_are_offered(bit: int) -> None:
    kind = type("Right", (Plain,), {"features": 1 << bit})
    assert kind().offered >> bit & 1


def test_what_an_author_leaves_out() -> None:
    plain = Plain()
    assert plain.config() == b""
    assert plain.accepts(1)
    assert plain.state() is None
    assert plain.get_report() == ""
    plain.restore(None)
    with pytest.raises(InvalidState):
        plain.restore(Echo().state())
    plain.write_config(0, b"x")
    plain.reset_queue(plain.queues[0])
    with pytest.raises(NotImplementedError):
        plain.handle(plain.queues[0])


def test_nobody_is_told_of_a_device_that_is_not_plugged_in() -> None:
    plain = Plain()
    plain.start()
    plain.config_changed()
    plain.notify(plain.queues[0])
    plain.transport.interrupt_queue(plain.queues[0])
    plain.transport.serve_again(plain.queues[0])
    plain.fail("")
    assert plain.trouble == "it has failed"


def test_a_reason_is_of_a_length_to_be_read() -> None:
    plain = Plain()
    told: list[str] = []
    plain.on_trouble = told.append
    plain.fail("x" * 10_000)
    assert told == ["x" * 200]


def test_working_may_be_entered_within_itself() -> None:
    plain = Plain()
    with plain.working(), plain.working():
        assert plain.lock.acquire(blocking=False)
        plain.lock.release()
