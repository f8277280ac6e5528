"""Debian packages as a source of files: found, downloaded and read, not installed."""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from . import progress
from .errors import BuildError, CommandFailedError

if TYPE_CHECKING:
    from collections.abc import Sequence

LIB_SH: Final = Path(__file__).resolve().parents[2] / "scripts" / "lib.sh"


def candidate(package: str, log: Path) -> str:
    """Return the version that apt would install, after an update if it knows none.

    Raises BuildError if the lists of this machine do not have the package.
    """
    version = _candidate(package)
    if not version:
        update(log)
        version = _candidate(package)
    if not version:
        raise BuildError(f"apt has no package {package}: its lists must be Debian 12's")
    return version


def dependency(package: str, pattern: str) -> str:
    """Return the first package in the Depends of `package` that matches `pattern`.

    Raises BuildError if there is none.
    """
    shown = _query("apt-cache", "show", "--no-all-versions", package)
    for line in shown.splitlines():
        if line.startswith("Depends:") and (found := re.search(pattern, line)):
            return found.group()
    raise BuildError(f"Debian's {package} depends on no {pattern}")


def download(package: str, version: str, directory: Path, log: Path) -> Path:
    """Return the .deb of `package` at `version`, kept in `directory`.

    Older versions there are deleted. Raises BuildError if it cannot be had.
    """
    directory.mkdir(parents=True, exist_ok=True)
    name = f"{package}_{version.replace(':', '%3a')}_*.deb"  # as apt spells it
    if not list(directory.glob(name)):
        progress.say(f"downloading {package} {version}")
        try:
            _download(package, version, directory, log)
        except CommandFailedError:
            update(log)  # the archive drops old versions: the lists were too old
            if _candidate(package) != version:
                raise BuildError(
                    f"{package} {version} is no longer in Debian's archive; "
                    "run scripts/build-guest again with --update"
                ) from None
            _download(package, version, directory, log)
    (deb,) = directory.glob(name)
    for other in directory.glob(f"{package}_*.deb"):
        if other != deb:
            other.unlink()
    return deb


def read_member(deb: Path, prefix: str) -> bytes:
    """Return the first file in `deb` whose path starts with `prefix`.

    Paths are as in the archive: `./boot/vmlinuz-…`. Raises BuildError.
    """
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        for member in archive:
            if member.isfile() and member.name.startswith(prefix):
                file = archive.extractfile(member)
                assert file is not None  # a regular file
                content = file.read()
                process.kill()  # the rest is not wanted
                return content
    raise BuildError(f"{deb.name} has no {prefix}")


def need_packages(packages: Sequence[str]) -> None:
    """Install those of `packages` that are missing.

    Raises SystemExit(1) if that fails: the shell function has said why.
    """
    if _lib("need_packages", *packages).returncode:
        raise SystemExit(1)


def update(log: Path) -> None:
    """Fetch the package lists. Raises CommandFailedError."""
    progress.say("fetching Debian's package lists")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        done = _lib("apt_update", output=output)
    if done.returncode:
        raise CommandFailedError("apt-get update", done.returncode, log)


def _download(package: str, version: str, directory: Path, log: Path) -> None:
    progress.run(["apt-get", "download", f"{package}={version}"], log, cwd=directory)


def _candidate(package: str) -> str:
    policy = _query("apt-cache", "policy", package)
    found = re.search(r"^  Candidate: (\S+)$", policy, re.MULTILINE)
    return found[1] if found and found[1] != "(none)" else ""


def _query(*command: str) -> str:
    env = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        reason = " ".join(done.stderr.split())
        raise BuildError(f"{' '.join(command)} failed: {reason}")
    return done.stdout


def _lib(
    function: str, *arguments: str, output: IO[bytes] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Call a function of scripts/lib.sh, on our terminal: sudo may ask there."""
    script = '. "$1"; shift; "$@"'
    return subprocess.run(
        ["bash", "-c", script, "build-guest", str(LIB_SH), function, *arguments],
        stdout=output,
        stderr=output,
    )
