"""What readings that overlap leave behind."""

from __future__ import annotations

import threading

from cerberus_auth.caching.secrets import SecretCache
from cerberus_auth.deadline import Deadline


def test_a_slow_reading_does_not_take_the_place_of_a_later_one() -> None:
    cache, begun, may_end = SecretCache(), threading.Event(), threading.Event()

    def slowly(deadline: Deadline) -> str:
        begun.set()
        assert may_end.wait(5)
        return "old"

    thread = threading.Thread(target=lambda: cache.get("name", slowly, Deadline(5), max_age=60))
    thread.start()
    assert begun.wait(5)
    assert cache.get("name", lambda deadline: "new", Deadline(5), max_age=60, fresh=True) == "new"
    may_end.set()
    thread.join()
    assert cache.get("name", slowly, Deadline(5), max_age=60) == "new"


def test_no_more_is_kept_than_there_is_room_for() -> None:
    cache, read = SecretCache(), list[str]()

    def value(name: str) -> str:
        def reading(deadline: Deadline) -> str:
            read.append(name)
            return name

        return str(cache.get(name, reading, Deadline(5), max_age=60))

    for number in range(300):
        assert value(str(number)) == str(number)
    value("299")
    assert len(read) == 300
    value("0")
    assert len(read) == 301
