"""Foreign guests: kernels and programs that nobody here wrote, from Debian's archive.

It is the archive that the host's own apt has Debian 12 from.
What was fetched stays in guest/build/foreign/ and is not fetched again.
"""

import fcntl
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, NamedTuple

from vmm.boot.image import PVH
from vmm.boot.kernel import open_kernel

from . import debian_image
from .debian import (
    FOLDER,
    FetchError,
    download,
    download_with_libraries,
    need_apt,
    run,
)
from .debian_system import install
from .lengths import EMULATED


class Source(NamedTuple):
    """Files of a package, by the names that they get, and patterns of their paths.

    `package` is a regex; its last match among the package's and its dependencies'
    names is taken: kernels have their version in theirs.
    """

    search: str
    package: str
    members: dict[str, str]


class Program(NamedTuple):
    """Programs of a package, by their paths, and what libraries they are linked with.

    They get the paths below `root` that they have in a guest: see program_files().
    """

    package: str
    paths: tuple[str, ...]


class System(NamedTuple):
    """A kernel as a Debian system of `release` has it: bzImage and initrd.img.

    The release goes by its codename, the kernel by its package.
    """

    release: str
    kernel: str


class Image(NamedTuple):
    """A disk's image, of the packages of a system: `file`, which `make` puts there."""

    file: str
    make: Callable[[Path], None]


_INSTALLER: Final = (
    "./usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64/"
)
SOURCES: Final[dict[str, Source | Program | System | Image]] = {
    "memtest": Source(
        "memtest86+",
        r"memtest86\+",
        {"memtest86+.bin": "./boot/memtest86+x64.bin"},
    ),
    "installer": Source(
        "debian-installer-12-netboot-amd64",
        "debian-installer-12-netboot-amd64",
        {"linux": f"{_INSTALLER}linux", "initrd.gz": f"{_INSTALLER}initrd.gz"},
    ),
    "pvpanic": Source(
        "linux-image-cloud-amd64",
        r"linux-image-6\.1\.[^ ,]*-cloud-amd64",
        {
            "bzImage": "./boot/vmlinuz-*",
            "pvpanic-mmio.ko": "./*/pvpanic-mmio.ko",
            "pvpanic.ko": "./*/pvpanic.ko",
        },
    ),
    "fio": Program("fio", ("usr/bin/fio",)),
    "stress-ng": Program("stress-ng", ("usr/bin/stress-ng",)),
    "pciutils": Program("pciutils", ("usr/bin/lspci", "usr/bin/setpci")),
    "cloud": Image(debian_image.NAME, debian_image.make),
    "bookworm-generic": System("bookworm", "linux-image-amd64"),
    "bookworm-cloud": System("bookworm", "linux-image-cloud-amd64"),
    "trixie-generic": System("trixie", "linux-image-amd64"),
    "trixie-cloud": System("trixie", "linux-image-cloud-amd64"),
}
LOADER: Final = "lib64/ld-linux-x86-64.so.2"
LIBRARIES: Final = "lib/x86_64-linux-gnu"


def fetch(name: str) -> Path:
    """The folder with the files of SOURCES[name]. Raises FetchError."""
    source, folder = SOURCES[name], FOLDER / name
    members = _members(source)

    def is_there() -> bool:
        return all((folder / member).exists() for member in members)

    if is_there():
        return folder
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        with FOLDER.joinpath("lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # others run tests, too
            if not is_there():
                _fetch(source, folder)
    except OSError as error:  # in the software machine: nothing can be written
        raise FetchError(f"not fetched yet, and can't be here: {error}") from None
    return folder


def _members(source: Source | Program | System | Image) -> Iterable[str]:
    if isinstance(source, Source):
        return source.members
    if isinstance(source, Image):
        return (source.file,)
    return ("root",) if isinstance(source, Program) else ("bzImage", "initrd.img")


def _fetch(source: Source | Program | System | Image, folder: Path) -> None:
    need_apt()
    work = folder.with_name(f"{folder.name}.part")
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        if isinstance(source, Source):
            deb = download(source.search, source.package, work)
            _extract(deb, source.members, work)
            deb.unlink()
        elif isinstance(source, Program):
            _install(source, work)
        elif isinstance(source, Image):
            source.make(work)
        else:
            install(source.release, source.kernel, work)
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def unpack(folder: Path) -> None:
    """Put what is in a bzImage beside it, for where an emulated CPU would unpack it."""
    for bzimage in (folder / name for name in ("bzImage", "linux")):
        vmlinux = _vmlinux(bzimage)
        if bzimage.exists() and not vmlinux.exists():
            part = vmlinux.with_name(f"{vmlinux.name}.{os.getpid()}")
            with open_kernel(bzimage, PVH).file as file:
                part.write_bytes(file.read(0, file.size))
            part.rename(vmlinux)


def quickest(bzimage: Path) -> Path:
    """What to boot here; our own tests have bzImages that unpack themselves."""
    vmlinux = _vmlinux(bzimage)
    return vmlinux if EMULATED and vmlinux.exists() else bzimage


def _vmlinux(bzimage: Path) -> Path:
    return bzimage.with_name(f"{bzimage.name}.vmlinux")


def program_files(folder: Path) -> dict[str, Path]:
    """What fetch() got of a Program: files by their paths in a guest."""
    root = folder / "root"
    files = (path for path in root.rglob("*") if path.is_file())
    return {f"/{path.relative_to(root)}": path for path in files}


def _install(program: Program, work: Path) -> None:
    """Put the programs, their libraries and what loads them below `work`/root."""
    packed, unpacked, root = (work / name for name in ("debs", "all", "root"))
    packed.mkdir()
    download_with_libraries(program.package, packed)
    for deb in packed.glob("*.deb"):
        run("dpkg-deb", "-x", str(deb), str(unpacked))
    standard = [unpacked / at / LIBRARIES for at in ("", "usr")]
    private = sorted({path.parent for path in unpacked.rglob("*.so.*")})
    places = ":".join(map(str, [*standard, *private]))
    loader = str(unpacked / LOADER)
    listed = (
        run(loader, "--library-path", places, "--list", unpacked / path)
        for path in program.paths
    )
    libraries = map(Path, re.findall(r"=> (\S+)", "".join(listed)))
    wanted = {f"{LIBRARIES}/{path.name}": path for path in libraries}
    wanted |= {name: unpacked / name for name in (LOADER, *program.paths)}
    for name, path in wanted.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / name)
    shutil.rmtree(packed)
    shutil.rmtree(unpacked)


def _extract(deb: Path, members: dict[str, str], to: Path) -> None:
    """The first file for each pattern."""
    wanted = dict(members)
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        for entry in archive:
            names = (n for n, path in wanted.items() if fnmatchcase(entry.name, path))
            name = next(names, None) if entry.isfile() else None
            if name is None:
                continue
            file = archive.extractfile(entry)
            assert file is not None  # a regular file
            (to / name).write_bytes(file.read())
            del wanted[name]
            if not wanted:
                process.kill()  # the rest is not wanted
                return
    raise FetchError(f"{deb.name} has no {', '.join(wanted.values())}")
