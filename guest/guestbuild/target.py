"""What is built, and how it is known to be current.

A target is current when its stamp holds the key of its inputs as they are now
and its outputs have the sizes that the stamp recorded. The key covers the
content of the sources, the recipe, and the versions of the Debian packages used.

Versions are those of the last build: a newer package in the archive makes a
target stale only when it is asked for (`--update`), so that an unattended
`apt-get update` never costs anybody a kernel build, and no network is needed to
know that all is built.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from .workshop import Workshop


@dataclass(frozen=True)
class Target:
    """One thing to build: `build(workshop, out)` puts `outputs` into `out`.

    `outputs` are paths relative to the build directory, `sources` the files
    whose content decides what comes out, `packages` the Debian packages used,
    and `recipe` the text of all else that does (flags, arguments).
    """

    name: str
    outputs: tuple[str, ...]
    sources: tuple[Path, ...]
    recipe: str
    build: Callable[[Workshop, Path], None]
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stamp:
    """What a finished build leaves behind, in `.stamps/<target>.json`."""

    key: str
    packages: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)


def key(target: Target, versions: Mapping[str, str]) -> str:
    """Return the SHA-256 of all inputs of `target`, with these package versions.

    A source counts by name and content, not by place or time. Raises KeyError if
    `versions` lacks a package of the target.
    """
    inputs = {
        "name": target.name,
        "outputs": target.outputs,
        "recipe": target.recipe,
        "packages": {name: versions[name] for name in target.packages},
        "sources": {
            source.name: hashlib.sha256(source.read_bytes()).hexdigest()
            for source in target.sources
        },
    }
    text = json.dumps(inputs, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_stamp(target: Target, build_dir: Path) -> Stamp | None:
    """Return the stamp of the last finished build, None if there is no whole one."""
    try:
        return Stamp(**json.loads(_stamp_path(target, build_dir).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None  # never built, or written by another version of this file


def is_current(
    target: Target, build_dir: Path, versions: Mapping[str, str] | None = None
) -> bool:
    """Whether the outputs are whole and made of the inputs as they are now.

    `versions` are the package versions wanted; without, the built ones will do.
    """
    stamp = read_stamp(target, build_dir)
    if stamp is None or set(stamp.packages) != set(target.packages):
        return False
    if stamp.key != key(target, versions or stamp.packages):
        return False
    return stamp.outputs == _sizes(target, build_dir)


def build(
    target: Target, versions: Mapping[str, str], workshop: Workshop, out: Path
) -> None:
    """Build `target` in `out`, install it, and stamp it.

    The key is that of the inputs as they were before: what is edited during a
    build makes it stale. Raises BuildError.
    """
    stamp = Stamp(
        key(target, versions), {name: versions[name] for name in target.packages}
    )
    target.build(workshop, out)
    install(target, stamp, out, workshop.build_dir)


def install(target: Target, stamp: Stamp, out: Path, build_dir: Path) -> None:
    """Move the outputs from `out` to their places; write `stamp` with their sizes.

    `out` must be on the file system of `build_dir`: each file appears whole. An
    interruption at any point leaves the target stale, never wrongly current.
    """
    before = read_stamp(target, build_dir)
    stamp_path = _stamp_path(target, build_dir)
    stamp_path.unlink(missing_ok=True)
    for name in before.outputs if before else ():
        if name not in target.outputs:
            (build_dir / name).unlink(missing_ok=True)
    for name in target.outputs:
        (build_dir / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(out / name, build_dir / name)
    stamp = replace(stamp, outputs=_sizes(target, build_dir))
    temporary = out / "stamp.json"
    temporary.write_text(json.dumps(asdict(stamp), indent=1))
    stamp_path.parent.mkdir(exist_ok=True)
    os.replace(temporary, stamp_path)


def _stamp_path(target: Target, build_dir: Path) -> Path:
    return build_dir / ".stamps" / f"{target.name}.json"


def _sizes(target: Target, build_dir: Path) -> dict[str, int]:
    paths = {name: build_dir / name for name in target.outputs}
    return {name: p.stat().st_size for name, p in paths.items() if p.is_file()}
