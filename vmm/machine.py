"""Machine: one virtual machine, from its configuration to its result."""

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from .board import Board
from .boot.image import ImageFile
from .boot.kernel import open_kernel
from .boot.layout import ram_ranges
from .boot.linux import LinuxBoot
from .config import MachineConfig
from .console import HURRY_S, Console
from .device_manager import DeviceManager
from .devices.device_io import DeviceIo
from .devices.io_manager import IoManager
from .devices.keyboard import Ps2Keyboard
from .devices.resource_manager import ResourceManager
from .errors import VmmError
from .event_loop import EventLoop
from .guest_entry import TICK_NS
from .host import host_kind
from .kvm._libc import install_kick_handler
from .kvm.kvm import Kvm
from .memory import GuestMemory
from .power_cycle import PowerCycle, survey
from .quirks import Quirks, quirks_for
from .result import EXIT_CODES, ExitReason, RunResult
from .run_control import End, RunControl

if TYPE_CHECKING:  # a run without a profile doesn't import it
    from .profile.recorder import Profile


class Machine:
    """A machine that runs once, over as many boots as its guest resets.

    The constructor checks everything that can be checked: it raises ConfigError
    (a field of the configuration), ImageError (a file), KvmUnavailable (the
    host). `start`, `wait`, `stop` and `close` may be called from any thread;
    leaving the `with` block stops the guest and releases everything. `warnings`
    are lines about what may not work, or take long, on this host. A `profile`
    records where the time goes; such a run uses the run loop in Python.

    Threads: vCPU 0's also builds the VM of every further boot; the event loop's
    does all host I/O. Lock order: DeviceManager, a device, its sink, RunControl.
    """

    def __init__(
        self, config: MachineConfig | None = None, profile: "Profile | None" = None
    ) -> None:
        self.config = config or MachineConfig()
        self._profile = profile
        self._control = RunControl()
        self._io_manager = IoManager()
        self._result: RunResult | None = None
        self._done = threading.Event()
        self._exits: dict[str, int] = {}
        self._insn_emulation = 0
        self._resets = 0
        self._started_ns: int | None = None
        with ExitStack() as stack:
            self._quirks = _quirks(self.config)
            self._boot = _open_boot(self.config, self._quirks, stack)
            self.warnings = self._quirks.warnings(self._boot.kernel, self.config.cpus)
            kvm = stack.enter_context(Kvm())
            self._host = survey(kvm, self._quirks, self.config.cpus)
            self._memory = GuestMemory(ram_ranges(self.config.memory_size))
            stack.callback(self._memory.close)
            self._loop = EventLoop(self._on_error)
            stack.callback(self._loop.close)
            self._devices = DeviceManager(
                ResourceManager(),
                self._io_manager,
                self._loop,
                posts=self._host.posts,
            )
            tap = None if profile is None else profile.console
            self.console = Console(self._loop, self.config, self._fail, tap)
            stack.callback(self.console.close)
            stack.callback(self._devices.close)
            stack.callback(self._loop.stop)  # before what its callbacks use is closed
            self._board = Board(self.console, self._loop, self._reset)
            for device in self._board.devices:
                self._devices.add(device)
            self.console.connect(self._board.serial)
            self._cleanup = stack.pop_all()
        self._thread = threading.Thread(target=self._main, name="vmm-vcpu0")

    # What a user does

    def start(self) -> None:
        """Power on; returns while the guest boots. Raises VmmError, KvmError."""
        if self._started_ns is not None:
            raise VmmError("this machine was started already: make another")
        install_kick_handler()
        self._cycle = self._power_on()
        self._started_ns = self._loop.now_ns()
        if self.config.timeout is not None:
            due = self._started_ns + int(self.config.timeout * 1e9)
            self._loop.call_at(due, self._on_timeout)
        if self._host.posts and (self._host.entry == "python" or self._profile):
            self._poke()
        self._loop.start()
        self._thread.start()

    def wait(self, timeout: float | None = None) -> RunResult:
        """Wait for the end of the run, up to `timeout` seconds.

        Raises TimeoutError if the guest still runs then; it goes on running.
        """
        if self._started_ns is None:
            raise VmmError("this machine was never started")
        if not self._done.wait(timeout):
            raise TimeoutError(f"the guest still runs after {timeout} s")
        assert self._result is not None
        return self._result

    def run(self) -> RunResult:
        """`start` and `wait`."""
        self.start()
        return self.wait()

    def stop(self, detail: str = "", exit_code: int | None = None) -> None:
        """End the run now, with reason `stopped`; returns before it has ended."""
        self._control.finish(End(ExitReason.STOPPED, detail, exit_code))
        self.console.abandon()

    def plug(self, device: DeviceIo) -> None:
        """Put a device of the user's on the buses, before start or while it runs.

        Raises ResourceError or DeviceOverlap if it doesn't fit.
        """
        self._devices.add(device)

    def unplug(self, device: DeviceIo) -> None:
        """Take a device off again. Raises NoDevice if it isn't plugged in."""
        self._devices.remove(device)

    @property
    def keyboard(self) -> Ps2Keyboard:
        """The keyboard at the i8042; its `send_scancodes` presses keys."""
        return self._board.i8042.keyboard

    @property
    def silence_s(self) -> int:
        """Seconds without any output that are no surprise on this host."""
        return self._quirks.silence_s

    @property
    def error(self) -> Exception | None:
        """What was raised, when the result's reason is `error`."""
        return self._control.end.error if self._control.end else None

    def close(self) -> None:
        """Stop the guest if it runs, and release everything. Idempotent."""
        self.stop("the machine was closed")
        if self._thread.ident is not None:
            self._thread.join()
        self._cleanup.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What makes it end

    def _reset(self) -> None:
        """The guest pulled the reset line: it takes effect after this access."""
        self._control.finish(End(ExitReason.RESET))

    def _on_timeout(self) -> None:
        detail = f"the guest still ran after {self.config.timeout:g} s"
        self._control.finish(End(ExitReason.TIMEOUT, detail))
        self.console.abandon()

    def _on_error(self, error: Exception) -> None:
        known = isinstance(error, VmmError)
        self._fail(str(error) if known else f"{type(error).__name__}: {error}", error)

    def _fail(self, detail: str, error: Exception | None = None) -> None:
        self._control.finish(End(ExitReason.ERROR, detail, error=error))
        self.console.abandon()

    def _poke(self) -> None:
        """Now and then: what a guest has written without an exit is to be seen."""
        self._control.poke()
        if not self._done.is_set():
            self._loop.call_at(self._loop.now_ns() + TICK_NS, self._poke)

    # Its life, on vCPU 0's thread

    def _power_on(self) -> PowerCycle:
        if self._profile is not None:
            self._profile.power_on()
        self.console.power_on()
        return PowerCycle(
            self._host,
            self._memory,
            self._boot,
            self._devices,
            self._control,
            self._profile,
        )

    def _main(self) -> None:
        try:
            self._run_cycle()
            while self._boots_again():
                self._memory.discard()
                self._devices.reset()
                self._resets += 1
                self._control.rearm()
                self._cycle = self._power_on()
                self._run_cycle()
        except Exception as error:
            self._on_error(error)
        try:
            self._conclude()
        finally:
            self._done.set()

    def _run_cycle(self) -> None:
        try:
            self._cycle.run()
        finally:
            if self._profile is not None:
                self._profile.power_off()
            for kind, count in self._cycle.exits.items():
                self._exits[kind] = self._exits.get(kind, 0) + count
            self._insn_emulation += self._cycle.insn_emulation
            self._cycle.close()

    def _boots_again(self) -> bool:
        end = self._control.end
        return (
            self.config.on_reset == "restart"
            and end is not None
            and end.reason is ExitReason.RESET
            and self.console.panic_line is None
        )

    def _conclude(self) -> None:
        """Let the console finish, and make the result that `wait` waits for."""
        end = self._control.end
        assert end is not None
        assert self._started_ns is not None
        wall_ns = self._loop.now_ns() - self._started_ns
        hurried = end.reason in (ExitReason.STOPPED, ExitReason.TIMEOUT)
        self.console.finish(HURRY_S if hurried else None)
        if end.reason is ExitReason.RESET:
            self._resets += 1
            panic = self.console.panic_line
            if panic is not None:
                end = End(ExitReason.PANIC, panic)
        detail = end.detail
        if end.reason is ExitReason.CRASH:
            detail += self._quirks.note()
        code = EXIT_CODES[end.reason] if end.exit_code is None else end.exit_code
        first_ns = self.console.first_output_ns
        self._result = RunResult(
            reason=end.reason,
            exit_code=code,
            detail=detail,
            resets=self._resets,
            wall_s=round(wall_ns / 1e9, 6),
            first_output_s=(
                None
                if first_ns is None
                else round((first_ns - self._started_ns) / 1e9, 6)
            ),
            exits=self._exits,
            insn_emulation=self._insn_emulation,
            quirks=self._quirks.counts,
            cmdline=self._boot.cmdline.decode(errors="surrogateescape"),
            console_bytes=self.console.sink.accepted,
            console_dropped=self.console.sink.dropped,
            unclaimed_accesses=self._io_manager.unclaimed_accesses,
        )
        self.console.end(self._result)


def _quirks(config: MachineConfig) -> Quirks:
    return quirks_for(host_kind() if config.quirks == "auto" else config.quirks)


def _open_boot(config: MachineConfig, quirks: Quirks, stack: ExitStack) -> LinuxBoot:
    kernel_path, initrd_path = config.images()
    image = open_kernel(kernel_path)
    stack.callback(image.file.close)
    kernel = quirks.kernel(image)
    stack.callback(kernel.file.close)
    initrd = None
    if initrd_path is not None:
        initrd = stack.enter_context(ImageFile("initrd", initrd_path))
    return LinuxBoot(
        kernel=kernel,
        initrd=initrd,
        cmdline=quirks.cmdline(config.full_cmdline).encode(errors="surrogateescape"),
        memory_size=config.memory_size,
        cpus=config.cpus,
    )
