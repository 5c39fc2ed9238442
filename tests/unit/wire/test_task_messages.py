"""The numbers of messages on the task path: two that are alike would be taken for each other."""

from __future__ import annotations

from shoal.wire import tasks


def test_no_two_messages_have_one_number() -> None:
    # Below 10 stand the formats of values as well, which never begin a message; then come sizes.
    constants = {name: value for name, value in vars(tasks).items() if name.isupper() and isinstance(value, int)}
    numbers = {name: value for name, value in constants.items() if 10 <= value < 256}
    assert len(numbers) > 50
    assert len(set(numbers.values())) == len(numbers), sorted(numbers.items(), key=lambda one: one[1])
