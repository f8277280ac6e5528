"""VideoWindow: its slot goes and comes, by which KVM forgets translations."""

import pytest

from vmm.machine.video_window import VideoWindow
from vmm.memory import Region

SIZE = 0x2_0000


class FakeVm:
    def __init__(self) -> None:
        self.sizes: list[int] = []

    def set_user_memory_region(self, slot: int, at: int, size: int, host: int) -> None:
        self.sizes.append(size)


@pytest.mark.parametrize("claimed", [False, True])
def test_renewed_it_is_as_before_and_was_gone_once(claimed: bool) -> None:
    vm = FakeVm()
    window = VideoWindow(vm, 1, Region(0xA_0000, SIZE, 0), 0)  # type: ignore[arg-type]
    if claimed:
        window.open()
    before = vm.sizes[-1]
    window.renew()
    assert vm.sizes[-1] == before
    assert 0 in vm.sizes[-2:]
    assert SIZE in vm.sizes[-2:]
