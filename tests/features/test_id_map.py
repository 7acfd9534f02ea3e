"""The compiled map behaves as a dict does, whatever is put in, found and taken out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from features.id_map import ABSENT, IdMap

CAPACITY = 24  # in 64 places
# Many ids of the same home, homes at the end of the table (probes wrap), and the largest ids.
POOL = sorted(
    {home + 64 * lap for home in (1, 2, 3, 61, 62, 63) for lap in range(6)}
    | {64 * lap for lap in range(1, 5)}
    | {2**64 - 1, 2**64 - 64, 2**63, 2**63 - 1}
)


def array(ids: list[int]) -> NDArray[np.uint64]:
    return np.array(ids, np.uint64)


class IdMapMachine(RuleBasedStateMachine):
    """A map and the dict that it should equal."""

    def __init__(self) -> None:
        super().__init__()
        self.map = IdMap(CAPACITY)
        self.model: dict[int, int] = {}

    @rule(ids=st.lists(st.sampled_from(POOL), unique=True, max_size=12), first=st.integers(0, 999))
    def insert(self, ids: list[int], first: int) -> None:
        new = [id_ for id_ in ids if id_ not in self.model][: CAPACITY - len(self.model)]
        slots = np.arange(first, first + len(new), dtype=np.int64)
        self.map.insert(array(new), slots)
        self.model.update(zip(new, slots.tolist(), strict=True))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        gone = data.draw(st.lists(st.sampled_from(sorted(self.model)), unique=True))
        self.map.remove(array(gone))
        for id_ in gone:
            del self.model[id_]

    @invariant()
    def finds_what_the_dict_has_and_nothing_else(self) -> None:
        found = self.map.find(array([0, *POOL])).tolist()
        assert found == [ABSENT, *(self.model.get(id_, ABSENT) for id_ in POOL)]
        assert len(self.map) == len(self.model)
        assert sorted(self.map.ids().tolist()) == sorted(self.model)


TestIdMap = IdMapMachine.TestCase


@given(st.sets(st.integers(1, 2**64 - 1), max_size=200), st.randoms(use_true_random=False))
def test_any_ids_are_found_until_they_are_removed(ids: set[int], random: object) -> None:
    ordered = sorted(ids)
    gone = set(random.sample(ordered, len(ordered) // 2))  # type: ignore[attr-defined]
    id_map = IdMap(max(len(ordered), 1))
    id_map.insert(array(ordered), np.arange(len(ordered)))
    id_map.remove(array(sorted(gone)))
    expected = [ABSENT if id_ in gone else place for place, id_ in enumerate(ordered)]
    assert id_map.find(array(ordered)).tolist() == expected


def test_a_full_map_refuses_another_id_and_keeps_what_it_has() -> None:
    id_map = IdMap(3)
    id_map.insert(array([1, 2, 3]), np.arange(3))
    with pytest.raises(OverflowError, match="for 3 ids cannot hold 4"):
        id_map.insert(array([4]), np.arange(1))
    assert id_map.find(array([1, 2, 3, 4])).tolist() == [0, 1, 2, ABSENT]


def test_zero_is_no_id() -> None:
    assert IdMap(4).find(array([0])).tolist() == [ABSENT]


def test_nothing_is_found_nothing_is_removed() -> None:
    id_map = IdMap(4)
    id_map.remove(array([]))
    assert id_map.find(array([])).tolist() == []
