"""A decoder that only listens, as a conversation that never says anything: whoever has the line
knows one kind."""

from hal.index.reading import IndexDecoder, LineForm, Reading, Refusal


class Listener:
    """See `Conversation`. It wants a look once nothing has come for as long as ends a message."""

    def __init__(self, decoder: IndexDecoder, form: LineForm, silence_ns: int) -> None:
        """
        Args:
            decoder: what listens.
            form: of its line.
            silence_ns: what the decoder takes for the end of what came before.
        """
        self._decoder, self._silence_ns = decoder, silence_ns
        self.form = form
        self.due_ns: int | None = None

    def receive(self, data: bytes, at_ns: int) -> list[Reading | Refusal]:
        if data:
            self.due_ns = at_ns + self._silence_ns
        elif self.due_ns is not None and at_ns >= self.due_ns:
            self.due_ns = None
        return self._decoder.receive(data, at_ns)

    def speak(self, now_ns: int) -> bytes:  # noqa: ARG002 - there is nobody to speak to
        return b""
