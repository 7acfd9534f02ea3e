"""Models that are learnt beside the served one, to see whether they would do better.

River's factorization machine (viewer x title x context) and its Hoeffding tree each cost eight
times what the served model does, so they learn a sample, one outcome in 256, chosen by a hash of
request and slot: the same outcomes at every replay, and a correction goes where its outcome went.
"""

from typing import Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from river import facto, optim, tree

from features.compiled import Rows
from features.decision_context import N_CONTEXTS, n_at
from features.model_snapshot import Arrays
from features.vocabulary import N_ARMS
from online_models.state import Restorable, checked

SAMPLED_BITS: Final = 8  # one outcome in 256
N_FACTORS: Final = 4
N_USERS: Final = 256  # buckets of a hash
N_ITEMS: Final = 512
CONTEXT_DEPTH: Final = 3  # stage, session, saturation
_CONTEXTS = n_at(CONTEXT_DEPTH) + 1  # the last one: not known
_ARMS = N_ARMS + 1
N_KEYS: Final = N_USERS + N_ITEMS + _CONTEXTS + _ARMS

TREE_ROWS: Final = 2_048  # then a tree is grown anew
TREE_KEPT: Final = 512  # from so many of its last rows

Floats = NDArray[np.float64]


class Challenger(Restorable, Protocol):
    """Learns single outcomes; its probability for each is told before."""

    def probability(self, outcome: Rows, row: Floats) -> float:
        """Of a click, for an OUTCOME record and its `(p,)` columns."""

    def learn_one(self, outcome: Rows, row: Floats) -> None:
        """Takes in its label."""


def is_sampled(outcomes: Rows) -> NDArray[np.bool_]:
    """`(n,)`: which outcomes challengers see."""
    slots = outcomes["slot"].astype(np.uint64)
    mixed = (outcomes["request"] ^ (slots << np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    return np.asarray(mixed >> np.uint64(64 - SAMPLED_BITS) == 0)


class FactorizationChallenger:
    """Factors of the viewer, the title, the context and the arm, each a bucket of a hash.

    River draws factors when it first meets a key. Here all are drawn at the start, so their order
    is no part of the state, and asking for a probability adds nothing.
    """

    def __init__(self, seed: int = 1, rate: float = 0.05) -> None:
        self._machine = facto.FMClassifier(
            n_factors=N_FACTORS, weight_optimizer=optim.SGD(rate), latent_optimizer=optim.SGD(rate)
        )
        rng = np.random.default_rng(seed)
        self._load(np.zeros(N_KEYS), rng.normal(0.0, 0.1, (N_KEYS, N_FACTORS)), 0.0)

    def _load(self, weights: Floats, factors: Floats, intercept: float) -> None:
        self._machine.weights.update(enumerate(weights.tolist()))
        self._machine.latents.update(enumerate(factors.copy()))
        self._machine.intercept = intercept

    @staticmethod
    def _keys(outcome: Rows) -> dict[int, float]:
        code, arm = int(outcome["context"]), int(outcome["arm"])
        known = code < N_CONTEXTS
        context = code // (N_CONTEXTS // n_at(CONTEXT_DEPTH)) if known else _CONTEXTS - 1
        return dict.fromkeys(
            (
                int(outcome["user"]) % N_USERS,
                N_USERS + int(outcome["item"]) % N_ITEMS,
                N_USERS + N_ITEMS + context,
                N_USERS + N_ITEMS + _CONTEXTS + min(arm, _ARMS - 1),
            ),
            1.0,
        )

    def probability(self, outcome: Rows, row: Floats) -> float:  # noqa: ARG002 (of the protocol)
        """Of a click; the columns do not count."""
        return float(self._machine.predict_proba_one(self._keys(outcome))[True])

    def learn_one(self, outcome: Rows, row: Floats) -> None:  # noqa: ARG002 (of the protocol)
        """One step of gradient descent."""
        self._machine.learn_one(self._keys(outcome), bool(outcome["label"]))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """`weights` `(N_KEYS + 1,)`, the intercept last; `factors` `(N_KEYS, N_FACTORS)`."""
        machine = self._machine
        weights = [*(machine.weights[k] for k in range(N_KEYS)), machine.intercept]
        factors = np.array([machine.latents[k] for k in range(N_KEYS)])
        return {"weights": np.array(weights, np.float64), "factors": factors}

    def restore(self, arrays: Arrays) -> None:
        """The state of `arrays()`, bit for bit. Raises SnapshotError."""
        weights = cast(Floats, checked(arrays, "weights", (N_KEYS + 1,)))
        factors = cast(Floats, checked(arrays, "factors", (N_KEYS, N_FACTORS)))
        self._load(weights[:-1], factors, float(weights[-1]))


class TreeChallenger:
    """A Hoeffding tree over the same columns as the served model.

    A tree of River's cannot be told in plain arrays, the rows that it grew from can: they are kept,
    rounded to 16 bits before they are learnt. After 2,048 rows a new tree grows from the last 512,
    so what is kept is bounded, and a tree forgets. Restoring grows it again, in a third of a second
    at most.
    """

    def __init__(self, n_columns: int) -> None:
        self._rows = np.zeros((TREE_ROWS, n_columns), np.float16)
        self._labels = np.zeros(TREE_ROWS, np.bool_)
        self._n = 0
        self._tree = self._seed()

    @staticmethod
    def _seed() -> tree.HoeffdingTreeClassifier:
        return tree.HoeffdingTreeClassifier(
            grace_period=50, delta=0.05, tau=0.1, leaf_prediction="mc"
        )

    @staticmethod
    def _named(row: NDArray[np.float16]) -> dict[int, float]:
        return dict(enumerate(row.tolist()))

    @staticmethod
    def _rounded(row: Floats) -> NDArray[np.float16]:
        finite = np.nan_to_num(row, nan=0.0, posinf=6e4, neginf=-6e4)
        return np.clip(finite, -6e4, 6e4).astype(np.float16)

    def probability(self, outcome: Rows, row: Floats) -> float:  # noqa: ARG002 (of the protocol)
        """Of a click; 0.5 before the first outcome."""
        votes = self._tree.predict_proba_one(self._named(self._rounded(row)))
        if not votes:
            return 0.5
        return float(votes.get(True, 0.0))

    def learn_one(self, outcome: Rows, row: Floats) -> None:
        """Takes in a row; when the table is full, grows a new tree first."""
        if self._n == TREE_ROWS:
            self._regrow()
        self._rows[self._n], self._labels[self._n] = self._rounded(row), outcome["label"]
        self._n += 1
        self._grow(self._n - 1)

    def _grow(self, k: int) -> None:
        self._tree.learn_one(self._named(self._rows[k]), bool(self._labels[k]))

    def _regrow(self) -> None:
        for table in (self._rows, self._labels):
            table[:TREE_KEPT] = table[-TREE_KEPT:].copy()
        self._n = TREE_KEPT
        self._grow_all()

    def _grow_all(self) -> None:
        self._tree = self._seed()
        for k in range(self._n):
            self._grow(k)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """`rows` `(n, p) float16` and their `labels`, of the tree that stands."""
        return {"rows": self._rows[: self._n].copy(), "labels": self._labels[: self._n].copy()}

    def restore(self, arrays: Arrays) -> None:
        """The state of `arrays()`, bit for bit. Raises SnapshotError."""
        rows = checked(arrays, "rows", (None, self._rows.shape[1]), np.float16)[-TREE_ROWS:]
        labels = checked(arrays, "labels", (len(rows),), np.bool_)
        self._n = len(rows)
        self._rows[: self._n], self._labels[: self._n] = rows, labels
        self._grow_all()
