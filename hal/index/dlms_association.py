"""An association with a DLMS/COSEM meter: dlms-cosem 21.3.2, and what it lacks.

The library writes and reads what sets an association up and ends it, the services, the challenge of
HLS, and keeps the order of it all. Mended around it, since 21.3.2 is its last free release:

- It counts the challenge's reply under the invocation counter of the message that carries it. One
  nonce must not be used twice: the counter is raised in between.
- It believes whatever authentication, protection and challenge the meter names. They must be those
  that were asked for.
- It protects with general-glo-ciphering only, and writes its length in one byte. Messages are
  sealed and opened by `hal.index.ciphering`, under the tags of the single services too.
- It reads no AARE of 128 bytes or more, and no answer whose first block is the last one.
- It takes the meter's first invocation counter for a repetition if that is 0.
- It proposes general block transfer, which it cannot read.
- It logs decrypted messages as warnings.

It takes 160 ms to import, so it is imported when a client is made.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from typing import Any

from hal.index.axdr import Malformed, Truncated
from hal.index.ciphering import (
    AUTHENTICATED,
    ENCRYPTED,
    GENERAL_GLO,
    Keys,
    NotAuthentic,
    OtherProtection,
    decode_protected,
    encode_protected,
    open_protected,
    seal_protected,
)
from hal.index.reading import Refused

CHALLENGE_SIZE = 16
PDU_MAX = 2_048  # bytes of a message that are asked for; longer answers come in blocks
COUNTER_MAX = 0xFFFF_FFFF

_AARE, _RLRE, _EXCEPTION, _SERVICE_ERROR = 0x61, 0x63, 0xD8, 0x0E
_GET_RESPONSE, _WITH_BLOCK = 0xC4, 2
_SPECIFIC = {0xC0: 0xC8, 0xC3: 0xCB, 0xC4: 0xCC, 0xC7: 0xCF}  # clear tag: the global one
_GLOBAL_RESPONSES = (GENERAL_GLO, 0xCC, 0xCF)
_IN_CLEAR = (_AARE, _RLRE, _EXCEPTION, _SERVICE_ERROR)
_GMAC_SIZE = 17
_INVOKE_ID = 1


class Authentication(StrEnum):
    """How a client shows who it is."""

    NONE = "none"
    LLS = "lls"  # a password
    HLS_GMAC = "hls-gmac"  # challenges, answered with the authentication key


@dataclass(frozen=True, slots=True)
class Terms:
    """What an association is asked for.

    Attributes:
        authentication: how.
        password: for LLS.
        keys: None: messages are in clear.
        title: the client's system title, eight bytes.
        specific: messages bear the tags of their services, not the general one.
    """

    authentication: Authentication = Authentication.NONE
    password: bytes = field(default=b"", repr=False)
    keys: Keys | None = None
    title: bytes = b"CRY\x00\x00\x00\x00\x01"
    specific: bool = False

    def __post_init__(self) -> None:
        if len(self.title) != 8:
            raise ValueError("a system title has eight bytes")
        if self.authentication is Authentication.HLS_GMAC and self.keys is None:
            raise ValueError("HLS with GMAC needs both keys")
        if self.keys is not None and self.keys.authentication is None:
            raise ValueError("an association needs the authentication key beside the other one")


class Failed(Exception):  # noqa: N818 - a verdict, told in its own word
    """The association cannot go on."""

    def __init__(self, reason: Refused, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Attribute:
    """Of a COSEM object: its class, OBIS code and the attribute's number."""

    interface: int
    code: bytes
    number: int = 2


@dataclass(frozen=True, slots=True)
class Got:
    """An answer to a GET.

    Attributes:
        data: the value, or a block of it.
        block: its number, if it is one.
        last: nothing follows.
        error: why there is no value; empty: there is one.
    """

    data: bytes = b""
    block: int = 0
    last: bool = True
    error: str = ""


class Library:
    """dlms-cosem, silenced."""

    def __init__(self) -> None:
        """
        Raises:
            ImportError: it is not installed.
        """
        self.connection: Any = import_module("dlms_cosem.connection")
        self.state: Any = import_module("dlms_cosem.state")
        self.exceptions: Any = import_module("dlms_cosem.exceptions")
        self.enums: Any = import_module("dlms_cosem.enumerations")
        self.cosem: Any = import_module("dlms_cosem.cosem")
        self.acse: Any = import_module("dlms_cosem.protocol.acse")
        self.xdlms: Any = import_module("dlms_cosem.protocol.xdlms")
        for module in (self.connection, self.state):
            module.LOG.disabled = True


class _Selection:
    """Bytes of a selective access, where the library takes an object that writes them."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def to_bytes(self) -> bytes:
        return self._data


class Association:
    """From the request for one to its release. Every message that comes is an answer."""

    def __init__(
        self, library: Library, terms: Terms, counter: int, draw: Callable[[int], bytes]
    ) -> None:
        """
        Args:
            library: dlms-cosem.
            terms: what is asked for.
            counter: the first invocation counter that was never used with these keys.
            draw: gives so many random bytes.
        """
        self._library, self._terms = library, terms
        keys = terms.keys
        self._connection = library.connection.DlmsConnection(
            client_system_title=terms.title,
            global_encryption_key=None if keys is None else keys.encryption,
            global_authentication_key=None if keys is None else keys.authentication,
            authentication_method=self._mechanism,
            password=terms.password or None,
            client_invocation_counter=counter,
            meter_invocation_counter=-1,
            max_pdu_size=PDU_MAX,
            conformance=library.xdlms.Conformance(
                general_protection=keys is not None and not terms.specific,
                block_transfer_with_get_or_read=True,
                get=True,
                selective_access=True,
                action=terms.authentication is Authentication.HLS_GMAC,
            ),
        )
        self._connection.client_to_meter_challenge = draw(CHALLENGE_SIZE)

    @property
    def _mechanism(self) -> Any:
        enum = self._library.enums.AuthenticationMechanism
        match self._terms.authentication:
            case Authentication.LLS:
                return enum.LLS
            case Authentication.HLS_GMAC:
                return enum.HLS_GMAC
            case _:
                return None

    @property
    def counter(self) -> int:
        """The next invocation counter that was not used."""
        return int(self._connection.client_invocation_counter)

    @property
    def title(self) -> bytes:
        """The meter's system title; empty if it named none."""
        return bytes(self._connection.meter_system_title or b"")

    def request(self) -> bytes:
        """The message that asks for the association."""
        self._check_counter()
        request = self._connection.get_aarq()
        if self._terms.keys is None:
            request.system_title = None
        return self._sent_by_library(request)

    def accept(self, message: bytes) -> bytes | None:
        """Takes the answer to the request. What is to be sent to complete it, if anything.

        Raises:
            Failed: the meter refuses, or grants something else than was asked for.
        """
        answer = self._receive(_shortened(message), asked=(_AARE,))
        enums = self._library.enums
        if answer.result != enums.AssociationResult.ACCEPTED:
            why = answer.result_source_diagnostics.name.lower().replace("_", " ")
            by_key = "authentication" in why and "required" not in why
            reason = Refused.NOT_AUTHENTIC if by_key else Refused.METER_ERROR
            raise Failed(reason, f"the meter refuses the association: {why}")
        self._check_granted(answer)
        if self._terms.authentication is not Authentication.HLS_GMAC:
            return None
        challenge = bytes(self._connection.meter_to_client_challenge or b"")
        if not 8 <= len(challenge) <= 64 or challenge == self._connection.client_to_meter_challenge:
            raise Failed(Refused.NOT_AUTHENTIC, "the meter's challenge is none, or ours sent back")
        reply = bytes(self._connection.get_hls_reply())
        self._connection.client_invocation_counter += 1  # the library's reply has used this one
        cosem, interface = self._library.cosem, enums.CosemInterface.ASSOCIATION_LN
        return self._send(
            self._library.xdlms.ActionRequestNormal(
                cosem_method=cosem.CosemMethod(interface, cosem.Obis(0, 0, 40, 0, 0), 1),
                data=bytes((9, len(reply))) + reply,
                invoke_id_and_priority=self._invoke,
            )
        )

    def _check_granted(self, answer: Any) -> None:
        if self._terms.keys is not None and (not answer.ciphered or len(self.title) != 8):
            raise Failed(Refused.NOT_AUTHENTIC, "the meter grants an association in clear")
        if self._terms.authentication is Authentication.HLS_GMAC and (
            answer.authentication != self._mechanism
        ):
            raise Failed(Refused.NOT_AUTHENTIC, "the meter grants another authentication")
        if answer.user_information is None:
            raise Failed(Refused.FORM, "the meter does not say what it grants")
        ready = self._connection.state.current_state is self._library.state.READY
        if ready is (self._terms.authentication is Authentication.HLS_GMAC):
            raise Failed(Refused.NOT_AUTHENTIC, "the meter grants another authentication")
        # The mechanism of the meter's own choice must not replace ours in what is sent later.
        self._connection.authentication_method = self._mechanism

    def accept_reply(self, message: bytes) -> None:
        """Takes the meter's answer to our reply to its challenge.

        Raises:
            Failed: the meter does not know the keys.
        """
        self._receive(message, asked=(0xC7,), check=_check_gmac)
        if self._connection.state.current_state is not self._library.state.READY:
            raise Failed(Refused.NOT_AUTHENTIC, "the meter answers our challenge wrongly")

    def get(self, attribute: Attribute, selection: bytes = b"") -> bytes:
        """The message that asks for an attribute.

        Args:
            attribute: which.
            selection: the access selection as it is sent; empty: all of it.
        """
        cosem, code = self._library.cosem, attribute.code
        return self._send(
            self._library.xdlms.GetRequestNormal(
                cosem_attribute=cosem.CosemAttribute(
                    self._library.enums.CosemInterface(attribute.interface),
                    cosem.Obis.from_bytes(code),
                    attribute.number,
                ),
                invoke_id_and_priority=self._invoke,
                access_selection=_Selection(selection) if selection else None,
            )
        )

    def get_next(self, block: int) -> bytes:
        """The message that asks for the block after this one."""
        return self._send(self._library.xdlms.GetRequestNext(block, self._invoke))

    def got(self, message: bytes) -> Got:
        """Takes the answer to a GET.

        Raises:
            Failed: it is none.
        """
        answer = self._receive(message, asked=(_GET_RESPONSE, _EXCEPTION))
        xdlms = self._library.xdlms
        if isinstance(answer, xdlms.ExceptionResponse):
            return Got(error=answer.service_error.name.lower().replace("_", " "))
        if answer.invoke_id_and_priority.invoke_id != _INVOKE_ID:
            raise Failed(Refused.FORM, "an answer to another question")
        if isinstance(answer, xdlms.GetResponseNormal):
            return Got(answer.data)
        if isinstance(answer, xdlms.GetResponseWithBlock | xdlms.GetResponseLastBlock):
            last = isinstance(answer, xdlms.GetResponseLastBlock)
            return Got(answer.data, answer.block_number, last)
        if hasattr(answer, "error"):
            return Got(error=answer.error.name.lower().replace("_", " "))
        raise Failed(Refused.UNSUPPORTED, f"an answer of the kind {type(answer).__name__}")

    def release(self) -> bytes:
        """The message that ends the association."""
        self._check_counter()
        release = self._connection.get_rlrq()
        if self._terms.keys is None:
            release.user_information = None  # meters without ciphering do not expect any
        return self._sent_by_library(release)

    def _sent_by_library(self, event: Any) -> bytes:
        try:
            return bytes(self._connection.send(event))
        except self._library.exceptions.LocalDlmsProtocolError as error:
            raise Failed(Refused.FORM, f"out of order: {error}") from None

    # --- What every message takes. ---------------------------------------------------------------

    @property
    def _invoke(self) -> Any:
        # Always the same: answers come in order, and a late one ends the association before.
        return self._library.xdlms.InvokeIdAndPriority(_INVOKE_ID)

    def _check_counter(self) -> None:
        if self.counter > COUNTER_MAX:
            raise Failed(Refused.NOT_AUTHENTIC, "every invocation counter of these keys is used")

    def _send(self, event: Any) -> bytes:
        self._check_counter()
        try:
            self._connection.state.process_event(event)
        except self._library.exceptions.LocalDlmsProtocolError as error:
            raise Failed(Refused.FORM, f"out of order: {error}") from None
        message = bytes(event.to_bytes())
        keys = self._terms.keys
        if keys is None:
            return message
        counter = self.counter
        self._connection.client_invocation_counter += 1
        control = AUTHENTICATED | ENCRYPTED
        sealed = seal_protected(message, control, counter, self._terms.title, keys)
        tag = _SPECIFIC[message[0]] if self._terms.specific else GENERAL_GLO
        return encode_protected(sealed, tag)

    def _receive(
        self, message: bytes, asked: tuple[int, ...], check: Callable[[bytes], None] | None = None
    ) -> Any:
        """The library's view of an answer.

        Raises:
            Failed: it is none of those that were asked for, or not authentic.
        """
        clear = self._opened(message)
        if clear[:1] == bytes([_SERVICE_ERROR]):
            raise Failed(Refused.METER_ERROR, f"the meter cannot: service error {clear[1:4].hex()}")
        if clear[:1] not in [bytes([tag]) for tag in (*asked, _EXCEPTION)]:
            shown = clear[:1].hex() or "none"
            raise Failed(Refused.FORM, f"an answer with the tag {shown}: it was not asked for")
        if check is not None:
            check(clear)
        states = self._library.state
        if clear[:2] == bytes((_GET_RESPONSE, _WITH_BLOCK)):
            # The first block may be the last one.
            self._connection.state.current_state = states.AWAITING_GET_BLOCK_RESPONSE
        self._connection.clear_buffer()
        self._connection.receive_data(clear)
        try:
            answer = self._connection.next_event()
        except self._library.connection.DecryptionError:
            raise Failed(
                Refused.NOT_AUTHENTIC, "the tag is wrong: altered, or another key"
            ) from None
        except Exception as error:  # noqa: BLE001 - on foreign bytes the library raises anything
            reason = Refused.FORM
            if isinstance(error, self._library.connection.ProtectionError):
                reason = Refused.NOT_AUTHENTIC
            raise Failed(reason, f"an answer that cannot be read: {error!r}"[:200]) from None
        if isinstance(answer, self._library.xdlms.ExceptionResponse) and _EXCEPTION not in asked:
            why = answer.service_error.name.lower().replace("_", " ")
            raise Failed(Refused.METER_ERROR, f"the meter cannot: {why}")
        return answer

    def _opened(self, message: bytes) -> bytes:
        keys = self._terms.keys
        tag = message[0] if message else 0
        if keys is None:
            return message
        if tag == _AARE:
            self._check_sealed(message)
            return message
        if tag not in _GLOBAL_RESPONSES:
            if tag in _IN_CLEAR:
                return message
            raise Failed(Refused.NOT_AUTHENTIC, "an answer in clear to a sealed question")
        try:
            protected, end = decode_protected(message, 1, general=tag == GENERAL_GLO)
            if end != len(message):
                raise Malformed("bytes follow a protected answer")
            if protected.title not in (b"", self.title):
                raise NotAuthentic("an answer under another system title")
            clear = open_protected(protected, self.title, keys)
        except NotAuthentic as bad:
            raise Failed(Refused.NOT_AUTHENTIC, str(bad)) from None
        except OtherProtection as bad:
            raise Failed(Refused.UNSUPPORTED, str(bad)) from None
        except Truncated as bad:
            raise Failed(Refused.INCOMPLETE, str(bad)) from None
        except Malformed as bad:
            raise Failed(Refused.FORM, str(bad)) from None
        if protected.counter <= self._connection.meter_invocation_counter:
            raise Failed(Refused.NOT_AUTHENTIC, "an answer that was given before")
        self._connection.meter_invocation_counter = protected.counter
        return clear

    def _check_sealed(self, message: bytes) -> None:
        """What a meter grants under keys is sealed, if it grants anything."""
        try:
            answer = self._library.acse.ApplicationAssociationResponse.from_bytes(message)
            said = answer.user_information
        except Exception as error:  # noqa: BLE001 - on foreign bytes the library raises anything
            raise Failed(Refused.FORM, f"an answer that cannot be read: {error!r}"[:200]) from None
        accepted = answer.result == self._library.enums.AssociationResult.ACCEPTED
        sealed = self._library.xdlms.GlobalCipherInitiateResponse
        if accepted and (said is None or not isinstance(said.content, sealed)):
            raise Failed(Refused.NOT_AUTHENTIC, "what the meter grants is not sealed")


def _shortened(message: bytes) -> bytes:
    """An AARE whose length is in the one byte that the library reads."""
    if message[:2] == bytes((_AARE, 0x81)):
        return message[:1] + message[2:]
    return message


def _check_gmac(clear: bytes) -> None:
    """The library reads the reply's own security control: only that of GMAC may stand there.

    Raises:
        Failed: the reply has another form.
    """
    reply = clear[-_GMAC_SIZE - 2 :]
    if clear[3:4] == b"\0" and reply[:3] != bytes((9, _GMAC_SIZE, AUTHENTICATED)):
        raise Failed(Refused.NOT_AUTHENTIC, "the meter's reply to our challenge has another form")
