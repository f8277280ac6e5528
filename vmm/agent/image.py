"""The agent in an initramfs: behind the user's, and started before his init."""

import re
from typing import Final

from ..guest import cpio
from ..guest.command import nodes
from ..guest.program import program

AGENT: Final = "vmm-agent"
_RDINIT: Final = re.compile(r"(?<!\S)rdinit=(\S*)\s*")


def agent_cmdline(cmdline: str, init: str | None = None) -> str:
    """`cmdline`, by which the kernel starts the agent, and the agent the user's init.

    `init` is that if the user names none; None: where the kernel looks, "-": none.
    """
    ours, dashes, for_init = _split(cmdline)
    asked = _RDINIT.findall(ours)
    init = asked[-1] if asked else init
    # Many kernels look for one UART only unless they are told.
    words = [f"rdinit=/{AGENT}", "8250.nr_uarts=2"]
    if init is not None:
        words.append(f"VMM_AGENT_INIT={init}")
    rest = _RDINIT.sub("", ours).strip()
    return f"{' '.join(words)} {rest}".rstrip() + dashes + for_init


def _split(cmdline: str) -> tuple[str, str, str]:
    """What is for the kernel, and behind -- what is for init."""
    found = re.search(r"(?<!\S)--(?!\S)", cmdline)
    if found is None:
        return cmdline, "", ""
    return cmdline[: found.start()], " --", cmdline[found.end() :]


def agent_segment(build_dir: str) -> bytes:
    """The cpio archive that goes behind the initrd. Raises ConfigError."""
    binary = program(AGENT, "agent", build_dir)
    return cpio.write([*nodes(), cpio.file(AGENT, binary, 0o755)])
