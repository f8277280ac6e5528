"""Foreign guests: kernels and programs that nobody here wrote, from Debian's archive.

It is the archive that the host's own apt has Debian 12 from, with backports added.
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
from vmm.config import BUILD_DIR

from . import debian_image
from .lengths import EMULATED

FOLDER: Final = Path(BUILD_DIR, "foreign")
KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"
RELEASE: Final = re.compile(r"^'(\S+)/dists/bookworm/InRelease'", re.MULTILINE)
SUITES: Final = ("bookworm", "bookworm-backports")
TIMEOUT_S: Final = 600  # 140 MB, and a slow line


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


class Built(NamedTuple):
    """What is made of packages: `file`, by a function that is given a folder."""

    file: str
    make: Callable[[Path, Callable[..., str]], None]
    missing: Callable[[], str]


_INSTALLER: Final = (
    "./usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64/"
)
SOURCES: Final[dict[str, Source | Program | Built]] = {
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
    "backports": Source(
        "linux-image-cloud-amd64",
        r"linux-image-[0-9][^ ,]*deb12-cloud-amd64",  # 6.1's have no deb12
        {"bzImage": "./boot/vmlinuz-*"},
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
    "cloud": Built(debian_image.NAME, debian_image.make, debian_image.missing_program),
    "pciutils": Program("pciutils", ("usr/bin/lspci", "usr/bin/setpci")),
}
LOADER: Final = "lib64/ld-linux-x86-64.so.2"
LIBRARIES: Final = "lib/x86_64-linux-gnu"
# What a program can't do without, alone.
DEPENDS: Final = tuple(
    f"--no-{kind}"
    for kind in "recommends suggests conflicts breaks replaces enhances".split()
)


class FetchError(Exception):
    """What is wanted can't be had; says why."""


def fetch(name: str) -> Path:
    """The folder with the files of SOURCES[name]. Raises FetchError."""
    source, folder = SOURCES[name], FOLDER / name

    def is_there() -> bool:
        return all((folder / member).exists() for member in _members(source))

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


def _members(source: Source | Program | Built) -> Iterable[str]:
    if isinstance(source, Built):
        return (source.file,)
    return source.members if isinstance(source, Source) else ("root",)


def _fetch(source: Source | Program | Built, folder: Path) -> None:
    if shutil.which("apt-get") is None or not Path(KEYRING).exists():
        raise FetchError("this host has no apt-get with Debian's keys")
    work = folder.with_name(f"{folder.name}.part")
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        if isinstance(source, Source):
            deb = _download(source, work)
            _extract(deb, source.members, work)
            deb.unlink()
        elif isinstance(source, Built):
            if package := source.missing():
                raise FetchError(f"it takes a program of {package}: install that")
            source.make(work, _run)
        else:
            _install(source, work)
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


def _download(source: Source, work: Path) -> Path:
    """The package as a file in `work`."""
    options = _apt_options()
    shown = _run("apt-cache", *options, "show", source.search)
    fields = re.findall(r"^(?:Package|Depends): (.*)$", shown, re.MULTILINE)
    names = re.findall(source.package, "\n".join(fields))
    if not names:
        raise FetchError(f"Debian's archive has no {source.package}")
    _run("apt-get", *options, "download", names[-1], cwd=work)
    return next(work.glob("*.deb"))


def _install(program: Program, work: Path) -> None:
    """Put the programs, their libraries and what loads them below `work`/root."""
    options = _apt_options()
    shown = _run(
        "apt-cache", *options, "depends", "--recurse", *DEPENDS, program.package
    )
    names = re.findall(r"^[a-z0-9]\S+$", shown, re.MULTILINE)  # no virtual ones
    packed, unpacked, root = (work / name for name in ("debs", "all", "root"))
    packed.mkdir()
    _run("apt-get", *options, "download", *names, cwd=packed)
    for deb in packed.glob("*.deb"):
        _run("dpkg-deb", "-x", str(deb), str(unpacked))
    standard = [unpacked / at / LIBRARIES for at in ("", "usr")]
    private = sorted({path.parent for path in unpacked.rglob("*.so.*")})
    places = ":".join(map(str, [*standard, *private]))
    loader = str(unpacked / LOADER)
    listed = (
        _run(loader, "--library-path", places, "--list", unpacked / path)
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


def _apt_options() -> tuple[str, ...]:
    """For apt with our own sources and lists, which are up to date then."""
    apt = FOLDER / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    archive = RELEASE.search(_run("apt-get", "--print-uris", "update"))
    if archive is None:
        raise FetchError("this host's apt has no sources of Debian 12 (bookworm)")
    lines = (f"deb [signed-by={KEYRING}] {archive[1]} {suite} main" for suite in SUITES)
    (apt / "sources.list").write_text("\n".join(lines) + "\n")
    options = (
        *("-o", f"Dir::Etc::sourcelist={apt}/sources.list"),
        *("-o", "Dir::Etc::sourceparts=-", "-o", f"Dir::State::lists={apt}/lists"),
        *("-o", f"Dir::Cache={apt}/cache", "-o", "APT::Sandbox::User="),
        # What is installed here, from other sources maybe, is no version to ask for.
        *("-o", "Dir::State::status=/dev/null"),
        *("-o", "APT::Architecture=amd64", "-o", "APT::Update::Error-Mode=any"),
    )
    _run("apt-get", *options, "update")
    return options


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    env = os.environ | {"LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise FetchError(f"no {command[-1]} within {TIMEOUT_S} s") from None
    if done.returncode:
        problem = (done.stderr.strip() or "it failed").splitlines()[0]
        raise FetchError(f"{command[0]} {command[-1]}: {problem}")
    return done.stdout


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
