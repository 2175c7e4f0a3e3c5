"""The edge of the machine: pulse lines, clocks, keys, durable files, the broker.

`hal.ports` says what each offers; programs know only that. Drivers are chosen by name, from
configuration, in `hal.drivers` and nowhere else.
"""
