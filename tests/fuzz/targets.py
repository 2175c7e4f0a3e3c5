"""The table of all that reads bytes or text from outside or from disk."""

from tests.fuzz.api import API
from tests.fuzz.believed import BELIEVED
from tests.fuzz.board import BOARD
from tests.fuzz.commands import COMMANDS
from tests.fuzz.core import CORE
from tests.fuzz.curves import CURVES
from tests.fuzz.customer_ports import CUSTOMER_PORTS
from tests.fuzz.dlms import DLMS
from tests.fuzz.gate import GATEWAY
from tests.fuzz.modbus import MODBUS
from tests.fuzz.optical_ports import OPTICAL_PORTS
from tests.fuzz.shares import SHARES
from tests.fuzz.sharing import SHARING
from tests.fuzz.target import Target

TARGETS: tuple[Target, ...] = (
    *CORE,
    *SHARING,
    *BOARD,
    *GATEWAY,
    *COMMANDS,
    *CURVES,
    *SHARES,
    *API,
    *MODBUS,
    *CUSTOMER_PORTS,
    *DLMS,
    *OPTICAL_PORTS,
    *BELIEVED,
)
