"""A log of numbered records: the newest comes first in a listing, and the next number follows it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ununennium.storage.local import LocalStorage
from ununennium.storage.record_log import is_record, next_number, number_of, record_key

numbers = st.integers(1, 10**10 - 1)


@given(st.lists(numbers, min_size=1, max_size=20, unique=True))
def test_keys_sort_by_number_the_newest_first_and_name_it(chosen: list[int]) -> None:
    keys = [record_key("models/roofs/promotions/", number) for number in chosen]
    assert [number_of(key) for key in sorted(keys)] == sorted(chosen, reverse=True)
    assert all(is_record(key) for key in keys)


def test_the_key_of_a_record_is_what_earlier_versions_wrote() -> None:
    assert record_key("models/roofs/promotions/", 1) == "models/roofs/promotions/9999999999.json"


def test_the_next_number_follows_the_newest_record(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    assert next_number(storage, "log/") == 1
    for number in (1, 2, 3):
        storage.create(record_key("log/", next_number(storage, "log/")), b"{}")
        assert next_number(storage, "log/") == number + 1


@pytest.mark.parametrize("key", ["log/9999999999.txt", "log/999999999.json", "log/latest.json", "99999999990.json"])
def test_other_keys_are_no_records(key: str) -> None:
    assert not is_record(key)
