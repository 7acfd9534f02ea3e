"""The table of titles, from the log."""

import numpy as np
import pytest

from features.certification import UNKNOWN_AGE
from features.codec import encode_catalog_item
from features.events import EVENT, CatalogItem
from features.ids import id_hash
from features.log import LogConfig, LogError, LogWriter
from features.titles import FACTS, TitleFacts, short_hash
from features.vocabulary import genre_mask
from serving.catalogue import EVERYWHERE, FOR_GOOD, Catalogue, CatalogueTable, TableError
from tests.apache_kafka import ApacheKafka
from tests.serving.harness import create_topic

HEAT = CatalogItem("tt1", "Heat", 1995, ("Crime", "Drama"), available_from_ms=5)
RONIN = CatalogItem("tt2", "Ronin", 1998, ("Action",))


def test_table_knows_each_title_by_slot() -> None:
    table = CatalogueTable.of([HEAT, RONIN])
    slot = table.slot_of("tt1")
    assert slot is not None
    assert len(table) == 2
    assert table.ids[slot] == id_hash("tt1")
    assert (table.item_ids[slot], table.titles[slot], table.years[slot]) == ("tt1", "Heat", 1995)
    assert table.genres[slot] == genre_mask(("Crime", "Drama"))
    assert table.available_from_ms[slot] == 5
    assert table.slot_of("tt3") is None
    np.testing.assert_array_equal(
        table.slots_of(np.array([id_hash("tt1"), 99], np.uint64)), [slot, -1]
    )


def test_facts_are_those_that_the_flow_puts_into_events() -> None:
    full = CatalogItem(
        "tt3", "Pilot", 2011, ("Drama",), language="en", cast=("A", "B"), series_id="s", season=1,
        episode=2, runtime_min=50,
    )  # fmt: skip
    table = CatalogueTable.of([HEAT, full])
    events = np.zeros(2, EVENT)
    events["item"] = table.ids
    TitleFacts([full, HEAT]).enrich(events)
    for name in FACTS.names or ():
        np.testing.assert_array_equal(table.facts[name], events[name])
    np.testing.assert_array_equal(table.facts["year"], table.years)
    np.testing.assert_array_equal(table.facts["genres"], table.genres)


def test_table_does_not_depend_on_the_order_of_its_titles() -> None:
    one, other = CatalogueTable.of([HEAT, RONIN]), CatalogueTable.of([RONIN, HEAT])
    assert one.item_ids == other.item_ids
    assert (np.diff(one.ids.astype(object)) > 0).all()


def test_what_decides_where_and_when_and_for_whom_a_title_is_shown_is_in_the_table() -> None:
    plain = CatalogItem("tt1", "Heat")
    bound = CatalogItem(
        "tt2", "Ronin", certification="FSK 16", available_from_ms=3, available_until_ms=9,
        regions=("de", "AT"), category="Film", language="en",
    )  # fmt: skip
    again = CatalogItem("tt3", regions=("AT", "DE"))
    table = CatalogueTable.of([plain, bound, again])
    at = {item_id: slot for slot, item_id in enumerate(table.item_ids)}
    one, two, three = at["tt1"], at["tt2"], at["tt3"]
    assert (table.available_from_ms[one], table.available_until_ms[one]) == (0, FOR_GOOD)
    assert (table.available_from_ms[two], table.available_until_ms[two]) == (3, 9)
    assert (table.ages[one], table.ages[two]) == (UNKNOWN_AGE, 16)
    assert (table.categories[one], table.categories[two]) == (0, short_hash("film"))
    assert (table.languages[one], table.languages[two]) == (0, short_hash("en"))
    assert table.region_sets[one] == EVERYWHERE
    assert table.region_sets[two] == table.region_sets[three]
    assert table.regions_of_set[table.region_sets[two]] == {"DE", "AT"}


def test_titles_come_change_and_go_in_slots_of_their_own() -> None:
    table = CatalogueTable.of([HEAT, RONIN], room=2)
    heat = table.slot_of("tt1")
    new = table.put(CatalogItem("tt9", "New", 2024, ("Drama",)))
    assert (new, table.slot_of("tt9"), table.ids[new]) == (2, 2, id_hash("tt9"))
    assert table.put(CatalogItem("tt9", "Newer", 2025, ("Comedy",))) == new
    assert (table.titles[new], table.years[new]) == ("Newer", 2025)
    assert table.genres[new] == genre_mask(("Comedy",))
    assert table.remove("tt1") == heat
    assert table.slot_of("tt1") is None
    assert table.available_from_ms[heat] == FOR_GOOD
    assert table.slots_of(np.array([id_hash("tt1")], np.uint64)) == heat  # its past stays known
    assert (len(table), table.n_used, table.n_titles) == (4, 3, 2)
    assert table.remove("tt1") is None
    assert table.put(HEAT) == heat
    assert (table.n_titles, table.available_from_ms[heat]) == (3, 5)


def test_a_table_says_when_it_is_full() -> None:
    table = CatalogueTable.of([HEAT], room=1)
    table.put(RONIN)
    assert table.room == 0
    with pytest.raises(TableError, match="no room for 'tt3'"):
        table.put(CatalogItem("tt3"))
    table.put(CatalogItem("tt1", "Heat again"))


def test_empty_catalogue_is_a_table() -> None:
    table = CatalogueTable.of([])
    assert len(table) == 0
    assert table.slot_of("tt1") is None


def test_absurd_year_does_not_break_the_table() -> None:
    assert CatalogueTable.of([CatalogItem("tt1", year=4_000_000_000)]).years[0] == 9_999


def test_last_word_on_a_title_counts(any_broker: str, topic_prefix: str) -> None:
    config, topic = LogConfig(any_broker), f"{topic_prefix}catalog"
    create_topic(config, topic)
    writer = LogWriter(config)
    gone, back = CatalogItem("tt3", "Gone"), CatalogItem("tt4", "Back")
    for item in (CatalogItem("tt1", "heat"), RONIN, gone, back, HEAT):
        writer.append(topic, item.item_id.encode(), encode_catalog_item(item))
    writer.append(topic, b"tt2", encode_catalog_item(CatalogItem("tt2", removed=True)))
    writer.append(topic, b"tt3", None)
    writer.append(topic, b"tt4", None)
    writer.append(topic, b"tt4", encode_catalog_item(back))
    writer.append(topic, b"tt5", b"\xff not a title")
    writer.append(topic, b"\xff", None)
    writer.flush()
    catalogue = Catalogue(config, topic)
    table = catalogue.read()
    assert sorted(table.titles) == ["Back", "Heat"]
    assert catalogue.broken == 1


def test_topic_without_titles_is_an_empty_table(any_broker: str, topic_prefix: str) -> None:
    config, topic = LogConfig(any_broker), f"{topic_prefix}catalog"
    create_topic(config, topic)
    assert len(Catalogue(config, topic).read()) == 0


def test_missing_topic_is_an_error_that_says_so(
    apache_kafka: ApacheKafka, topic_prefix: str
) -> None:
    with pytest.raises(LogError, match="does not exist"):
        Catalogue(LogConfig(apache_kafka.bootstrap), f"{topic_prefix}catalog").read()
