"""Overlay: an image that nobody writes to, and layers above it that have what is new.

Lowest are the layers of snapshots, which don't change any more; the highest takes what
the guest writes. A cluster, 4 KiB, is wholly in one of them.
"""

import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from .disk_file import DiskFile, Stamp, checked_size
from .file_io import part, punch_hole, read_at, write_at, write_zeros
from .layer import CLUSTER, MAP_PAGE, KeptLayer, Layer, Owners, clusters

LAYERS_MAX: Final = 16
"""Of snapshots: beyond them all are made one."""

Views = Sequence[memoryview]


class FrozenDisk:
    """A disk as it was at one moment: the image, layers, and who has what.

    It is there for as long as somebody has it.
    """

    def __init__(
        self, base: DiskFile, layers: list[Layer], owners: Owners, size: int
    ) -> None:
        """Takes `base` and `layers`."""
        self.base = base
        self.layers = layers
        self.owners = owners
        self.size = size

    def save(self, fd: int) -> None:
        """Write an overlay of the image into an empty file. Raises OSError."""
        kept = KeptLayer.make(fd, self.size, self.base.stamp())
        pages: set[int] = set()
        owners = Owners(self.size)
        for first, end, owner in self.owners.runs():
            _copy(self.layers[owner - 1], kept, first, end, self.size)
            owners.set(first, end, 1)
            pages.update(range(first // MAP_PAGE, (end - 1) // MAP_PAGE + 1))
        kept.write_map(owners, 1, sorted(pages))
        kept.close()

    @classmethod
    def load(cls, base: DiskFile, fd: int) -> "FrozenDisk":
        """What `save` has written. Takes `base`. Raises OSError."""
        layer = KeptLayer.open(fd, base.stamp())
        owners = Owners(layer.size)
        layer.read_map(owners, 1)
        return cls(base, [layer], owners, layer.size)


class Overlay:
    """A BlockBackend: `base`, and above it what is written."""

    is_read_only = False

    def __init__(self, frozen: FrozenDisk, top: Layer) -> None:
        """Above `frozen`, with `top`, which it takes, and which may have something."""
        self._base = frozen.base.share()
        self.block_size = self._base.block_size
        self.physical_block_size = max(self._base.physical_block_size, CLUSTER)
        self._base_size = frozen.base.size()
        self._layers = [layer.share() for layer in frozen.layers]
        self._layers.append(top)
        self._owners = frozen.owners.copy(frozen.size)
        self.size = frozen.size
        self._dirty: set[int] = set()  # pages of the map, where it is kept
        if isinstance(top, KeptLayer):
            top.read_map(self._owners, self._own)

    @classmethod
    def new(cls, base: DiskFile) -> "Overlay":
        """One that vanishes. Takes `base`. Raises OSError."""
        return cls.above(untouched(base))

    @classmethod
    def above(cls, frozen: FrozenDisk) -> "Overlay":
        """Likewise, of a disk as it was."""
        return cls(frozen, Layer.anonymous(frozen.size))

    @classmethod
    def kept(cls, base: DiskFile, path: str) -> "Overlay":
        """One that stays, in a file that may be there or not. Takes `base`.

        Raises OSError, whose filename is `path`'s where that is the trouble.
        """
        frozen = untouched(base)
        try:
            frozen.size, top = _kept_layer(path, frozen.size, base.stamp())
            frozen.owners = Owners(frozen.size)
            return cls(frozen, top)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None

    @property
    def _own(self) -> int:
        """The number of the highest layer."""
        return len(self._layers)

    @property
    def _top(self) -> Layer:
        return self._layers[-1]

    @property
    def is_kept(self) -> bool:
        """Whether it is there after the machine."""
        return isinstance(self._top, KeptLayer)

    # As a BlockBackend

    def read(self, views: Views, offset: int) -> None:
        size = sum(map(len, views))
        runs = self._owners_of(offset // CLUSTER, clusters(offset + size))
        for first, last, owner in runs:
            start = max(first * CLUSTER, offset)
            stop = min(last * CLUSTER, offset + size)
            if len(runs) > 1:
                own = part(views, start - offset, stop - offset)
                self._read(owner, own, start)
            else:
                self._read(owner, views, offset)

    def _read(self, owner: int, views: Views, offset: int) -> None:
        if owner:
            layer = self._layers[owner - 1]
            read_at(layer.fd, views, layer.data_at + offset)
            return
        inside = max(self._base_size - offset, 0)
        size = sum(map(len, views))
        if inside < size:  # it has grown since
            for view in part(views, inside, size):
                view[:] = bytes(len(view))
            views = part(views, 0, inside)
        read_at(self._base.fd, views, offset)

    def write(self, views: Views, offset: int) -> None:
        end = offset + sum(map(len, views))
        if end == offset:
            return
        for edge in {offset, end}:
            if edge % CLUSTER and edge < self.size:
                self._copy_up(edge // CLUSTER)
        write_at(self._top.fd, views, self._top.data_at + offset)
        self._own_clusters(offset // CLUSTER, clusters(end))

    def _copy_up(self, cluster: int) -> None:
        """Have one whole, of which a part is to be written."""
        if self._owners[cluster : cluster + 1][0] == self._own:
            return
        offset = cluster * CLUSTER
        data = memoryview(bytearray(min(CLUSTER, self.size - offset)))
        self.read([data], offset)
        write_at(self._top.fd, [data], self._top.data_at + offset)
        self._own_clusters(cluster, cluster + 1)

    def _own_clusters(self, first: int, end: int) -> None:
        """What was written there is to be seen from here on."""
        own = self._own
        if self._owners[first:end].count(own) < end - first:
            self._owners.set(first, end, own)
            if self.is_kept:
                pages = range(first // MAP_PAGE, (end - 1) // MAP_PAGE + 1)
                self._dirty.update(pages)

    def flush(self) -> None:
        """Nothing is promised of one that vanishes."""
        top = self._top
        if not isinstance(top, KeptLayer):
            return
        os.fdatasync(top.fd)
        if self._dirty:
            top.write_map(self._owners, self._own, sorted(self._dirty))
            os.fdatasync(top.fd)
            self._dirty.clear()

    def discard(self, offset: int, size: int) -> None:
        """Of what is written alone: the image stays as it is."""
        first, end = clusters(offset), (offset + size) // CLUSTER
        for start, stop, owner in self._owners_of(first, end):
            if owner == self._own:
                where = self._top.data_at + start * CLUSTER
                punch_hole(self._top.fd, where, (stop - start) * CLUSTER)

    def write_zeroes(self, offset: int, size: int, _may_discard: bool) -> None:
        end = offset + size
        first, last = clusters(offset), end // CLUSTER
        if first >= last:
            self.write([memoryview(bytes(size))], offset)
            return
        head, tail = first * CLUSTER - offset, end - last * CLUSTER
        self.write([memoryview(bytes(head))], offset)
        where = self._top.data_at + first * CLUSTER
        length = (last - first) * CLUSTER
        write_zeros(self._top.fd, where, length, may_punch=True)
        self._own_clusters(first, last)
        self.write([memoryview(bytes(tail))], end - tail)

    def _owners_of(self, first: int, end: int) -> list[tuple[int, int, int]]:
        """Runs of clusters from `first` to `end`: start, end, owner."""
        found: list[tuple[int, int, int]] = []
        owners = self._owners[first:end] if first < end else b""
        at = 0
        while at < len(owners):
            rest = owners[at:].lstrip(owners[at : at + 1])
            stop = len(owners) - len(rest)
            found.append((first + at, first + stop, owners[at]))
            at = stop
        return found

    # What becomes of it

    def resize(self, size: int | None) -> None:
        """Grow. Raises OSError."""
        if size is None or size == self.size:
            return
        if size < self.size:
            raise OSError(errno.EINVAL, "has an overlay, and can't become smaller")
        if isinstance(self._top, KeptLayer):
            self._top.resize(size)
        else:
            os.truncate(self._top.fd, size)
        if self.size % CLUSTER:  # the layers below have but a part of it
            self._copy_up(self.size // CLUSTER)
        self._owners = self._owners.copy(size)
        self.size = size

    def freeze(self) -> FrozenDisk:
        """It as it is now; it goes on above that. Nobody may write meanwhile.

        Raises OSError.
        """
        if self.is_kept or len(self._layers) > LAYERS_MAX:
            return self._copied()
        if self._owners[:].count(self._own):
            self._layers.append(Layer.anonymous(self.size))
        layers = [layer.share() for layer in self._layers[:-1]]
        owners = self._owners.copy(self.size)
        return FrozenDisk(self._base.share(), layers, owners, self.size)

    def _copied(self) -> FrozenDisk:
        """A copy of all that is above the image, in one layer."""
        layer, owners = Layer.anonymous(self.size), Owners(self.size)
        for first, end, owner in self._owners.runs():
            _copy(self._layers[owner - 1], layer, first, end, self.size)
            owners.set(first, end, 1)
        frozen = FrozenDisk(self._base.share(), [layer], owners, self.size)
        if not self.is_kept:
            self.become(frozen)
        return frozen

    def become(self, frozen: FrozenDisk) -> None:
        """Have what `frozen` has; not for one that is kept.

        Raises OSError, with nothing changed.
        """
        assert not self.is_kept
        new = Overlay.above(frozen)
        self._close()
        vars(self).update(vars(new))

    def close(self) -> None:
        """With all that is kept on the disk. Idempotent. Raises OSError."""
        try:
            if self._layers and self._top.fd >= 0:
                self.flush()
        finally:
            self._close()

    def _close(self) -> None:
        with ExitStack() as stack:
            stack.callback(self._base.close)
            for layer in self._layers:
                stack.callback(layer.close)


def untouched(base: DiskFile) -> FrozenDisk:
    """An image to which nothing was written. Takes `base`. Raises OSError."""
    size = checked_size(base)
    return FrozenDisk(base, [], Owners(size), size)


def _kept_layer(path: str, size: int, base: Stamp) -> tuple[int, KeptLayer]:
    """And the size of its disk."""
    if not os.path.exists(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))
    file = DiskFile.open(path, writes=True)
    try:
        if file.size():
            layer = KeptLayer.open(file.fd, base)
        else:
            layer = KeptLayer.make(file.fd, size, base)
    finally:
        file.close()
    return layer.size, layer


def _copy(source: Layer, target: Layer, first: int, end: int, size: int) -> None:
    """Copy clusters [first, end) of a disk of `size` bytes."""
    start = first * CLUSTER
    source.copy_to(target, start, min(end * CLUSTER, size) - start)
