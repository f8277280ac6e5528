"""The configuration that a kernel was built with, where it has that in it.

With CONFIG_IKCONFIG it has its .config, by gzip, between two marks: kernel/configs.c,
and scripts/extract-ikconfig, in Linux.
"""

import zlib
from collections.abc import Mapping
from typing import Final

from .image import ImageFile

_START: Final = b"IKCFG_ST"
_GZIP: Final = 16 + zlib.MAX_WBITS
_MOST: Final = 4 << 20  # a distribution's has 300 KiB
_CHUNK: Final = 4 << 20


def embedded_config(file: ImageFile) -> Mapping[str, str] | None:
    """Its options by their names without CONFIG_, or None if it doesn't say.

    Those that aren't set lack. A packed kernel, a bzImage, isn't unpacked for it.
    """
    at = _find(file, _START)
    if at is None:
        return None
    try:
        unpacker = zlib.decompressobj(_GZIP)
        text = unpacker.decompress(file.read(at + len(_START), _CHUNK), _MOST)
    except zlib.error:
        return None
    lines = text.decode(errors="replace").splitlines()
    options = (line.removeprefix("CONFIG_").partition("=") for line in lines)
    return {name: value for name, is_set, value in options if is_set and name.isupper()}


def _find(file: ImageFile, mark: bytes) -> int | None:
    """Where `mark` begins, which may lie over the end of what is read at once."""
    overlap = len(mark) - 1
    for start in range(0, file.size, _CHUNK):
        found = file.read(start, _CHUNK + overlap).find(mark)
        if found >= 0:
            return start + found
    return None
