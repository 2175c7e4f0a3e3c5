"""`cryptometer demo`: a whole community on one machine, each part in a process of its own."""

from cryptometer.commands.demo.command import add_commands

__all__ = ["add_commands"]
