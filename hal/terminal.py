"""Serial ports, whatever is read from them: why one cannot be opened, and all that waits on one."""

import errno
import os
import termios

from hal.ports import LineLost

READ_BY_ANOTHER = "another program reads it"


def why_unopened(error: BaseException) -> str:
    """Why, and what to do; of an OSError, a termios.error, or what pyserial makes of one."""
    number = getattr(error, "errno", None)
    if isinstance(error, termios.error):  # no OSError
        number = error.args[0]
    elif number is None and isinstance(error.__context__, termios.error):
        return why_unopened(error.__context__)  # pyserial keeps only its text
    if number in (errno.EACCES, errno.EPERM):
        return "permission denied; add the user to the group dialout"
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return "there is no such device; look under /dev/serial/by-id"
    if number in (errno.EAGAIN, errno.EWOULDBLOCK):
        return READ_BY_ANOTHER
    if number in (errno.ENOTTY, errno.EISDIR, errno.EINVAL, errno.EIO):
        return "it is no serial line"
    return str(error)


def read_waiting(port: int, device: str, most: int) -> bytes:
    """All that waits on a port that is opened not to block, up to `most` bytes. One read brings at
    most the 4,095 bytes of the terminal's buffer; more may wait behind it.

    Raises:
        LineLost: the port is gone, and nothing waited before.
    """
    data = bytearray()
    while len(data) < most:
        try:
            chunk = os.read(port, most - len(data))
        except BlockingIOError:
            break
        except OSError as error:
            why = f"{device} is gone: {error.strerror}"
        else:
            if chunk:
                data += chunk
                continue
            why = f"{device} has hung up"
        if not data:
            raise LineLost(why)
        break  # what was read counts; the next look says that the line is gone
    return bytes(data)
