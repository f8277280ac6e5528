"""An I8042Device with its lines, and the guest's half of the protocol."""

from support.serial_rig import CountingTrigger
from vmm.devices.pc.i8042 import I8042Device

DATA, COMMAND = 0, 4
OBF, SYSFLAG, CMDDAT, KEYLOCK, AUXDATA, TIMEOUT = 0x01, 0x04, 0x08, 0x10, 0x20, 0x40
KBDINT, AUXINT, KBDDIS, AUXDIS, XLATE = 0x01, 0x02, 0x10, 0x20, 0x40
POWER_ON_CTR = SYSFLAG | KBDDIS | AUXDIS | XLATE


class Rig:
    """A controller with its lines, and the guest's half of the protocol."""

    def __init__(self, aux: bool = True) -> None:
        self.reset, self.irq1, self.irq12 = (CountingTrigger() for _ in range(3))
        self.chip = I8042Device(self.reset, self.irq1, self.irq12 if aux else None)

    def listen(self) -> None:
        """Keyboard on, with its interrupt, untranslated."""
        self.command(0x60, KBDINT | SYSFLAG | AUXDIS)

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
