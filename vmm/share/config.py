"""ShareConfig: what a user may choose for one shared directory, checked."""

import os
from collections.abc import Iterable
from typing import Final

from ..errors import ConfigError
from ..field_types import Checked, StrPath, setting

TAG_MAX: Final = 36  # bytes, by virtio-fs


def _tag(field: str, tag: str) -> str:
    if len(tag.encode()) > TAG_MAX:
        raise ConfigError(f"{field}: {tag!r} has more than {TAG_MAX} bytes")
    if "\0" in tag:
        raise ConfigError(f"{field}: {tag!r} has a NUL in it")
    return tag


class ShareConfig(Checked):
    """A directory of the host's, which the guest mounts by its tag: type virtiofs.

    Its text is "DIR", "DIR:TAG", and either with ",ro".
    """

    path: str = setting("", StrPath, lambda _, path: os.fspath(path))
    """The directory. The guest is in all of it, and doesn't come out."""
    tag: str = setting("", str, _tag)
    """What the guest mounts it by, up to 36 bytes. Empty: the directory's own name, or
    "root" for /."""
    ro: bool = False
    """The guest can't write to it."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("path: it is missing")

    @property
    def mount_tag(self) -> str:
        """`tag`, or that which stands for it."""
        return self.tag or os.path.basename(os.path.realpath(self.path)) or "root"

    @classmethod
    def parse(cls, text: str) -> "ShareConfig":
        """What a text says. Raises ConfigError."""
        where, *options = text.split(",")
        if options not in ([], ["ro"]):
            raise ConfigError(
                f"{','.join(options)!r} is no option, but ro; a directory with a comma "
                "takes a ShareConfig"
            )
        path, colon, tag = where.partition(":")
        if colon and not tag:
            raise ConfigError("tag: it is empty")
        return cls(path=path, tag=tag, ro=bool(options))


Shares = StrPath | Checked | Iterable[StrPath | Checked]


def shares(field: str, given: Shares) -> tuple[ShareConfig, ...]:
    """Those of a configuration's `field`. Raises ConfigError, which names the share."""
    several = (given,) if isinstance(given, str | os.PathLike | Checked) else given
    found = tuple(_share(field, share) for share in several)
    tags: set[str] = set()
    for share in found:
        tag = share.mount_tag
        if len(tag.encode()) > TAG_MAX:
            raise ConfigError(
                f"{field}: {share.path!r}: tag: {tag!r} has more than {TAG_MAX} bytes: "
                "give it one, DIR:TAG"
            )
        if tag in tags:
            raise ConfigError(f"{field}: {share.path!r}: tag {tag!r} is there twice")
        tags.add(tag)
    return found


def _share(field: str, share: StrPath | Checked) -> ShareConfig:
    if isinstance(share, ShareConfig):
        return share
    if isinstance(share, Checked):
        raise ConfigError(f"{field}: {type(share).__name__} is no ShareConfig")
    try:
        if isinstance(share, str):
            return ShareConfig.parse(share)
        return ShareConfig(path=os.fspath(share))
    except ConfigError as error:
        raise ConfigError(f"{field}: {os.fspath(share)!r}: {error}") from None
