"""What Mosquitto is told: where it listens, who may come in, who may say and read what. Text only.

The broker is trusted with nothing but delivery. Its rules keep one party from blocking another:
nobody writes under another's topics, throws another out, or fills its memory.
"""

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import pbkdf2_hmac
from ipaddress import ip_address
from urllib.parse import urlsplit

from cryptometer.errors import ConfigurationError
from cryptometer.record_fields import LABEL, Role
from cryptometer.wire import Bytes, wire, wire_optional

PORT_PLAIN, PORT_TLS = 1883, 8883
INSTALLED = "/etc/mosquitto/cryptometer"  # where the files lie on the broker's machine

# A meter sends some 1 kB a step: a thousand meters fill this in 16 hours of a gateway's absence.
# What does not fit is dropped, and sent again by its device once the gateway is back.
QUEUE_BYTES = 64 * 2**20
IN_FLIGHT_MAX = 1_000  # as many as `hal.mqtt` keeps open; a gateway confirms after its commit
MESSAGE_BYTES = 65 * 2**10  # above a record's 65,535 and a checkpoint's 65,536
PACKET_BYTES = (
    2 * 2**16
)  # a packet is read whole before it is judged: whoever sends more is cut off
SESSION_DAYS = 35  # as the default late window: what waits longer counts no more
AUTOSAVE_S = 60  # what a crash of the broker loses; devices send it again

PASSWORD_BYTES = 32
SALT_BYTES = 12  # Mosquitto 2.0 takes no other length
# As mosquitto_passwd: 256 random bits need no stretching, and the check holds up all clients.
PASSWORD_ROUNDS = 101

_HOST = re.compile(r"[A-Za-z0-9.\-]+|[0-9A-Fa-f:.]+")
_FOLDER = re.compile(r"/[A-Za-z0-9._/+-]*")


@dataclass(frozen=True, slots=True)
class Credential:
    """What the broker knows a party by: a password or a client certificate with its key (PEM)."""

    name: str = wire(0, LABEL)
    password: str | None = wire_optional(1, LABEL)
    salt: bytes | None = wire_optional(2, Bytes(SALT_BYTES, SALT_BYTES))
    certificate: bytes | None = wire_optional(3, Bytes(1, 16_384))
    key: bytes | None = wire_optional(4, Bytes(1, 4_096))


@dataclass(frozen=True, slots=True)
class Address:
    """Where the broker listens; with TLS also on the next port, for parties with passwords."""

    tls: bool
    host: str
    port: int

    @property
    def url(self) -> str:
        return self._url(self.port)

    @property
    def password_url(self) -> str:
        return self._url(self.port + 1)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it by this name."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def _url(self, port: int) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{port}"


def parse_address(url: str) -> Address:
    """Reads mqtt://host:port or mqtts://host:port; the port may be left out.

    Raises:
        ConfigurationError: it is none.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # brackets without an address in them, a port that is no number
        parts, host, port = urlsplit(""), "", None
    tls = parts.scheme == "mqtts"
    beside = (parts.username, parts.password, parts.path, parts.query, parts.fragment)
    if parts.scheme not in ("mqtt", "mqtts") or any(beside) or not _HOST.fullmatch(host):
        raise ConfigurationError(
            f"the broker is mqtts://host:port, or mqtt://127.0.0.1:port for a demo; not {url!r}"
        )
    port = (PORT_TLS if tls else PORT_PLAIN) if port is None else port
    if not 0 < port < 65_535:  # the next port is for passwords
        raise ConfigurationError(f"the broker's port is from 1 to 65534, not {port}")
    return Address(tls, host, port)


def check_folder(folder: str) -> None:
    """Refuses what does not stand safely in a line of mosquitto.conf.

    Raises:
        ConfigurationError: it is no plain absolute path.
    """
    if not _FOLDER.fullmatch(folder):
        raise ConfigurationError(f"the broker's folder is a plain absolute path, not {folder!r}")


def mosquitto_conf(address: Address, folder: str, community: str) -> str:
    """The broker's configuration, to be included by the system's own mosquitto.conf, which says
    where its log and its database are.

    Args:
        address: of a broker with TLS.
        folder: where the other files lie on the broker's machine.
        community: its name, for people.
    """
    where = f" {address.host}" if address.is_loopback else ""
    keys = f"cafile {folder}/ca.pem\ncertfile {folder}/server.pem\nkeyfile {folder}/server.key"
    return f"""\
# The broker of {community}. Written by `cryptometer authority`: changes made here are lost.

# Nobody comes in without a credential, and nobody leaves his own topics.
allow_anonymous false
password_file {folder}/passwords
acl_file {folder}/acl

# The default of 1000 queued messages drops QoS 1 messages silently, long before memory is short:
# queues are limited in bytes, for each client. Dropped all the same, a record is sent again by
# its device, which keeps it until the gateway itself has acknowledged it.
max_queued_messages 0
max_queued_bytes {QUEUE_BYTES}
# The queue of who does not come back goes at last.
persistent_client_expiration {SESSION_DAYS}d
# A gateway confirms messages after they are durable, many at once: the default of 20 would make
# it wait for itself.
max_inflight_messages {IN_FLIGHT_MAX}
# No record is larger than 65,535 bytes; no packet is read whole that is larger than two.
message_size_limit {MESSAGE_BYTES}
max_packet_size {PACKET_BYTES}

# Retained words (acknowledgements, registrations, the checkpoint) and queues outlive a restart.
persistence true
autosave_interval {AUTOSAVE_S}

# Parties with a client certificate: its common name is the user, and no password is asked.
# The list of revoked certificates is read again at a reload.
listener {address.port}{where}
{keys}
crlfile {folder}/crl.pem
require_certificate true
use_identity_as_username true
# The user's name replaces the client id: nobody throws another out by taking his id.
use_username_as_clientid true

# Parties with a password, over TLS all the same.
listener {address.port + 1}{where}
{keys}
use_username_as_clientid true
"""


def acl(community: bytes, parties: Iterable[tuple[Role, str]]) -> str:
    """The access rules: one block for each party that is not revoked. Without a block, nothing."""
    top = f"cryptometer/1/{community.hex()}"
    blocks = ["# Written by `cryptometer authority`: changes made here are lost.\n"]
    for role, name in parties:
        rules = "".join(f"topic {rule}\n" for rule in _rules(top, role, name))
        blocks.append(f"# {role}\nuser {name}\n{rules}")
    return "\n".join(blocks)


def password_line(credential: Credential) -> str:
    """A line of Mosquitto's password file: PBKDF2 with HMAC-SHA-512, as mosquitto_passwd(1)."""
    if credential.password is None or credential.salt is None:
        raise ValueError(f"{credential.name} has no password")
    digest = pbkdf2_hmac(
        "sha512", credential.password.encode(), credential.salt, PASSWORD_ROUNDS, dklen=64
    )
    salt, key = (base64.b64encode(part).decode() for part in (credential.salt, digest))
    return f"{credential.name}:$7${PASSWORD_ROUNDS}${salt}${key}\n"


def _rules(top: str, role: Role, name: str) -> list[str]:
    own = f"{top}/meter/{name}"
    all_meters = f"{top}/meter/+"
    read = f"read {top}/checkpoint"
    match role:
        case Role.METER:
            return [
                f"write {own}/record",
                f"write {own}/status",
                f"read {own}/ack/+",
                f"read {own}/registration",
                read,
            ]
        case Role.GATEWAY:
            return [
                f"read {all_meters}/record",
                f"read {all_meters}/status",
                f"write {all_meters}/ack/{name}",
                f"write {all_meters}/registration",
                f"readwrite {top}/checkpoint",
            ]
        case Role.NODE:
            return [
                f"read {all_meters}/record",
                f"read {all_meters}/status",
                f"write {all_meters}/ack/{name}",
                read,
            ]
        case Role.VPP | Role.MEMBER:
            return [read]
