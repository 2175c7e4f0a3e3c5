"""What meter, gateway and auditor agree on. Pure: no clock, no file, no network, no randomness.

The command line in `cryptometer.commands` is the one exception.
"""

__version__ = "0.1.0"
