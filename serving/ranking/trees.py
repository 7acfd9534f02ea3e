"""Many trees over many rows, without a branch for any of them: QuickScorer, compiled.

Of each tree every node is looked at: one that a row fails takes the leaves of its left side out of
a mask, and the first leaf left is the row's own (C. Lucchese et al.: QuickScorer, SIGIR 2015). The
processor never guesses wrong, and the loop over rows is inside, tree by tree. Measured with 60
trees of 15 leaves on the candidates of 500 requests, 526 each: p50 0.49 ms against LightGBM's own
0.85 ms, with the very same results; on the same rows again and again 0.23 against 0.50 ms.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled, vectorised

MAX_LEAVES: Final = 32  # bits of a mask
ALL: Final = np.uint32(0xFFFFFFFF)

_DE_BRUIJN = np.uint64(0x077CB531)  # each five bits in a row are another number
_BIT_OF = np.zeros(32, np.int64)
for _bit in range(32):
    _BIT_OF[((1 << _bit) * int(_DE_BRUIJN) & int(ALL)) >> 27] = _bit


class TreeError(Exception):
    """A tree that this form cannot hold; the message says why."""


@dataclass(frozen=True, slots=True)
class Trees:
    """Trees as flat arrays; those of tree k lie from `starts[k]` to before `starts[k + 1]`."""

    columns: NDArray[np.int32]  # (n_nodes,) which a node looks at
    thresholds: NDArray[np.float32]  # (n_nodes,): a row goes left up to and with it
    masks: NDArray[np.uint32]  # (n_nodes,) leaves that remain of those a row can reach going right
    starts: NDArray[np.int64]  # (n_trees + 1,)
    leaves: NDArray[np.float64]  # (n_trees, MAX_LEAVES) values, left to right

    @classmethod
    def of(cls, roots: list[dict[str, Any]], fixed: Mapping[int, float] | None = None) -> "Trees":
        """From trees as LightGBM's `dump_model` gives them. Raises TreeError.

        A column in `fixed` has that value in every row: its nodes are decided here, and rows need
        not have it.
        """
        nodes: list[tuple[int, float, int]] = []
        starts = [0]
        leaves = np.zeros((len(roots), MAX_LEAVES), np.float64)
        for k, root in enumerate(roots):
            values: list[float] = []
            _flatten(root, values, nodes, fixed or {})
            leaves[k, : len(values)] = values
            starts.append(len(nodes))
        return cls(
            np.array([column for column, _, _ in nodes], np.int32),
            np.array([_not_above(threshold) for _, threshold, _ in nodes], np.float32),
            np.array([mask for _, _, mask in nodes], np.uint32),
            np.array(starts, np.int64),
            leaves,
        )

    def score(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """`(n,) float64` sums over all trees of `(n, n_columns) float32`, without NaN."""
        return self.score_columns(np.ascontiguousarray(rows.T))

    def score_columns(self, by_column: NDArray[np.float32]) -> NDArray[np.float64]:
        """The same of `(n_columns, n) float32`, contiguous."""
        out = np.zeros(by_column.shape[1], np.float64)
        _score(by_column, self.columns, self.thresholds, self.masks, self.starts, self.leaves, out)
        return out


def _flatten(
    node: dict[str, Any],
    values: list[float],
    nodes: list[tuple[int, float, int]],
    fixed: Mapping[int, float],
) -> None:
    """Appends the leaves of a subtree from left to right, and its inner nodes."""
    if "leaf_value" in node:
        if len(values) == MAX_LEAVES:
            raise TreeError(f"a tree must have at most {MAX_LEAVES} leaves")
        values.append(float(node["leaf_value"]))
        return
    if node["decision_type"] != "<=":
        raise TreeError(f"a node must compare by <=; got {node['decision_type']}")
    column = int(node["split_feature"])
    if column in fixed:
        side = "left_child" if fixed[column] <= float(node["threshold"]) else "right_child"
        _flatten(node[side], values, nodes, fixed)
        return
    first = len(values)
    _flatten(node["left_child"], values, nodes, fixed)
    left = (1 << len(values)) - (1 << first)
    nodes.append((column, float(node["threshold"]), int(ALL) & ~left))
    _flatten(node["right_child"], values, nodes, fixed)


def _not_above(threshold: float) -> np.float32:
    """The largest float32 that is not above: `x <= threshold` stays true for the same float32."""
    near = np.float32(threshold)
    return np.nextafter(near, np.float32(-np.inf)) if float(near) > threshold else near


@compiled
def _lowest_bit(mask: Any) -> int:
    """Number of the lowest bit of a mask that has one: no branch, one look into a table.

    C. E. Leiserson, H. Prokop, K. H. Randall: Using de Bruijn Sequences to Index a 1, 1998.
    """
    lowest = np.uint32(mask & (~mask + np.uint32(1)))
    turned = (np.uint64(lowest) * _DE_BRUIJN) & np.uint64(ALL)
    place: int = _BIT_OF[turned >> np.uint64(27)]
    return place


@vectorised(
    "void(float32[:, ::1], int32[::1], float32[::1], uint32[::1], int64[::1], float64[:, ::1],"
    " float64[::1])"
)
def _score(
    by_column: NDArray[np.float32],
    columns: NDArray[np.int32],
    thresholds: NDArray[np.float32],
    masks: NDArray[np.uint32],
    starts: NDArray[np.int64],
    leaves: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    n_rows = by_column.shape[1]
    left = np.zeros(n_rows, np.uint32)
    for tree in range(len(leaves)):
        left[:] = ALL
        for node in range(starts[tree], starts[tree + 1]):
            column, threshold, mask = by_column[columns[node]], thresholds[node], masks[node]
            for i in range(n_rows):
                passed = np.uint32(column[i] <= threshold)
                left[i] &= mask | np.uint32(passed * ALL)
        for i in range(n_rows):
            out[i] += leaves[tree, _lowest_bit(left[i])]
