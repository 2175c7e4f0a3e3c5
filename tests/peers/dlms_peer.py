"""A meter by gurux-dlms, which is GPL-2 and so has a process and an environment of its own.

python dlms_peer.py MODE WHERE AUTHENTICATION, keys and values as JSON on standard input

MODE is `tcp` (WHERE a port of loopback), `hdlc` (WHERE a terminal) or `bus` (likewise, and several
meters on it: what is asked of each stands under its physical address). It says `ready` when it
listens. Its server has faults of its own; what stands under `Shims` mends those that stop it.
"""

# ruff: noqa: N802, N815 - the names are those of its methods

import json
import os
import socket
import sys
import termios
import tty
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from gurux_dlms import (  # type: ignore[import-not-found]
    GXDateTime,
    GXDLMSServer,
    GXServerReply,
)
from gurux_dlms._GXAPDU import _GXAPDU  # type: ignore[import-not-found]
from gurux_dlms.AesGcmParameter import AesGcmParameter  # type: ignore[import-not-found]
from gurux_dlms.ConnectionState import ConnectionState  # type: ignore[import-not-found]
from gurux_dlms.enums import (  # type: ignore[import-not-found]
    AccessMode,
    Authentication,
    Command,
    DataType,
    ErrorCode,
    InterfaceType,
    MethodAccessMode,
    Security,
    SourceDiagnostic,
    Unit,
)
from gurux_dlms.GXCiphering import GXCiphering  # type: ignore[import-not-found]
from gurux_dlms.GXDLMS import GXDLMS  # type: ignore[import-not-found]
from gurux_dlms.GXDLMSLongTransaction import (  # type: ignore[import-not-found]
    GXDLMSLongTransaction,
)
from gurux_dlms.GXDLMSSettings import GXDLMSSettings  # type: ignore[import-not-found]
from gurux_dlms.GXSecure import GXSecure  # type: ignore[import-not-found]
from gurux_dlms.objects import (  # type: ignore[import-not-found]
    GXDLMSAssociationLogicalName,
    GXDLMSCaptureObject,
    GXDLMSClock,
    GXDLMSData,
    GXDLMSProfileGeneric,
    GXDLMSRegister,
)
from gurux_dlms.objects.enums import AssociationStatus  # type: ignore[import-not-found]
from gurux_dlms.ValueEventArgs import ValueEventArgs  # type: ignore[import-not-found]

LEVELS = {
    "none": Authentication.NONE,
    "lls": Authentication.LOW,
    "hls-gmac": Authentication.HIGH_GMAC,
}
CENTRAL_EUROPE = timezone(timedelta(hours=1))
PERIOD_S = 900
PUBLIC_CLIENT = 16

# --- Shims. --------------------------------------------------------------------------------------

GXServerReply.getConnectionInfo = lambda self: self.connectionInfo
GXServerReply.setReply = lambda self, value: setattr(self, "reply", value)
GXServerReply.setCount = lambda self, value: setattr(self, "count", value)
GXServerReply.getCount = lambda self: self.count
GXDLMSSettings.getMaxPduSize = lambda self: self.maxPduSize
GXDLMSSettings.setConnected = lambda self, value: setattr(self, "connected", value)
GXDLMSSettings.gbtWndowSize = 1
GXDLMSLongTransaction.setData = lambda self, value: setattr(self, "data", value)
GXDLMSAssociationLogicalName.getAssociationStatus = lambda self: self.associationStatus
ValueEventArgs.__iter__ = lambda self: iter((self,))


def write_aare(
    settings: Any, data: Any, result: Any, diagnostic: Any, cipher: Any, error: Any, _: Any
) -> None:
    """The answer to a request for an association; the server's own cannot be read by anyone: one
    byte has no value, and two lengths leave out their inner headers."""
    sealed = cipher is not None and cipher.isCiphered()
    fields = ber(0xA1, bytes((6, 7, 0x60, 0x85, 0x74, 5, 8, 1, 3 if sealed else 1)))
    fields += ber(0xA2, bytes((2, 1, int(result))))
    fields += ber(0xA3, ber(0xA1, bytes((2, 1, int(diagnostic)))))
    if cipher is not None:
        fields += ber(0xA4, ber(4, bytes(cipher.systemTitle)))
    if settings.authentication > Authentication.LOW:
        fields += bytes((0x88, 2, 7, 0x80, 0x89, 7, 0x60, 0x85, 0x74, 5, 8, 2))
        fields += bytes([settings.authentication])
        fields += ber(0xAA, ber(0x80, bytes(settings.stoCChallenge)))
    said = error.array() if error else _GXAPDU.getUserInformation(settings, cipher)
    if result == 0 or error:
        fields += ber(0xBE, ber(4, bytes(said)))
        if sealed:
            cipher.invocationCounter += 1
    data.set(ber(0x61, fields))


def reply_to_hls(association: Any, settings: Any, event: Any) -> bytes | None:
    """The server's own takes the client's reply for a number."""
    given = bytes(event.parameters)
    counter = int.from_bytes(given[1:5], "big")
    cipher, theirs = settings.cipher, settings.sourceSystemTitle
    expected = GXSecure.secure(settings, cipher, counter, settings.stoCChallenge, theirs)
    if bytes(expected) != given:
        association.associationStatus = AssociationStatus.NON_ASSOCIATED
        event.error = ErrorCode.READ_WRITE_DENIED
        return None
    association.associationStatus = AssociationStatus.ASSOCIATED
    challenge, title = settings.ctoSChallenge, cipher.systemTitle
    return bytes(GXSecure.secure(settings, cipher, cipher.invocationCounter, challenge, title))


def ber(tag: int, content: bytes) -> bytes:
    size = len(content)
    return bytes((tag, size) if size < 0x80 else (tag, 0x81, size)) + content


def open_request(settings: Any, data: Any) -> None:
    """A request under the tag of its service; the server's own leaves an argument out."""
    cipher = settings.cipher
    keys = cipher.blockCipherKey, cipher.authenticationKey
    data.data.position -= 1
    clear = GXCiphering.decrypt(
        settings, AesGcmParameter(0, settings.sourceSystemTitle, *keys), data.data
    )
    data.data.clear()
    data.data.set(clear)
    data.command = Command(data.data.getUInt8())


GXDLMS.handleGloDedRequest = open_request
_GXAPDU.generateAARE = write_aare
GXDLMSAssociationLogicalName.invoke = reply_to_hls


class Meter(GXDLMSServer):  # type: ignore[misc]
    """Some objects, and who may see them."""

    def __init__(self, interface: Any, asked: dict[str, Any]) -> None:
        super().__init__(True, interface)
        self.asked = asked
        self.level = LEVELS[asked["authentication"]]
        self.cipher = None
        self.settings.maxServerPDUSize = asked.get("pdu", 256)
        self.hdlc = None
        if asked.get("keys"):
            cipher = GXCiphering(bytes.fromhex(asked["title"]))
            cipher.blockCipherKey = bytes.fromhex(asked["keys"][0])
            cipher.authenticationKey = bytes.fromhex(asked["keys"][1])
            cipher.security = Security.AUTHENTICATION_ENCRYPTION
            self.cipher = self.settings.cipher = cipher
        self.fill()
        self.initialize()

    def fill(self) -> None:
        number = GXDLMSData("0.0.96.1.0.255")
        number.value = self.asked["number"].encode()
        number.setDataType(2, DataType.OCTET_STRING)
        self.items.append(number)
        counter = GXDLMSData("0.0.43.1.0.255")
        counter.value = self.asked.get("counter", 0)
        counter.setDataType(2, DataType.UINT32)
        self.items.append(counter)
        self.clock = GXDLMSClock("0.0.1.0.0.255")
        self.items.append(self.clock)
        registers = []
        for group, wh in ((1, self.asked["imported_wh"]), (2, self.asked["exported_wh"])):
            register = GXDLMSRegister(f"1.0.{group}.8.0.255")
            register.unit, register.scaler, register.value = Unit.ACTIVE_ENERGY, 10, wh // 10
            register.setDataType(2, DataType.UINT32)
            registers.append(register)
            self.items.append(register)
        profile = GXDLMSProfileGeneric("1.0.99.1.0.255")
        profile.capturePeriod = PERIOD_S
        for one in (self.clock, *registers):
            profile.captureObjects.append((one, GXDLMSCaptureObject(2, 0)))
        self.items.append(profile)
        association = GXDLMSAssociationLogicalName()
        association.objectList.append(number)  # else the server adds a list to a list
        self.items.append(association)

    def rows(self, first_s: int, last_s: int) -> list[list[Any]]:
        """One row a quarter of an hour: its index is its number times 10 Wh, and twice that."""
        number = -(-first_s // PERIOD_S)
        found = []
        while number * PERIOD_S <= last_s:
            found.append([clock_of(number * PERIOD_S), number % 100_000, number % 100_000 * 2])
            number += 1
        return found

    # What the server asks.

    def isTarget(self, server: int, client: int) -> bool:
        public = client == PUBLIC_CLIENT
        self.level = LEVELS["none" if public else self.asked["authentication"]]
        self.settings.cipher = None if public else self.cipher
        return True

    def onValidateAuthentication(self, level: Any, password: Any) -> Any:
        if level != self.level:
            return SourceDiagnostic.AUTHENTICATION_MECHANISM_NAME_REQUIRED
        if (
            level == Authentication.LOW
            and bytes(password or b"") != self.asked["password"].encode()
        ):
            return SourceDiagnostic.AUTHENTICATION_FAILURE
        return SourceDiagnostic.NONE

    def onFindObject(self, kind: Any, sn: int, ln: str) -> Any:
        return None

    def onGetAttributeAccess(self, argument: Any) -> Any:
        if isinstance(argument.target, GXDLMSClock) and argument.index == 2:
            self.clock.time = GXDateTime(datetime.now(UTC).astimezone(CENTRAL_EUROPE))
        if isinstance(argument.target, GXDLMSProfileGeneric) and argument.index == 2:
            argument.target.buffer = self.rows(*span_of(argument.parameters))
            argument.selector = 0
        return AccessMode.READ

    def onGetMethodAccess(self, argument: Any) -> Any:
        return MethodAccessMode.ACCESS

    def _nothing(self, *arguments: Any) -> None: ...

    def getTransaction(self) -> Any:
        return self.transaction

    def setTransaction(self, transaction: Any) -> None:
        self.transaction = transaction

    notifyRead = notifyConnected = onPreRead = onPreGet = onPostGet = onPostRead = _nothing
    onPreWrite = onPostWrite = _nothing
    onConnected = onInvalidConnection = onDisconnected = onPreAction = onPostAction = _nothing

    def handleSnrmRequest(self, data: Any) -> None:
        """The server's own writes parameters that it does not have."""
        GXDLMS.parseSnrmUaResponse(data, self.settings.hdlc)
        self.reset(True)
        most = min(self.asked.get("information_max", 128), self.settings.hdlc.maxInfoTX)
        self.settings.hdlc.maxInfoTX = self.settings.hdlc.maxInfoRX = most
        sizes = b"".join(bytes((name, 2)) + most.to_bytes(2, "big") for name in (5, 6))
        windows = bytes((7, 4, 0, 0, 0, 1, 8, 4, 0, 0, 0, 1))
        self.replyData.set(bytes((0x81, 0x80, len(sizes + windows))) + sizes + windows)
        self.settings.connected = ConnectionState.HDLC

    def generateDisconnectRequest(self) -> None: ...

    def handleReleaseRequest(self, data: Any) -> None:
        """The server's own puts a header where a position belongs."""
        said = bytes(_GXAPDU.getUserInformation(self.settings, self.settings.cipher))
        if self.settings.cipher is not None:
            self.settings.cipher.invocationCounter += 1
        if self.settings.interfaceType == InterfaceType.HDLC:
            self.replyData.set(bytes((0xE6, 0xE7, 0x00)))
        self.replyData.set(ber(0x63, bytes((0x80, 1, 0)) + ber(0xBE, ber(4, said))))

    def answer(self, data: bytes) -> bytes:
        reply = GXServerReply(data)
        self.handleRequest(reply)
        return bytes(reply.reply or b"")


def clock_of(at_s: int) -> Any:
    return GXDateTime(datetime.fromtimestamp(at_s, UTC).astimezone(CENTRAL_EUROPE))


def span_of(parameters: Any) -> tuple[int, int]:
    """The ends of a range, as the standard writes them."""
    ends = []
    for raw in (bytes(parameters[1]), bytes(parameters[2])):
        year, month, day = int.from_bytes(raw[:2], "big"), raw[2], raw[3]
        deviation = int.from_bytes(raw[9:11], "big", signed=True)
        zone = timezone(timedelta(minutes=-deviation))
        hour, minute, second = raw[5:8]
        ends.append(int(datetime(year, month, day, hour, minute, second, 0, zone).timestamp()))
    return ends[0], ends[1]


def serve(read: Callable[[], bytes], write: Callable[[bytes], Any], meter: "Meter | Bus") -> None:
    while data := read():
        answer = meter.answer(data)
        if answer:
            write(answer)


class Bus:
    """Meters of one line. A server takes what is addressed to another for an error, and says so: so
    each hears its own frames only."""

    def __init__(self, asked: dict[str, dict[str, Any]]) -> None:
        self.meters = {
            int(address): Meter(InterfaceType.HDLC, one) for address, one in asked.items()
        }
        self.held = b""

    def answer(self, data: bytes) -> bytes:
        self.held += data
        said = b""
        while len(self.held) > 3:
            size = 2 + ((self.held[1] & 0x07) << 8 | self.held[2])
            if self.held[:1] != b"\x7e" or len(self.held) < size:
                break
            frame, self.held = self.held[:size], self.held[size:]
            meter = self.meters.get(frame[4] >> 1)  # behind the logical device, one byte each
            if meter is not None:
                said += meter.answer(frame)
        return said


def main() -> None:
    mode, where = sys.argv[1:3]
    asked = json.loads(sys.stdin.readline())
    if mode == "tcp":
        with socket.create_server(("127.0.0.1", int(where))) as listening:
            print("ready", listening.getsockname()[1], flush=True)
            while True:
                connection, _ = listening.accept()
                with connection:
                    serve(
                        lambda: connection.recv(4_096),  # noqa: B023 - used up within the turn
                        connection.sendall,
                        Meter(InterfaceType.WRAPPER, asked),
                    )
    line = os.open(where, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(line, termios.TCSANOW)
    print("ready", where, flush=True)
    serve(
        lambda: os.read(line, 4_096),
        lambda data: os.write(line, data),
        Bus(asked) if mode == "bus" else Meter(InterfaceType.HDLC, asked),
    )


if __name__ == "__main__":
    main()
