"""The two 8259As as a BIOS leaves them; in KVM they start as after power-on.

Real-mode code expects IRQ 0 at vector 0x08 and IRQ 8 at 0x70, edge-triggered but for
those lines that the firmware knows to be level-triggered, and masked but for what the
BIOS serves itself: the timer, the keyboard, the slave's line, the real-time clock.
Sources: IBM PC AT Technical Reference, "System BIOS"; SeaBIOS, src/hw/pic.c; Intel
82371SB (PIIX3), "Edge/Level Control Registers".
"""

from collections.abc import Iterable
from typing import Final

from ..kvm.abi import KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE
from ..kvm.vm import Vm

MASTER_BASE: Final = 0x08  # the vector of IRQ 0
SLAVE_BASE: Final = 0x70  # that of IRQ 8
SERVED: Final = (0, 1, 2, 8)
_LINES: Final = 8


def set_up_pics(vm: Vm, level_irqs: Iterable[int]) -> None:
    """Initialise both; `level_irqs` are level-triggered, where the chips can do it."""
    levels = _bits(level_irqs)
    unmasked = _bits(SERVED)
    for chip, base, shift in (
        (KVM_IRQCHIP_PIC_MASTER, MASTER_BASE, 0),
        (KVM_IRQCHIP_PIC_SLAVE, SLAVE_BASE, _LINES),
    ):
        pic = vm.get_pic(chip)
        pic.irq_base = base
        pic.imr = ~(unmasked >> shift) & 0xFF
        pic.elcr = levels >> shift & pic.elcr_mask
        vm.set_pic(chip, pic)


def _bits(irqs: Iterable[int]) -> int:
    return sum(1 << irq for irq in set(irqs))
