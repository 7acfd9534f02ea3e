"""The catalogue as it is shown from, and all that hangs on it, changed between requests."""

from collections.abc import Callable

from serving.catalogue import CatalogueTable
from serving.knowledge import Knowledge
from serving.learned import Learned


class Shelf:
    """What `serving.live_catalogue` changes: the table, and whatever has a row for each slot."""

    def __init__(self, knowledge: Knowledge, make_stages: Callable[[], None]) -> None:
        """`make_stages` makes anew what keeps arrays by slot for a request."""
        self._knowledge = knowledge
        self._make_stages = make_stages

    @property
    def table(self) -> CatalogueTable:
        """The table in use."""
        return self._knowledge.table

    def prepare(self, room: int) -> Callable[[], None]:
        """Makes a bigger table beside the one in use; what is returned puts it in its place.

        For a thread that alone changes the catalogue; the outcome, between requests. O(slots).
        """
        known = self._knowledge
        table = known.table.grown(room)
        values = known.mirror.prepare(table.ids, table.slots)
        learned = None if known.learned is None else Learned.of(known.learned.bundle, table)
        trending = known.trending.over(table)
        if trending.at_ms is not None:
            trending.refresh(values, trending.at_ms)

        content = known.content.over(table)

        def switch() -> None:
            known.mirror.switch()
            known.table, known.trending, known.content = table, trending, content
            self._use(learned)
            self._make_stages()

        return switch

    def settle(self, slots: list[int]) -> Callable[[], None] | None:
        """What is to be done between requests after titles came; made on the caller's thread.

        A title that the bundle knows, and the catalogue did not, gets what was learnt of it.
        """
        known = self._knowledge
        known.content.changed(slots)
        if known.learned is None:
            return None
        if not known.learned.misses(known.table.ids[slots]):
            known.learned.with_cold(known.table, slots)
            return None
        learned = Learned.of(known.learned.bundle, known.table)
        return lambda: self._use(learned)

    def _use(self, learned: Learned | None) -> None:
        """Takes over what was made beside; made anew if another bundle came meanwhile. O(slots)."""
        now = self._knowledge.learned
        if now is None or learned is None or learned.bundle is not now.bundle:
            learned = None if now is None else Learned.of(now.bundle, self._knowledge.table)
        self._knowledge.learned = learned
