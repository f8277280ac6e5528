"""`--save DIR`: the machine is saved at a key, or when it prints something."""

import os
import threading
from collections.abc import Callable

from .. import threads
from ..errors import ConfigError, GuestEnded, VmmError
from ..machine.machine import Machine
from ..machine.snapshot_file import check_save_path
from ..result import RunResult
from .messages import say
from .options import Options

FOR_EVER: float = 1e9  # seconds


class Saver:
    """Saves a machine while it runs; an error is said at once, and fails the run."""

    def __init__(self, options: Options) -> None:
        """Raises ConfigError where it couldn't save, or nobody could say when."""
        at_keys = options.serial.kind == "stdio" and os.isatty(0)
        if options.save_when is None and not at_keys:
            raise ConfigError(
                "save: nobody can say when: pass --save-when TEXT, or run it on a "
                "terminal, for Ctrl-A s"
            )
        if options.save_when == "":
            raise ConfigError("save_when: it is empty")
        self._path = options.save
        self._when: str | None = options.save_when
        self._is_quiet: bool = options.quiet
        self._machine: Machine | None = None
        self._saving = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.error = ""
        """What has gone wrong, the last time."""
        check_save_path(self._path)

    def connect(self, machine: Machine) -> None:
        """Before it starts: which one."""
        self._machine = machine
        if self._when is not None:
            self._begin(self._wait_and_save)

    def save_soon(self) -> None:
        """For Ctrl-A s: on a thread that the machine may wait for. Once at a time."""
        if not self._saving.locked():
            self._begin(self._save)

    def finish(self, result: RunResult) -> RunResult:
        """When the run is over; the result is a failure if it wasn't saved."""
        for thread in self._threads:
            thread.join()
        if not self.error or result.exit_code or self._machine is None:
            return result
        code = self._machine.config.own_exit_code(1)
        return result.replace(exit_code=code, success=False, detail=self.error)

    def _begin(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="vmm-save", daemon=True)
        try:
            threads.start(thread)
        except VmmError as error:  # for a key: it is the event loop's thread
            self._fail(str(error))
            return
        self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]

    def _wait_and_save(self) -> None:
        assert self._machine is not None
        assert self._when is not None
        try:
            reader = self._machine.console.reader()
            try:
                reader.expect(self._when, FOR_EVER)
            finally:
                reader.close()
        except GuestEnded:
            self._fail(f"the guest has ended, and never printed {self._when!r}")
        except VmmError as error:
            self._fail(str(error))
        else:
            self._save()

    def _save(self) -> None:
        assert self._machine is not None
        try:
            with self._saving, self._machine.snapshot() as snapshot:
                snapshot.save(self._path)
        except Exception as error:  # it is to be said, whatever it is
            self._fail(str(error))
            return
        self.error = ""
        if not self._is_quiet:
            say(f"saved; 'vmm restore {self._path}' goes on from here")

    def _fail(self, detail: str) -> None:
        self.error = f"not saved: {detail}"
        say(f"error: {self.error}")
