"""The meter-side program: reads a pulse line, counts lots, signs them, keeps them, publishes them.

One order of work: pulse -> journal (given) -> lot -> record signed and made durable -> outbox ->
broker -> acknowledged by the gateway. Nothing is let go of before the step after it holds it.
"""
