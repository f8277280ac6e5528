"""Looks for regexes, in this process or as a program in one that can be killed.

As a program it imports nothing of ours: it is run by its path, on three pipes.
"""

import fcntl
import marshal
import os
import re
import select
import sys
from collections.abc import Sequence
from struct import Struct
from typing import Final

HELLO: Final = b"\n"  # what the program says first
HEAD: Final = Struct("<I")  # before each message: its length
ASKER: Final = 3  # descriptor of a pipe that has nothing, and ends with who asks
O_ASYNC: Final = 0x2000  # <asm-generic/fcntl.h>; os doesn't have it

Wanted = tuple[re.Pattern[bytes], int]  # and from where on in the text


def first_match(
    wanted: Sequence[Wanted], text: bytes
) -> tuple[re.Match[bytes], int] | None:
    """The match that begins first, and whose it is; of two, the first's in the list."""
    best: tuple[re.Match[bytes], int] | None = None
    for index, (regex, start) in enumerate(wanted):
        match = regex.search(text, start)
        if match and (best is None or match.start() < best[0].start()):
            best = match, index
    return best


def _answer(question: bytes) -> bytes:
    """The index of the pattern, and the spans of the match and its groups."""
    wanted, text = marshal.loads(question)
    found = first_match(
        [(re.compile(source, flags), start) for source, flags, start in wanted], text
    )
    if found is None:
        return marshal.dumps(None)
    match, index = found
    spans = [match.span(group) for group in range(match.re.groups + 1)]
    return marshal.dumps((index, spans))


def _die_with_asker() -> None:
    """Let SIGIO end us, in the midst of a search too, when the other end is closed.

    It would come for what is written, too, and late: after it was read. So this is a
    pipe of its own.
    """
    fcntl.fcntl(ASKER, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(ASKER, fcntl.F_SETFL, os.O_RDONLY | O_ASYNC)
    poller = select.poll()
    poller.register(ASKER, 0)  # a hang-up is reported regardless
    if poller.poll(0):  # before we asked for the signal
        sys.exit()


def _serve() -> None:
    _die_with_asker()
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sink.write(HELLO)
    sink.flush()
    while head := source.read(HEAD.size):
        question = source.read(HEAD.unpack(head)[0])
        answer = _answer(question)
        sink.write(HEAD.pack(len(answer)) + answer)
        sink.flush()


if __name__ == "__main__":
    _serve()
