from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from elfpatch.flow.lattice import (
    CONTEXT,
    ELSEWHERE,
    UNDEFINED,
    UNKNOWN,
    UNREACHED,
    Address,
    Constant,
    MapHandle,
    Value,
    is_elsewhere,
    join,
    join_states,
)

values = st.one_of(
    st.sampled_from([UNDEFINED, UNKNOWN, CONTEXT, ELSEWHERE]),
    st.integers(0, 3).map(Constant),
    st.builds(Address, st.integers(0, 2), st.integers(-2, 2)),
    st.integers(0, 3).map(MapHandle),
)


@given(values)
def test_join_is_idempotent(one: Value) -> None:
    assert join(one, one) == one


@given(values, values)
def test_join_is_commutative(one: Value, other: Value) -> None:
    assert join(one, other) == join(other, one)


@given(values, values, values)
def test_join_is_associative(a: Value, b: Value, c: Value) -> None:
    assert join(a, join(b, c)) == join(join(a, b), c)


@given(values)
def test_undefined_is_the_top_and_unknown_the_bottom(one: Value) -> None:
    assert join(one, UNDEFINED) == one
    assert join(one, UNKNOWN) is UNKNOWN


@given(values, values)
def test_what_differs_is_elsewhere_at_best(one: Value, other: Value) -> None:
    if UNDEFINED not in (one, other) and one != other:
        both = is_elsewhere(one) and is_elsewhere(other)
        assert join(one, other) is (ELSEWHERE if both else UNKNOWN)


def test_what_is_elsewhere() -> None:
    assert all(map(is_elsewhere, (Constant(0), Address(1, 4), MapHandle(1), ELSEWHERE)))
    assert not any(map(is_elsewhere, (CONTEXT, UNKNOWN, UNDEFINED)))


@given(values, values, values, values)
def test_a_chain_of_joins_moves_three_times_at_most(a: Value, b: Value, c: Value, d: Value) -> None:
    seen: list[Value] = [UNDEFINED]
    for value in (a, b, c, d):
        seen.append(join(seen[-1], value))
    assert sum(before != after for before, after in pairwise(seen)) <= 3


def test_kinds_of_values_with_like_contents_differ() -> None:
    assert join(Constant(1), MapHandle(1)) is ELSEWHERE
    assert join(Address(1, 0), Address(1, 4)) is ELSEWHERE
    assert join(Address(0, 4), Address(1, 4)) is ELSEWHERE


def test_states_join_by_register() -> None:
    one: tuple[Value, ...] = (Constant(1), Constant(2), UNDEFINED)
    other: tuple[Value, ...] = (Constant(1), Constant(3), UNKNOWN)
    assert join_states(one, other) == (Constant(1), ELSEWHERE, UNKNOWN)
    assert join_states(UNREACHED, other) is other
    assert join_states(one, (Constant(1), Constant(2), UNDEFINED)) is one


@given(st.tuples(values, values), st.tuples(values, values))
def test_a_state_that_does_not_move_is_the_same_object(one: tuple[Value, ...], other: tuple[Value, ...]) -> None:
    joined = join_states(one, other)
    assert (joined is one) == (joined == one)
    assert join_states(joined, other) is joined
