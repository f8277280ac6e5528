"""Symbols: names for kernel addresses, from a System.map or an ELF file.

Source: nm(1) for the letters of System.map; System V ABI, "Symbol Table", for ELF.
"""

import mmap
import os
from bisect import bisect_right
from struct import Struct
from typing import Final

from .boot.elf import EI_CLASS, ELFCLASS64, is_elf
from .errors import ConfigError

SHT_SYMTAB: Final = 2
SHN_UNDEF: Final = 0
SHN_LORESERVE: Final = 0xFF00
SHF_EXECINSTR: Final = 0x4
STT_FUNC: Final = 2
OFFSET_MAX: Final = 1 << 20  # from a symbol; beyond this it is a coincidence
KASLR_ALIGN: Final = 2 << 20  # CONFIG_PHYSICAL_ALIGN is at least this on x86-64
KASLR_MAX: Final = 1 << 30  # KERNEL_IMAGE_SIZE

# e_shoff, e_shentsize, e_shnum
_EHDR: Final = Struct("<40xQ10xHH").unpack_from
# sh_flags, sh_offset, sh_size, sh_link of an entry; sh_type stands before sh_flags
_SHDR: Final = Struct("<4xIQ8xQQI20x")
_SYM: Final = Struct("<IBxHQQ")  # st_name, st_info, st_shndx, st_value, st_size
_TEXT_LETTERS: Final = "tTwW"

_Symbol = tuple[int, bool, str]  # address, is it code, name


class Symbols:
    """Looks up code addresses. `slide` is how far KASLR has moved the kernel."""

    def __init__(self, symbols: list[_Symbol]) -> None:
        symbols.sort()  # of several at one address the last is a function's
        self._symbols = symbols
        self.slide = 0

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Symbols":
        """Read a file. Raises ConfigError, naming it, if it has no symbols."""
        try:
            with (
                open(path, "rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            ):
                return cls(_from_elf(data) if is_elf(data[:4]) else _from_map(data[:]))
        except (OSError, ValueError) as error:
            problem = getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"symbols {os.fspath(path)!r}: {problem}") from None

    def find(self, address: int) -> str | None:
        """`name+0xoffset/0xsize` of the function at an address, as Linux writes it."""
        at = bisect_right(self._symbols, (address - self.slide, True, "\x7f"))
        if at == 0:
            return None
        start, is_code, name = self._symbols[at - 1]
        offset = address - self.slide - start
        if not is_code or offset >= OFFSET_MAX:
            return None
        size = ""
        if at < len(self._symbols):
            size = f"/{self._symbols[at][0] - start:#x}"
        return f"{name}+{offset:#x}{size}"

    def slide_to(self, lstar: int) -> None:
        """Learn how far the kernel was moved, from MSR LSTAR: its syscall entry."""
        entry = [
            start for start, _, name in self._symbols if name == "entry_SYSCALL_64"
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
        except ConfigError:  # nobody has asked for it
            continue
    return None


def _from_map(data: bytes) -> list[_Symbol]:
    symbols: list[_Symbol] = []
    for line in data.decode("ascii", errors="replace").splitlines():
        address, letter, name = (*line.split(None, 2), "", "", "")[:3]
        if len(letter) != 1 or not name:
            raise ValueError(f"neither a System.map nor an ELF file: {line[:40]!r}")
        symbols.append((int(address, 16), letter in _TEXT_LETTERS, name))
    return symbols


def _from_elf(data: mmap.mmap) -> list[_Symbol]:
    if len(data) < 64 or data[EI_CLASS] != ELFCLASS64:
        raise ValueError("not a 64-bit ELF file")
    offset, entry_size, count = _EHDR(data)
    headers = data[offset : offset + count * _SHDR.size]
    if entry_size != _SHDR.size or len(headers) < count * _SHDR.size:
        raise ValueError("has no usable section headers")
    sections = list(_SHDR.iter_unpack(headers))
    for kind, _, start, size, link in sections:
        if kind == SHT_SYMTAB and link < len(sections):
            names = data[sections[link][2] :][: sections[link][3]]
            table = data[start : start + size // _SYM.size * _SYM.size]
            return _elf_symbols(table, names, [section[1] for section in sections])
    raise ValueError("has no symbol table: it was stripped")


def _elf_symbols(table: bytes, names: bytes, flags: list[int]) -> list[_Symbol]:
    symbols: list[_Symbol] = []
    for name_at, info, section, value, _ in _SYM.iter_unpack(table):
        if section == SHN_UNDEF or section >= SHN_LORESERVE or section >= len(flags):
            continue
        name = names[name_at : names.find(b"\0", name_at)].decode(errors="replace")
        if name:
            code = bool(flags[section] & SHF_EXECINSTR) or info & 0xF == STT_FUNC
            symbols.append((value, code, name))
    return symbols
