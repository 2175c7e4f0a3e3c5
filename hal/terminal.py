"""What it means, in plain words, that a serial port cannot be opened."""

import errno
import termios


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
        return "another program reads it"
    if number in (errno.ENOTTY, errno.EISDIR, errno.EINVAL, errno.EIO):
        return "it is no serial line"
    return str(error)
