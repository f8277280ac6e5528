"""TextMode: what a user gives and gets is text, or bytes."""

import codecs
from typing import Any


class TextMode:
    """How text comes out of bytes; None for `encoding`: it stays bytes.

    Raises LookupError for an encoding, or a way with errors, that there isn't.
    """

    def __init__(
        self, text: bool | None, encoding: str | None, errors: str | None
    ) -> None:
        is_text = bool(text) or encoding is not None or errors is not None
        self.encoding = (encoding or "utf-8") if is_text else None
        self.errors = errors or "strict"
        if self.encoding is not None:  # or the command had run when we find out
            codecs.lookup(self.encoding)
            codecs.lookup_error(self.errors)

    def output(self, data: bytes) -> Any:  # noqa: ANN401, str or bytes
        """What a user gets for output."""
        if self.encoding is None:
            return data
        text = data.decode(self.encoding, self.errors)
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def part(self, data: bytes) -> Any:  # noqa: ANN401
        """Likewise, for output that may end within a character."""
        lenient = None if self.encoding is None else "replace"
        return TextMode(None, self.encoding, lenient).output(data)

    def input(self, data: Any) -> bytes:  # noqa: ANN401
        """What the guest gets for input. Raises TypeError."""
        if self.encoding is not None and isinstance(data, str):
            return data.encode(self.encoding, self.errors)
        if isinstance(data, str):
            raise TypeError("input: a str needs text=True or an encoding")
        return bytes(memoryview(data))
