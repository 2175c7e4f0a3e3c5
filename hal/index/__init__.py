"""Meters that speak: decoders of their protocols. Bytes and times come in, readings and refusals go
out; no port, no clock, no file.
"""
