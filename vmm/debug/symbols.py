"""Symbols: names for kernel addresses, from a System.map or an ELF file.

Source: nm(1) for the letters of System.map; System V ABI, "Symbol Table", for ELF.
"""

import os
import re
from bisect import bisect_right
from struct import Struct
from typing import Final

from ..boot.elf import EI_CLASS, ELFCLASS64, is_elf
from ..boot.image import ImageFile

SHT_SYMTAB: Final = 2
SHN_UNDEF: Final = 0
SHN_LORESERVE: Final = 0xFF00
SHF_EXECINSTR: Final = 0x4
STT_FUNC: Final = 2
OFFSET_MAX: Final = 1 << 20  # from a symbol; beyond this it is a coincidence
KASLR_ALIGN: Final = 2 << 20  # CONFIG_PHYSICAL_ALIGN is at least this on x86-64
KASLR_MAX: Final = 1 << 30  # KERNEL_IMAGE_SIZE
PART_MAX: Final = 64 << 20  # a System.map, or an ELF file's names: Debian's have 10 MiB
SYMBOLS_MAX: Final = 2_000_000  # Debian's kernels have a tenth
NAME_MAX: Final = 512  # KSYM_NAME_LEN

# e_shoff, e_shentsize, e_shnum
_EHDR: Final = Struct("<40xQ10xHH").unpack_from
# sh_flags, sh_offset, sh_size, sh_link of an entry; sh_type stands before sh_flags
_SHDR: Final = Struct("<4xIQ8xQQI20x")
_SYM: Final = Struct("<IBxHQQ")  # st_name, st_info, st_shndx, st_value, st_size
_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]{1,16}) (?:([tTwW])|\S) (?=\S)[^\n]*(?:\n|\Z)"  # group 2: code
)
_NAME_BITS: Final = 27  # enough for PART_MAX


def symbol(address: int, is_code: bool, name_at: int) -> int:
    """A symbol as one number, of which a million take 48 MB; they sort by address.

    `name_at` is where its name begins, below 1 << 27.
    """
    return (address << 1 | is_code) << _NAME_BITS | name_at


class Symbols:
    """Looks up code addresses. `slide` is how far KASLR has moved the kernel.

    `symbols` are what `symbol` makes, `names` their names, each up to `end`. A file
    can let them overlap as it likes: so only those that are asked for are taken out.
    """

    def __init__(self, symbols: list[int], names: bytes, end: bytes) -> None:
        symbols.sort()  # of several at one address the last is a function's
        self._symbols = symbols
        self._names = names
        self._end = end
        self.slide = 0

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Symbols":
        """Read a file. Raises ConfigError, naming it, if it has none, or no whole ones.

        A System.map may end within a line.
        """
        with ImageFile("symbols", path) as file:
            if is_elf(file.read(0, 4)):
                return cls(*_from_elf(file), b"\0")
            return cls(*_from_map(file), b"\n")

    def find(self, address: int) -> str | None:
        """`name+0xoffset/0xsize` of the function at an address, as Linux writes it."""
        last = symbol(address - self.slide, True, (1 << _NAME_BITS) - 1)
        at = bisect_right(self._symbols, last)
        if at == 0:
            return None
        found = self._symbols[at - 1]
        start, is_code = self._address(found), found >> _NAME_BITS & 1
        offset = address - self.slide - start
        if not is_code or offset >= OFFSET_MAX:
            return None
        size = ""
        if at < len(self._symbols):
            size = f"/{self._address(self._symbols[at]) - start:#x}"
        return f"{self._name(found)}+{offset:#x}{size}"

    @staticmethod
    def _address(found: int) -> int:
        return found >> _NAME_BITS + 1

    def _name(self, found: int) -> str:
        at = found & (1 << _NAME_BITS) - 1
        name = self._names[at : at + NAME_MAX].split(self._end, 1)[0]
        return name.strip().decode(errors="replace")

    def slide_to(self, lstar: int) -> None:
        """Learn how far the kernel was moved, from MSR LSTAR: its syscall entry."""
        name, at = b"entry_SYSCALL_64" + self._end, (1 << _NAME_BITS) - 1
        entry = [
            self._address(found)
            for found in self._symbols
            if self._names.startswith(name, found & at)
        ]
        slide = lstar - entry[0] if entry else 0
        if 0 < slide < KASLR_MAX and slide % KASLR_ALIGN == 0:
            self.slide = slide


def symbols_of(kernel: str | os.PathLike[str]) -> Symbols | None:
    """What is found without asking: System.map-NAME beside vmlinux-NAME, or in it.

    As distributions name them; for a plain vmlinux it is System.map.
    """
    folder, name = os.path.split(os.fspath(kernel))
    _, dash, version = name.partition("-")
    for path in (os.path.join(folder, f"System.map{dash}{version}"), kernel):
        try:
            return Symbols.load(path)
        except Exception:  # nobody has asked for it, and it only adorns a report
            continue
    return None


def _from_map(file: ImageFile) -> tuple[list[int], bytes]:
    data = _part(file, "text", 0, file.size)
    _check_count(file, data.count(b"\n"))
    end = data.rfind(b"\n") + 1 or len(data)  # without a line that was cut
    symbols: list[int] = []
    at = 0
    for line in _LINE.finditer(data, 0, end):
        if line.start() > at:
            break
        address = line[1]
        name_at = at + len(address) + 3
        symbols.append(symbol(int(address, 16), line[2] is not None, name_at))
        at = line.end()
    if at < end:
        shown = data[at : at + 40].split(b"\n")[0].decode("ascii", "replace")
        raise file.error(f"neither a System.map nor an ELF file: {shown!r}")
    return symbols, data


def _check_count(file: ImageFile, count: int) -> None:
    if count > SYMBOLS_MAX:
        raise file.error(f"has {count} symbols, more than {SYMBOLS_MAX}")


def _from_elf(file: ImageFile) -> tuple[list[int], bytes]:
    head = file.read(0, 64)
    if len(head) < 64 or head[EI_CLASS] != ELFCLASS64:
        raise file.error("not a 64-bit ELF file")
    offset, entry_size, count = _EHDR(head)
    headers = file.read(offset, count * _SHDR.size)
    if entry_size != _SHDR.size or len(headers) < count * _SHDR.size:
        raise file.error("has no usable section headers")
    sections = list(_SHDR.iter_unpack(headers))
    for kind, _, start, size, link in sections:
        if kind == SHT_SYMTAB and link < len(sections):
            _, _, names_start, names_size, _ = sections[link]
            _check_count(file, size // _SYM.size)
            table = _part(file, "symbol table", start, size // _SYM.size * _SYM.size)
            names = _part(file, "symbols' names", names_start, names_size)
            flags = [section[1] for section in sections]
            return _elf_symbols(table, names, flags), names
    raise file.error("has no symbol table: it was stripped")


def _part(file: ImageFile, what: str, start: int, size: int) -> bytes:
    """Raises ImageError if it is too much, or not there."""
    if size > PART_MAX:
        raise file.error(f"its {what}: {size} bytes are more than {PART_MAX}")
    data = file.read(start, size)
    if len(data) < size:
        raise file.error(
            f"was cut: its {what}, {size} bytes at {start}, lie beyond its end"
        )
    return data


def _elf_symbols(table: bytes, names: bytes, flags: list[int]) -> list[int]:
    symbols: list[int] = []
    for name_at, info, section, value, _ in _SYM.iter_unpack(table):
        if section == SHN_UNDEF or section >= SHN_LORESERVE or section >= len(flags):
            continue
        if names[name_at : name_at + 1] not in (b"", b"\0"):
            code = bool(flags[section] & SHF_EXECINSTR) or info & 0xF == STT_FUNC
            symbols.append(symbol(value, code, name_at))
    return symbols
