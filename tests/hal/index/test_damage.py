"""The damage that the tests of decoders do is damage, and of the share that was asked for."""

from random import Random

from tests.hal.index.damage import damaged


def test_a_damaged_message_differs_and_the_share_is_kept() -> None:
    messages = [bytes(range(32, 127)) for _ in range(2_000)]
    arrived = list(damaged(messages, 0.3, Random(1)))
    assert all(
        (came == sent) == whole for sent, (came, whole) in zip(messages, arrived, strict=True)
    )
    assert 0.25 < sum(not whole for _, whole in arrived) / len(arrived) < 0.35
