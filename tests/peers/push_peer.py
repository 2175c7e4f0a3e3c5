"""Writes data notifications with gurux-dlms. In: how each is sent, and the list it carries, in
hexadecimal. Out, for each: its bytes as they stand on the line, in hexadecimal.
"""

import json
import sys
from datetime import datetime
from typing import Any

from gurux_dlms import GXByteBuffer, GXDateTime  # type: ignore[import-not-found]
from gurux_dlms.enums import (  # type: ignore[import-not-found]
    Conformance,
    InterfaceType,
    Security,
)
from gurux_dlms.objects.enums import SecuritySuite  # type: ignore[import-not-found]
from gurux_dlms.secure import GXDLMSSecureNotify  # type: ignore[import-not-found]


def write(asked: dict[str, Any]) -> str:
    sender = GXDLMSSecureNotify(True, 1, 1, InterfaceType[asked["framing"]])
    sender.maxReceivePDUSize = asked["pdu"]
    sender.settings.negotiatedConformance |= Conformance.GENERAL_PROTECTION
    sender.settings.negotiatedConformance |= Conformance.GENERAL_BLOCK_TRANSFER
    ciphering = sender.ciphering
    ciphering.security = Security(asked["security"])
    ciphering.securitySuite = SecuritySuite(asked["suite"])
    ciphering.systemTitle = bytes.fromhex(asked["title"])
    ciphering.blockCipherKey, ciphering.authenticationKey = map(bytes.fromhex, asked["keys"])
    ciphering.invocationCounter = asked["counter"]
    clock = GXDateTime(datetime.fromisoformat(asked["clock"])) if asked["clock"] else None
    body = GXByteBuffer(bytes.fromhex(asked["body"]))
    return "".join(bytes(one).hex() for one in sender.generateDataNotificationMessages(clock, body))


def main() -> None:
    json.dump([write(one) for one in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
