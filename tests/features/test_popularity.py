"""Popularity says the same of equal titles, and the head has most of what is watched."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from features import item_row
from features.popularity import HEAD_SHARE, Popularity, popularity_of

counts_of_titles = st.lists(st.integers(0, 50), min_size=1, max_size=40)


def of(counts: list[int]) -> Popularity:
    values = np.full((len(counts), item_row.N_COLUMNS), 3.0, np.float32)
    values[:, item_row.NAMES.index("item_engaged_total")] = counts
    return popularity_of(values)


@given(counts_of_titles)
def test_rank_and_percentile_are_those_of_their_definition(counts: list[int]) -> None:
    found = of(counts)
    for k, count in enumerate(counts):
        less, more = sum(c < count for c in counts), sum(c > count for c in counts)
        equal = len(counts) - less - more
        assert found.rank[k] == 1 + more
        assert np.isclose(found.percentile[k], (less + equal / 2) / len(counts))


@given(counts_of_titles)
def test_the_head_has_its_share_and_no_title_too_many(counts: list[int]) -> None:
    found = of(counts)
    total = sum(counts)
    head = [count for count, is_tail in zip(counts, found.is_long_tail, strict=True) if not is_tail]
    assert sum(head) >= HEAD_SHARE * total
    if head:
        assert sum(count for count in head if count > min(head)) < HEAD_SHARE * total
    assert all(count > 0 for count in head)


@given(counts_of_titles, st.integers(0, 99))
def test_the_order_of_titles_does_not_matter(counts: list[int], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(counts))
    found, shuffled = of(counts), of([counts[k] for k in order])
    for one, other in zip(found, shuffled, strict=True):
        assert one[order].tolist() == other.tolist()


def test_no_titles_and_no_engagement_are_answered() -> None:
    assert [len(column) for column in of([])] == [0, 0, 0]
    quiet = of([0, 0])
    assert quiet.rank.tolist() == [1, 1]
    assert quiet.percentile.tolist() == [0.5, 0.5]
    assert quiet.is_long_tail.all()
