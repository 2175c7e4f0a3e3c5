"""The community-side program: ingest, one block per market step, the ledger, proofs.

`gateway.node` is the core: messages and time in, ordered effects out. What it acknowledges is
stored first; what it publishes is committed first. Shells around it own sockets, files and clocks.
"""
