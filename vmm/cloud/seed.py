"""The seed: a disk that tells cloud-init what to make of an image, by NoCloud.

Source: cloud-init, "NoCloud": an ISO 9660 or vfat with the label cidata, on which
`user-data` and `meta-data` are. xorrisofs makes it, the successor of genisoimage.
"""

import hashlib
import os
import subprocess
import tempfile
from typing import Final

from ..disk.disk_file import DiskFile
from ..errors import ConfigError
from ..input_file import read_up_to
from ..vhost_user.program import find_program

_PROGRAMS: Final = ("xorrisofs", "genisoimage", "mkisofs")
_PACKAGES: Final = "install xorriso"
_SIZE_MAX: Final = 16 << 20  # what a typing error isn't
# What cloud-init takes for what, by how it begins
_KINDS: Final = (b"#", b"Content-Type:", b"MIME-Version:", b"\x1f\x8b", b"From ")


def make_seed(paths: tuple[str, ...]) -> DiskFile:
    """A file in memory, of user-data and maybe meta-data. Raises ConfigError.

    Without meta-data an instance is a new one whenever its user-data is another, so
    that cloud-init does again what it does once for each.
    """
    user_data, *more = map(_read, paths)
    if not user_data.startswith(_KINDS):
        raise ConfigError(
            f"seed: {paths[0]!r} begins with nothing that cloud-init knows: its first "
            "line is #cloud-config, or #!"
        )
    name = hashlib.sha256(user_data).hexdigest()[:16]
    meta_data = more[0] if more else f"instance-id: iid-{name}\n".encode()
    program = find_program(_PROGRAMS, "seed: it", _PACKAGES)
    fd = os.memfd_create("seed", os.MFD_CLOEXEC)
    try:
        with tempfile.TemporaryDirectory(prefix="vmm-") as folder:
            for file, data in ("user-data", user_data), ("meta-data", meta_data):
                with open(os.path.join(folder, file), "wb") as target:
                    target.write(data)
            _pack(program, folder, fd)
    except BaseException:
        os.close(fd)
        raise
    return DiskFile(fd, paths[0])


def _pack(program: str, folder: str, fd: int) -> None:
    # Joliet has the names as they are, and Rock Ridge, too; plain ISO 9660 hasn't.
    options = ("-quiet", "-volid", "cidata", "-joliet", "-rational-rock")
    done = subprocess.run(
        [program, *options, folder],
        stdin=subprocess.DEVNULL,
        stdout=fd,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["it failed"]
        raise ConfigError(f"seed: {os.path.basename(program)}: {words[-1]}")


def _read(path: str) -> bytes:
    try:
        data = read_up_to(path, _SIZE_MAX + 1)
    except OSError as error:
        raise ConfigError(f"seed: {path!r}: {error.strerror}") from None
    if len(data) > _SIZE_MAX:
        raise ConfigError(f"seed: {path!r} has more than {_SIZE_MAX >> 20}M")
    return data
