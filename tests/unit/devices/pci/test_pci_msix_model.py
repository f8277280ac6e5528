"""MSI-X in lock-step with a model of it: masks, pending bits, routes, what was sent."""

from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support.lengths import cases
from support.pci_rig import Function, PciRig, Scratch

from vmm.devices.pci.reg import (
    PCI_BASE_ADDRESS_0,
    PCI_CAP_ID_MSIX,
    PCI_COMMAND_MASTER,
    PCI_COMMAND_MEMORY,
    PCI_MSIX_FLAGS,
    PCI_MSIX_FLAGS_ENABLE,
    PCI_MSIX_FLAGS_MASKALL,
)

COUNT: Final = 5
PBA: Final = 0x800
VECTORS = st.integers(0, COUNT - 1)
Message = tuple[int, int]


class Vector:
    """An entry of the table, and its pending bit."""

    def __init__(self) -> None:
        self.address = self.data = 0
        self.is_masked = True
        self.is_pending = False


class LockStep(RuleBasedStateMachine):
    """A guest and a device do as they like; address 0 is where nobody listens."""

    def __init__(self) -> None:
        super().__init__()
        self.start(Scratch())
        self.vectors = [Vector() for _ in range(COUNT)]
        self.is_enabled = self.are_masked = False
        self.is_master = True
        self.sent: list[list[Message]] = [[] for _ in range(COUNT)]
        self.seen: list[list[Message]] = [[] for _ in range(COUNT)]

    def start(self, device: Scratch) -> None:
        self.device = device
        self.rig = PciRig(device)
        self.function = Function(self.rig, 1)
        self.function.command(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER)
        self.table = self.function.get(PCI_BASE_ADDRESS_0 + 16)
        control = self.function.capabilities()[PCI_CAP_ID_MSIX] + PCI_MSIX_FLAGS
        self.control = control
        self.edges = [0] * COUNT

    # The guest, and what the model makes of it

    @rule(enable=st.booleans(), mask_all=st.booleans())
    def set_control(self, enable: bool, mask_all: bool) -> None:
        bits = enable * PCI_MSIX_FLAGS_ENABLE | mask_all * PCI_MSIX_FLAGS_MASKALL
        self.function.set(self.control, bits, 2)
        self.is_enabled, self.are_masked = enable, mask_all
        for vector in self.vectors:
            vector.is_pending &= enable
        self.send_pending()

    @rule(at=VECTORS, address=st.sampled_from([0, 0xFEE0_0000, 0xFEE0_1000]))
    def set_address(self, at: int, address: int) -> None:
        self.rig.store(self.table + 16 * at, address)
        self.vectors[at].address = address
        self.send_pending()

    @rule(at=VECTORS, data=st.integers(0, 3))
    def set_data(self, at: int, data: int) -> None:
        self.rig.store(self.table + 16 * at + 8, data)
        self.vectors[at].data = data
        self.send_pending()

    @rule(at=VECTORS, masked=st.booleans())
    def mask(self, at: int, masked: bool) -> None:
        self.rig.store(self.table + 16 * at + 12, masked)
        self.vectors[at].is_masked = masked
        self.send_pending()

    @rule(master=st.booleans())
    def be_master(self, master: bool) -> None:
        self.function.command(PCI_COMMAND_MEMORY | master * PCI_COMMAND_MASTER)
        self.is_master = master
        self.send_pending()

    @rule(at=VECTORS)
    def interrupt(self, at: int) -> None:
        self.device.interrupt(at)
        if self.is_enabled:
            self.vectors[at].is_pending = True
            self.send_pending()

    @rule()
    def go_on_elsewhere(self) -> None:
        state = self.device.state()
        self.look()
        self.start(Scratch())
        self.device.restore(state)

    def send_pending(self) -> None:
        if not self.is_enabled or self.are_masked or not self.is_master:
            return
        for vector, sent in zip(self.vectors, self.sent, strict=True):
            if vector.is_pending and not vector.is_masked:
                vector.is_pending = False
                if vector.address:
                    sent.append((vector.address, vector.data))

    # What is seen

    def look(self) -> None:
        """Note each edge, with where it went."""
        for at, line in enumerate(self.device.messages[:COUNT]):
            new = line.edges - self.edges[at]
            self.seen[at] += new * line.routes[-1:]
            self.edges[at] = line.edges

    @invariant()
    def what_is_sent_is_what_the_model_sends(self) -> None:
        self.look()
        assert self.seen == self.sent

    @invariant()
    def pending_bits_are_the_model_s(self) -> None:
        bits = sum(vector.is_pending << at for at, vector in enumerate(self.vectors))
        assert self.rig.load(self.table + PBA, 8) == bits


LockStep.TestCase.settings = settings(
    max_examples=cases(60, 3_000), stateful_step_count=50, deadline=None
)
TestLockStep = LockStep.TestCase
