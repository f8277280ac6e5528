"""Debian's archive, where the host's own apt has Debian 12 from: its packages."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import IO, Final

from vmm.config import BUILD_DIR

FOLDER: Final = Path(BUILD_DIR, "foreign")
KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"
ARCHIVE: Final = re.compile(r"^'(\S+)/dists/bookworm/InRelease'", re.MULTILINE)
RELEASE: Final = "bookworm"
# What a program can't do without, alone.
DEPENDS: Final = tuple(
    f"--no-{kind}"
    for kind in "recommends suggests conflicts breaks replaces enhances".split()
)
TIMEOUT_S: Final = 600  # 140 MB, and a slow line


class FetchError(Exception):
    """What is wanted can't be had; says why."""


def need_apt() -> None:
    """Raise FetchError where there is no apt that knows Debian's keys."""
    if shutil.which("apt-get") is None or not Path(KEYRING).exists():
        raise FetchError("this host has no apt-get with Debian's keys")


def download(search: str, package: str, to: Path) -> Path:
    """A package as a file in `to`.

    `package` is a regex; its last match among the names of `search` and its
    dependencies is taken.
    """
    options = _options(RELEASE)
    shown = run("apt-cache", *options, "show", search)
    fields = re.findall(r"^(?:Package|Depends): (.*)$", shown, re.MULTILINE)
    names = re.findall(package, "\n".join(fields))
    if not names:
        raise FetchError(f"Debian's archive has no {package}")
    run("apt-get", *options, "download", names[-1], cwd=to)
    return next(to.glob("*.deb"))


def download_with_libraries(package: str, to: Path) -> None:
    """A package and all that it depends on, as files in `to`."""
    options = _options(RELEASE)
    shown = run("apt-cache", *options, "depends", "--recurse", *DEPENDS, package)
    names = re.findall(r"^[a-z0-9]\S+$", shown, re.MULTILINE)  # no virtual ones
    run("apt-get", *options, "download", *names, cwd=to)


def download_system(release: str, packages: list[str], to: Path) -> None:
    """What apt would install on a disk with nothing on it, as files in `to`."""
    (to / "partial").mkdir()
    run(
        *("apt-get", *_options(release), "--yes", "--download-only"),
        *("-o", f"Dir::Cache::archives={to}", "-o", "APT::Install-Recommends=false"),
        *("-o", "Debug::NoLocking=true", "install", *packages),
    )


def run(
    *command: str | Path, cwd: Path | None = None, stdin: IO[bytes] | None = None
) -> str:
    """What the command prints. Raises FetchError if it fails."""
    env = os.environ | {"LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise FetchError(f"no {command[-1]} within {TIMEOUT_S} s") from None
    if done.returncode:
        problem = (done.stderr.strip() or "it failed").splitlines()[0]
        raise FetchError(f"{command[0]} {command[-1]}: {problem}")
    return done.stdout


def _options(release: str) -> tuple[str, ...]:
    """For apt with our own sources and lists, which are up to date then."""
    apt = FOLDER / f"apt-{release}"
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    archive = ARCHIVE.search(run("apt-get", "--print-uris", "update"))
    if archive is None:
        raise FetchError("this host's apt has no sources of Debian 12 (bookworm)")
    source = f"deb [signed-by={KEYRING}] {archive[1]} {release} main\n"
    (apt / "sources.list").write_text(source)
    options = (
        *("-o", f"Dir::Etc::sourcelist={apt}/sources.list"),
        *("-o", "Dir::Etc::sourceparts=-", "-o", f"Dir::State::lists={apt}/lists"),
        *("-o", f"Dir::Cache={apt}/cache", "-o", "APT::Sandbox::User="),
        # What is installed here, from other sources maybe, is no version to ask for.
        *("-o", "Dir::State::status=/dev/null"),
        *("-o", "APT::Architecture=amd64", "-o", "APT::Update::Error-Mode=any"),
    )
    run("apt-get", *options, "update")
    return options
