"""Near names."""

import itertools
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfpatch.patch.names import did_you_mean, distance, nearest


def reference(one: str, other: str) -> int:
    """Optimal string alignment distance by its recursive definition."""

    @cache
    def d(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        best = min(d(i - 1, j) + 1, d(i, j - 1) + 1, d(i - 1, j - 1) + (one[i - 1] != other[j - 1]))
        if i > 1 and j > 1 and one[i - 1] == other[j - 2] and one[i - 2] == other[j - 1]:
            best = min(best, d(i - 2, j - 2) + 1)
        return best

    return d(len(one), len(other))


@given(st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_distance_is_the_one_of_the_definition(one, other):
    assert distance(one, other) == reference(one, other)


def test_distance_of_all_short_words():
    words = ["".join(word) for size in range(4) for word in itertools.product("ab", repeat=size)]
    assert all(distance(a, b) == reference(a, b) for a in words for b in words)


@pytest.mark.parametrize("name, best", [("fooo", "foo"), ("PORT", "port"), ("ip", "ip4"), ("portt", "port")])
def test_nearest(name, best):
    assert nearest(name, ["foo", "port", "ip4", "unrelated"])[0] == best


def test_the_hint_lists_what_there_is_when_nothing_is_near():
    assert did_you_mean("zzz", ["a", "b"], "names") == "names: a, b"
    assert did_you_mean("zzz", [], "names") == "there are no names"
    assert did_you_mean("zzz", [f"v{n}" for n in range(20)], "names").endswith("and 8 more")
