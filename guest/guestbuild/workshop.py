"""Where a build happens: directories, the lock, and Debian's packages."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from . import debian, progress
from .errors import BuildError, CommandFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GUEST_DIR: Final = Path(__file__).resolve().parent.parent
BUILD_DIR: Final = GUEST_DIR / "build"
WORK_PREFIX: Final = ".work-"
NEEDED_BYTES: Final = 2_000_000_000  # a source, objects of two kernels, margin

NO_SLASH: Final = "--no-wildcards-match-slash"  # tar: * ends at a slash

# A good third of the source, which an x86 kernel without a graphics driver never
# reads: it would have to be written and deleted again.
NOT_NEEDED: Final = (
    "arch/[!x]*/[!c]*",  # crypto/Kconfig reads all arch/*/crypto/Kconfig
    "drivers/gpu/drm/amd/include",
    "Documentation/devicetree",
    "tools/perf",
    "tools/testing",
)


class Workshop:
    """One run's directories; `open_workshop` makes it.

    Nothing in it outlives the run but `build_dir`, whose contents appear whole.
    """

    def __init__(self, build_dir: Path, work_dir: Path) -> None:
        """Take directories on one file system; `work_dir` is empty and ours."""
        self.build_dir = build_dir
        self.work_dir = work_dir
        self.versions: dict[str, str] = {}
        self._trees: dict[tuple[str, tuple[Path, ...]], Path] = {}

    def log(self, name: str) -> Path:
        """Return the log file of `name`; it stays after the run."""
        return self.build_dir / "log" / f"{name}.log"

    def resolve(self, packages: Sequence[str]) -> None:
        """Put into `versions` what apt would install now. Raises BuildError."""
        for name in packages:
            if name not in self.versions:
                self.versions[name] = debian.candidate(name, self.log("apt"))

    def package(self, name: str, version: str) -> Path:
        """Return the .deb of a package, downloaded if need be. Raises BuildError."""
        directory = self.build_dir / "download"
        return debian.download(name, version, directory, self.log("apt"))

    def source_tree(self, package: str, patches: tuple[Path, ...] = ()) -> Path:
        """Return the tree of a linux-source package with `patches`, once per run.

        It takes 0.9 GB, in the work directory. Raises BuildError.
        """
        wanted = package, patches
        if wanted not in self._trees:
            tree = self._unpack_source(
                package, self.work_dir / f"source-{len(self._trees)}"
            )
            for patch in patches:
                self._apply(patch, tree, f"{package} {self.versions[package]}")
            self._trees[wanted] = tree
        return self._trees[wanted]

    def _unpack_source(self, package: str, directory: Path) -> Path:
        free = shutil.disk_usage(self.work_dir).free
        if free < NEEDED_BYTES:
            raise BuildError(
                f"{self.build_dir}: a kernel build takes {NEEDED_BYTES / 1e9:.0f} GB "
                f"for a while, {free / 1e9:.1f} GB are free"
            )
        deb = self.package(package, self.versions[package])
        progress.say(f"unpacking {package} (about 20 seconds)")
        directory.mkdir()
        script = (
            "set -o pipefail\n"
            'dpkg-deb --fsys-tarfile "$1" | tar -xO "$2" | tar -xJ "${@:3}"'
        )
        tarball = f"./usr/src/{package}.tar.xz"
        excludes = [f"--exclude={package}/{pattern}" for pattern in NOT_NEEDED]
        options = ["-C", str(directory), "--anchored", NO_SLASH, *excludes]
        progress.run(
            ["bash", "-ec", script, "-", str(deb), tarball, *options],
            self.log("unpack"),
        )
        return directory / package

    def _apply(self, patch: Path, tree: Path, source: str) -> None:
        log = self.log("patch")
        try:
            progress.run(["patch", "-p1", "--batch", "-d", tree, "-i", patch], log)
        except CommandFailedError:
            raise BuildError(
                f"{patch.name} does not fit {source}, see {log}; "
                "--no-patches builds a kernel without our patches, slower on PVM"
            ) from None


@contextmanager
def open_workshop(build_dir: Path = BUILD_DIR) -> Iterator[Workshop]:
    """Give the only workshop on `build_dir`, waiting for another run to end.

    The work directory is removed at the end; what a killed run left, and the logs
    of the run before, at the start.
    """
    with ExitStack() as stack:
        build_dir.mkdir(parents=True, exist_ok=True)
        lock = stack.enter_context((build_dir / ".lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"another build-guest works in {build_dir}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for stale in [*build_dir.glob(WORK_PREFIX + "*"), *build_dir.glob("log")]:
            shutil.rmtree(stale)
        work_dir = Path(tempfile.mkdtemp(prefix=WORK_PREFIX, dir=build_dir))
        stack.callback(shutil.rmtree, work_dir)
        yield Workshop(build_dir, work_dir)
