"""Machine: one virtual machine, from its configuration to its result."""

import os
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from ..config import MachineConfig
from ..console.console import Console
from ..devices.bus.io_manager import IoManager
from ..devices.pc.cmos_setup import cmos_setup
from ..devices.pc.keyboard import Ps2Keyboard
from ..errors import ConfigError, VmmError
from ..event_loop import EventLoop, GuestClock
from ..kvm._libc import install_kick_handler
from ..kvm.kvm import Kvm
from ..memory import GuestMemory
from ..result import ExitReason, RunResult
from ..vcpu.control import End
from ..watch.panic import PanicWatch
from .builder import (
    SavedBoot,
    asked_symbols,
    chosen_quirks,
    open_boot,
    resource_pools,
)
from .device_manager import DeviceManager
from .extras import Extras
from .legacy_devices import LegacyDevices, acpi_devices
from .lifecycle import HostSide, Lifecycle
from .outcomes import Outcomes
from .plugboard import Board, Plugboard
from .registry import Elsewhere, keep, register, unregister
from .state import MachineState, RunState
from .vm_instance import VmParts, probe_kvm

if TYPE_CHECKING:  # most runs don't import them
    from collections.abc import Callable, Iterator

    from ..agent.guest import Guest
    from ..debug.paused_guest import PausedGuest
    from ..devices.clock import Clock
    from ..devices.device_io import DeviceIo
    from ..devices.guest_ram import GuestRam
    from ..devices.serial.events import SerialEvents
    from ..devices.sink import Sink
    from ..devices.virtio.device import VirtioDevice
    from ..profile.recorder import Profile
    from ..vsock.vsock import Vsock
    from .balloon import Balloon
    from .builder import Boot
    from .devices_table import DeviceRow
    from .disks import Disk, Disks
    from .nets import Net, Nets
    from .served_disk import ServedDisk
    from .snapshot import Snapshot


class Machine:
    """A machine that runs once, over as many boots as its guest resets.

    The constructor checks everything that can be checked: it raises ConfigError
    (a field of the configuration), ImageError (a file), KvmUnavailable (the
    host). All methods may be called from any thread; leaving the `with` block stops
    the guest and releases everything. So does the end of the program, for a machine
    that nobody has closed. In a forked child there is no machine: it raises VmmError,
    but for `close`, `join` and `stop`, which do nothing.
    `warnings` are lines about what may not work, or take long, on this host. A
    `profile` records where the time goes; such a run uses the run loop in Python.

    Threads: vCPU 0's also builds the VM of every further boot; the event loop's
    does all host I/O; a device may have its own, for its doorbells. Lock order:
    DeviceManager's for its list, a device, DeviceManager's for the buses, a sink's, a
    clock's or an interrupt's, LevelLines and MsiRoutes, RunState.

    >>> from vmm import Machine, MachineConfig
    >>> with Machine(MachineConfig(serial="null", timeout=600)) as machine:
    ...     machine.run().reason  # of our default kernel
    <ExitReason.RESET: 'reset'>
    """

    def __init__(
        self,
        config: MachineConfig | None = None,
        profile: "Profile | None" = None,
        *,
        snapshot: "Snapshot | None" = None,
    ) -> None:
        """With a `snapshot`, as `Snapshot.clone` makes them, it goes on from there."""
        if not isinstance(config, MachineConfig | None):
            raise ConfigError(f"config: {type(config).__name__} is no MachineConfig")
        self.config = config or MachineConfig()
        self._profile = profile
        self._state = RunState()
        self._outcomes = outcomes = Outcomes(self.config, self._state)
        self._is_disowned = False
        symbols = asked_symbols(self.config)
        with ExitStack() as stack:
            self.quirks = chosen_quirks(self.config)
            """The work-arounds for this host."""
            self.warnings: list[str] = []
            self.on_warning: Callable[[str], None] | None = None
            """Told of further ones while it runs, on the event loop's thread."""
            boot: Boot | SavedBoot
            if snapshot is None:
                boot = open_boot(self.config, self.quirks, stack)
                self.warnings += boot.kernel.warnings
                self.warnings += self.quirks.warnings(boot.kernel, self.config.cpus)
            else:
                boot = snapshot.boot(self.config, self.quirks, stack)
            kvm = stack.enter_context(Kvm())
            setup = probe_kvm(kvm, self.quirks, self.config.cpus)
            memory = GuestMemory(boot.ram, None if snapshot is None else snapshot.ram)
            stack.callback(memory.close)
            served = stack.enter_context(ExitStack())
            self._ram = memory
            self.memory: GuestRam = memory
            """The guest's RAM, for a device that does DMA, and for tests."""
            self._loop = EventLoop(outcomes.loop_failed)
            stack.callback(self._loop.close)
            clock = GuestClock(self._loop)
            self._devices = DeviceManager(
                resource_pools(boot.ram, acpi=self.config.acpi),
                IoManager(),
                self._loop,
                self._state,
                posts=setup.posts,
            )
            self._state.is_device_thread = self._devices.is_own_thread
            tap = None if profile is None else profile.console
            watch = PanicWatch(outcomes.panic_told)
            self.console = Console(
                self._loop, self.config.console, outcomes.write_failed, tap, watch.feed
            )
            stack.callback(self.console.close)
            stack.callback(self._devices.close)
            sizes = [region.size for region in memory.regions]
            cmos = cmos_setup(sizes[0], sum(sizes[1:]))
            out: Sink = self.console.sink
            events: SerialEvents | None = self.console.events
            if self.config.console_device == "virtio":
                out, events = self.console.branch(), None
            self._legacy = LegacyDevices(
                out, events, clock, outcomes.reset, cmos, watch
            )
            for device in self._legacy.devices:
                self._devices.add(device)
            if self.config.acpi:
                for device in acpi_devices(outcomes.powered_off, memory):
                    self._devices.add(device)
            self.console.connect(self._legacy.serial)
            self._ram_ranges = boot.ram
            self.clock: Clock = clock
            """The guest's time, for devices: it stands still while the guest does."""
            self._base = None if snapshot is None else snapshot.base
            board = Board(
                config=self.config,
                devices=self._devices,
                ports=self._legacy.config_ports,
                memory=memory,
                boot=boot,
                saved=None if snapshot is None else snapshot.saved,
                clock=clock,
                loop=self._loop,
                state=self._state,
                warn=self.warn,
            )
            self._plugboard = Plugboard(board)
            served.callback(self._plugboard.close)
            extras = Extras(
                *(self.config, self._devices, outcomes),
                *(self.console, self._legacy.serial, self.plug),
            )
            extras.plug(self._loop, clock, self._state, memory, stack)
            self._disks: Disks | None = None
            if self.config.disks or self.config.seed:
                self._disks = self._new_disks(snapshot, stack)
            if self.config.shares:
                from .shares import plug_shares

                plug_shares(self.config, boot, self.plug)
            self._nets: Nets | None = (
                self._new_nets(stack) if self.config.nets else None
            )
            self._agent = extras.agent
            self._ports = extras.ports
            self._balloon = extras.balloon
            self._vsock = extras.vsock
            self.debugcon = extras.debugcon
            """What the guest writes to port 0xE9, where `debugcon` says "capture"."""
            # Before what their callbacks use is closed.
            stack.callback(self._loop.stop)
            stack.callback(self._devices.stop_threads)
            host_side = HostSide(
                self._loop,
                clock,
                self.console,
                watch,
                extras.command,
                extras.agent,
                extras.debugcon,
                tuple(extras.ports.values()),
                self._plugboard.served,
                extras.vsock,
                outcomes.failures,
            )
            outcomes.connect(host_side)
            parts = VmParts(setup, memory, boot, self._devices, self._state, profile)
            self._own_devices = len(self._devices.plugged())
            self._life = Lifecycle(
                self.config,
                parts,
                self._state,
                host_side,
                symbols,
                None if snapshot is None else snapshot.saved,
            )
            # Only the run loop in Python has to be told.
            self._pokes = setup.posts and (
                setup.entry == "python" or profile is not None
            )
            self._cleanup = stack.pop_all()
        register(self)

    # What a user does

    def start(self) -> None:
        """Power on; returns while the guest boots.

        Raises VmmError, KvmError; then the machine is as it was before.
        """
        with self._state.starting(), ExitStack() as undo:
            install_kick_handler()
            undo.callback(self._life.power_off)
            self._life.power_on()
            undo.callback(self._outcomes.unwatch)
            self._outcomes.watch(lambda: self._life.instance.exits, poke=self._pokes)
            undo.callback(self._state.own_threads.clear)
            undo.callback(self._loop.stop)
            self._loop.start()
            self._state.own_threads.add(self._loop.ident)
            undo.callback(self._devices.stop_threads)
            self._devices.start_threads()
            self._life.begin()
            keep(self)
            undo.pop_all()

    @property
    def state(self) -> MachineState:
        """Where it is in its life; it may be elsewhere a moment later."""
        return self._state.state

    @property
    def is_started(self) -> bool:
        """Whether `start` was called; the guest may have ended since."""
        return self._state.started_ns is not None

    @property
    def result(self) -> RunResult | None:
        """What `wait` returns, when it wouldn't have to wait."""
        return self._state.result

    def wait(self, timeout: float | None = None) -> RunResult:
        """Wait for the end of the run, or a policy's pause, up to `timeout` seconds.

        Through pauses that were asked for it waits on. Raises TimeoutError if the guest
        still runs, or is paused, then; it goes on.
        """
        return self._state.wait(timeout)

    def run(self) -> RunResult:
        """`start` and `wait`."""
        self.start()
        return self.wait()

    def stop(self, detail: str = "", exit_code: int | None = None) -> None:
        """End the run now, with reason `stopped`; returns before it has ended.

        The result of a guest that a policy has paused stays what it is.
        """
        if self._is_disowned:
            return
        self._outcomes.stop(End(ExitReason.STOPPED, detail, exit_code))

    def pause(self) -> None:
        """Make the guest stand still; returns when it does.

        Every vCPU stands between two instructions, what its last one has asked of a
        device is done, and no device is at work for the guest: their timers stand
        still, input from the console waits, and what the guest has printed comes out.
        Timeouts of ours go on. For the guest no time passes: its kvm-clock, its TSC
        and its real-time clock go on after `resume` from where they were, but for what
        GuestTime says of hosts that can't.

        One that is paused already, by a policy too, stays it, and one `resume` lets it
        go on. Called by a device, on a thread of the machine's own, it returns at once
        and takes effect soon after. Hold no lock here that a device of yours waits for.
        Raises VmmError if the machine never started, or if the guest has ended, be it
        while this waits.
        """
        self._state.pause()

    @property
    def paused(self) -> "PausedGuest | None":
        """The guest to look at while it is paused; None while it isn't.

        It is of use until the guest goes on or is gone.
        """
        return self._state.paused

    def resume(self) -> None:
        """Let a paused guest go on where it stands; after a reset it boots again.

        After a crash it will hardly come far. Raises VmmError unless it is paused.
        """
        self._state.resume()

    def snapshot(self) -> "Snapshot":
        """The machine as it is now, for any number of clones to go on from.

        It is paused for that, and then goes on as it did; what it writes to RAM is its
        own from then on. What was typed and not read yet isn't in it. Not for a device
        to call, nor while somebody else resumes it.
        Raises VmmError if it doesn't run, or a device can't say what it is like.
        """
        for served in self._plugboard.served:
            raise VmmError(
                f"snapshot: RAM is shared with the process behind {served.name}, and "
                "there is no telling what it is at"
            )
        with self._standing() as guest:
            snapshot = guest.hold(self._take_snapshot)
        self._base = snapshot.base
        return snapshot

    def _take_snapshot(self) -> "Snapshot":
        from .saved_devices import class_of
        from .snapshot import Snapshot

        if self.result is not None and self.result.reason is ExitReason.RESET:
            raise VmmError("the guest has been reset: there is nothing to go on from")
        users = self._devices.plugged()[self._own_devices :]
        saved = self._life.save()
        disks = () if self._disks is None else self._disks.freeze()
        return Snapshot(
            self.config.replace(pci=True) if self._plugboard.has_pci else self.config,
            self._ram.freeze(),
            saved,
            cmdline=self._life.instance.cmdline,
            is_ring3=self.quirks.state(),
            devices=map(class_of, users),
            disks=disks,
        )

    def reset(self) -> None:
        """Put a clone back to its snapshot, or a machine to its last one; it goes on.

        The same VM, and the same console, on which nothing that was typed before comes
        through any more. Raises VmmError if it has no snapshot, or doesn't run.
        """
        if self._base is None:
            raise VmmError("this machine has no snapshot to be put back to")
        saved, ram, disks = self._base

        def restore() -> None:
            if self._disks is not None:
                self._disks.become(disks)
            for console in (self.console, *self._ports.values()):
                console.drop_input()
            self._devices.put_back()
            self._ram.become(ram)
            self._life.restore(saved)

        with self._standing() as guest:
            guest.hold(restore)

    @contextmanager
    def _standing(self) -> "Iterator[PausedGuest]":
        """The guest while it stands still, which goes on then if it ran."""
        was = self._state.state
        if was is MachineState.CREATED:
            raise VmmError("the machine was never started")
        if self._state.is_own_thread():
            raise VmmError("a device can't do this: it is to stand still, too")
        if was is not MachineState.PAUSED:
            self._state.pause()
        guest = self._state.paused
        if guest is None:
            raise VmmError("the guest isn't paused any more: somebody has resumed it")
        try:
            yield guest
        finally:
            if was is not MachineState.PAUSED:
                with suppress(VmmError):  # it was stopped meanwhile
                    self.resume()

    def join(self) -> None:
        """Wait until the guest is gone; a paused one until `stop` or its timeout."""
        if not self._is_disowned:
            self._life.join()

    def plug(self, device: "DeviceIo | VirtioDevice") -> None:
        """Put a device of the user's on the buses, before start or while it runs.

        A PCI or a virtio device before start only, and unless the configuration says
        otherwise there is a PCI bus from the first one on.
        A VhostUserDevice is the machine's from then on, which closes it with the rest.
        Raises ResourceError, DeviceOverlap or InvalidDevice if it doesn't fit, and
        ConfigError if it can't be.
        """
        self._plugboard.plug(device)

    def devices_table(self) -> "list[DeviceRow]":
        """What it has now: RAM, KVM's own chips, and all that is plugged in."""
        from .devices_table import devices_table

        return devices_table(self._ram_ranges, self._devices.plugged())

    def _new_disks(self, snapshot: "Snapshot | None", stack: ExitStack) -> "Disks":
        from .disks import Disks  # most machines have none

        frozen = None if snapshot is None else snapshot.base[2]
        disks = Disks(self.config, self.warn, frozen)
        stack.callback(disks.close)
        disks.plug(self.plug, self.clock)
        return disks

    def _new_nets(self, stack: ExitStack) -> "Nets":
        from .nets import Nets  # most machines have none

        nets = Nets(self.config, self, self._loop, self.clock, stack, self.warn)
        nets.plug(self.plug)
        return nets

    def hints(self) -> list[str]:
        """What may be worth to know about a run that isn't what was expected."""
        return self._plugboard.hints()

    def warn(self, text: str) -> None:
        """One more of `warnings`, which `on_warning` is told of on the loop's thread.

        For devices, on any thread: what a guest does to one may be its user's concern.
        """
        self.warnings.append(text)
        if self.on_warning is not None:
            self._loop.call_soon(partial(self.on_warning, text))

    def unplug(self, device: "DeviceIo | VirtioDevice") -> None:
        """Take a device off again, when nobody is in it any more.

        From an access or a callback of a device it returns before that, and from one
        on the event loop's thread posted writes under way are lost. Raises
        NoDevice if it isn't plugged in, and VmmError if somebody doesn't come out.
        A PCI or a virtio device stays while the machine runs: ConfigError.
        """
        self._plugboard.unplug(device)

    @property
    def guest(self) -> "Guest":
        """Runs commands in the guest, and moves files: by its agent.

        Raises VmmError if the configuration asks for none.
        """
        if self._agent is None:
            raise VmmError(
                "guest: there is no agent in it: pass agent=True (--agent), or wait "
                "for its console"
            )
        return self._agent.guest

    def port(self, name: str) -> Console:
        """The host's end of a port that the configuration names in `ports`.

        What comes from the guest is read as a console's is, by `expect`, where its
        place is "capture"; `send` is for the guest. Raises VmmError for another name.
        """
        if name not in self._ports:
            names = ", ".join(map(repr, self._ports)) or "none: pass ports={...}"
            raise VmmError(f"port: there is no {name!r}; there are {names}")
        return self._ports[name]

    @property
    def disks(self) -> "tuple[Disk | ServedDisk, ...]":
        """Those of the configuration, vda first: each has a `size`, and `resize`."""
        return () if self._disks is None else tuple(self._disks.all)

    @property
    def nets(self) -> "tuple[Net, ...]":
        """The network cards of the configuration, eth0 first: see Net."""
        return () if self._nets is None else tuple(self._nets.all)

    @property
    def balloon(self) -> "Balloon":
        """How much of its RAM the guest gives back: its `target` may be set.

        Raises VmmError if the configuration asks for none.
        """
        if self._balloon is None:
            raise VmmError("balloon: there is none: pass balloon=0 (--balloon)")
        return self._balloon

    @property
    def vsock(self) -> "Vsock":
        """The guest's sockets: it connects to them, and accepts those of the guest's.

        Raises VmmError if the configuration asks for none.
        """
        if self._vsock is None:
            raise VmmError("vsock: there is none: pass vsock=True (--vsock PATH)")
        return self._vsock

    @property
    def keyboard(self) -> Ps2Keyboard:
        """The keyboard at the i8042; its `send_scancodes` presses keys."""
        return self._legacy.i8042.keyboard

    @property
    def exits(self) -> dict[str, int]:
        """Exits to us by kind in this boot, so far; the result has all boots'."""
        return self._life.instance.exits if self.is_started else {}

    @property
    def error(self) -> Exception | None:
        """What was raised, when the result's reason is `error`."""
        return self._state.error

    def close(self) -> None:
        """Stop the guest if it runs, and release everything. Idempotent.

        Interrupted while it waits for the guest, it may be called again, and is at the
        end of the program.
        Whoever comes second, on another thread, waits for the first. Not to be called
        by a device.
        """
        if self._is_disowned or not self._state.begin_close():
            return
        try:
            self.stop("the machine was closed")
            self.join()
        except BaseException:  # Ctrl-C: nothing is released yet, and has to be
            self._state.give_up_close()
            raise
        try:
            self._cleanup.close()
            self._base = None  # whose RAM is kept for as long as anybody has it
        finally:
            unregister(self)
            self._state.closed()

    def disown(self) -> None:
        """In a forked child: the threads aren't here, and all else is the parent's.

        Its locks may be held for ever, its epoll object is shared, its socket's path
        is in use. So nothing is undone; what is dropped closes itself.
        """
        self._is_disowned = True
        self._cleanup.pop_all()
        gone: Any = Elsewhere(os.getppid())
        self.console = self.memory = self._ram = self._state = self._life = (
            self._outcomes
        ) = gone
        self._devices = self._loop = self._legacy = self._plugboard = gone
        if self._disks is not None:
            self._disks = gone
        if self._nets is not None:
            self._nets = gone
        if self.debugcon is not None:
            self.debugcon = gone
        if self._agent is not None:
            self._agent = gone
        self._ports = dict.fromkeys(self._ports, gone)
        if self._balloon is not None:
            self._balloon = gone
        if self._vsock is not None:
            self._vsock = gone

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
