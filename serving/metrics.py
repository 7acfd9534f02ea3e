"""What on-call engineers watch of the serving tier: answers, their age, and what was missing."""

from prometheus_client import Counter, Gauge, Histogram

from features import metrics as shared
from features.compiled import n_compiled
from serving.histograms import Histograms

AGES = shared.AGES
REQUESTS = Counter("headrace_serving_requests", "Calls by method and status", ["method", "code"])
LATENCY = Histograms(
    "headrace_serving_latency_seconds",
    "From the first byte of a call read to its answer handed over",
    "method",
    buckets=[
        *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015),
        *(0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
    ],
)
STAGE = Histograms(
    "headrace_serving_stage_seconds",
    "Of Recommend, by what was done; record: after the answer, for the log",
    "stage",
    buckets=[
        *(0.00002, 0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015),
        *(0.002, 0.003, 0.005, 0.01, 0.025, 0.1),
    ],
)
STAGE_NAMES = (
    "read", "retrieve", "filter", "narrow", "hydrate", "score", "select", "build", "record"
)  # fmt: skip
STAGES = {name: STAGE.labels(name) for name in STAGE_NAMES}  # looked up once
DEGRADED = Counter("headrace_serving_degraded", "Slates without a dependency", ["reason"])
STATE_AGE = Histogram(
    "headrace_serving_state_age_seconds",
    "Age of the newest event in the viewer's state when a slate was answered",
    buckets=[0.01, 0.05, 0.1, 0.5, 1, 5, 30, 300, 3_600, 86_400, 604_800],
)
WAITS = Counter(
    "headrace_serving_waits", "Reads that had to wait for an event, by how they ended", ["outcome"]
)
CACHE_LOOKUP = Counter(
    "headrace_serving_cache_lookups",
    "Slates looked for in the cache; hit, anonymous: given again; moved: the viewer has done "
    "something since; miss: none or too old; never: not to be cached",
    ["outcome"],
)
CACHE_OUTCOMES = ("hit", "anonymous", "moved", "miss", "never")
CACHE_LOOKUPS = {name: CACHE_LOOKUP.labels(name) for name in CACHE_OUTCOMES}
CACHE_SLATES = Gauge("headrace_serving_cache_slates", "Slates in the cache")
CACHE_BYTES = Gauge("headrace_serving_cache_bytes", "Bytes that they take")
CACHE_EVICTION = Counter(
    "headrace_serving_cache_evictions",
    "Slates given up; age: too old, moved: the viewer did something, room: for others",
    ["reason"],
)
CACHE_EVICTIONS = {name: CACHE_EVICTION.labels(name) for name in ("age", "moved", "room")}
COMPILED = Gauge(
    "headrace_serving_compiled_functions",
    "Compiled or loaded so far; once the server is ready it stays as it is, or a call has waited",
)
COMPILED.set_function(n_compiled)
REDIS_FAILURES = Counter("headrace_serving_redis_failures", "Reads of a viewer that failed")
MIRROR_AGE = Gauge(
    "headrace_serving_mirror_age_seconds", "Since item features last moved; -1: never"
)
MIRROR_ITEMS = Counter("headrace_serving_mirror_items", "Item rows taken over from updates")
MIRROR_UNKNOWN = Counter("headrace_serving_mirror_unknown", "Updated items that are not known here")
MIRROR_BROKEN = Counter("headrace_serving_mirror_broken", "Item updates that could not be read")
MIRROR_RELOADS = Counter("headrace_serving_mirror_reloads", "Times the mirror began again")
CHARTS_AGE = Gauge("headrace_serving_charts_age_seconds", "Since the charts were last made")
CATALOGUE_TITLES = Gauge("headrace_serving_catalogue_titles", "Titles in the catalogue now")
CATALOGUE_AGE = Gauge(
    "headrace_serving_catalogue_age_seconds", "Since the catalogue last changed; -1: not yet"
)
CATALOGUE_CHANGES = Counter(
    "headrace_serving_catalogue_changes", "Titles added, changed or removed while serving"
)
CATALOGUE_BROKEN = Counter(
    "headrace_serving_catalogue_broken", "Catalogue records that were skipped: no titles"
)
CATALOGUE_DELAY = Histogram(
    "headrace_serving_catalogue_delay_seconds",
    "From a catalogue record's append to the log to its being in use",
    buckets=[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 60],
)
MODEL_SEQUENCE = Gauge(
    "headrace_serving_model_sequence", "Of the learned state in use; 0: none yet"
)
MODEL_AGE = Gauge(
    "headrace_serving_model_age_seconds", "Since the learned state in use was made; -1: none yet"
)
MODEL_SWAPS = Counter("headrace_serving_model_swaps", "Versions of learned state taken into use")
MODEL_REFUSED = Counter(
    "headrace_serving_model_refused", "Versions of learned state not taken into use", ["reason"]
)
MODEL_DELAY = Histogram(
    "headrace_serving_model_delay_seconds",
    "From a version made to its being in use",
    buckets=[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 60],
)
MODEL_FOLLOWER = Gauge(
    "headrace_serving_model_follower_up", "1 while versions are followed and the log answers"
)
RULES = Gauge("headrace_serving_rules", "Rules of editors that this server goes by, or will")
RULES_BROKEN = Counter("headrace_serving_rules_broken", "Records of rules that could not be used")
TRACK_FAILURES = Counter("headrace_track_failures", "Events not acknowledged", ["reason"])
TRACK_IN_FLIGHT = Gauge("headrace_track_in_flight", "Events on their way to the log")
TRACK_LATENCY = Histogram(
    "headrace_track_seconds",
    "From an event handed to the log to its acknowledgement",
    buckets=[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2],
)
IMPRESSIONS = Counter("headrace_impressions_recorded", "Decisions that the log has")
IMPRESSIONS_DROPPED = Counter(
    "headrace_impressions_dropped", "Decisions that the log did not get", ["reason"]
)
REFUSED = Counter(
    "headrace_serving_refused",
    "Calls refused before they were looked at: "
    "unauthenticated, scope, quota, concurrency or overload",
    ["reason"],
)
SHED = Counter(
    "headrace_serving_shed",
    "Calls met with less than the whole: 1 fewer candidates, 2 charts, 3 refused",
    ["method", "level"],
)
LOAD_LEVEL = Gauge(
    "headrace_serving_load_level", "0 all is well, 1 fewer candidates, 2 charts alone, 3 refusals"
)
QUEUE_DELAY = Histogram(
    "headrace_serving_queue_delay_seconds",
    "From a call sent to its being begun, measured by calls of the server to itself",
    buckets=[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5],
)
RELOADS = Counter(
    "headrace_serving_bundle_reloads", "Bundles taken into use or refused", ["outcome"]
)
RELOAD_SECONDS = Histogram(
    "headrace_serving_bundle_reload_seconds",
    "From a changed pointer seen to the bundle in use",
    buckets=[0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120],
)
SLATE_SLOTS = Counter("headrace_slate_slots", "Served slots by the arm that had them", ["arm"])
SLATE_DIVERSITY = Histogram(
    "headrace_slate_diversity",
    "Mean of 1 - cosine of content vectors over the pairs of a slate",
    buckets=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
)
SLATE_NOVELTY = Histogram(
    "headrace_slate_novelty_bits",
    "Mean of -log2 of the titles' shares in all engagement, over a slate, in bits",
    buckets=[4, 6, 8, 9, 10, 11, 12, 13, 14, 16, 18, 20],
)
SLATE_LONG_TAIL = Histogram(
    "headrace_slate_long_tail_share",
    "Share (0 to 1) of a slate outside the titles that have 80 % of all engagement",
    buckets=[0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
)
SLATE_COVERAGE = Gauge(
    "headrace_slate_coverage_titles", "Different titles that this process served in the last hour"
)
SLATE_GINI = Gauge(
    "headrace_slate_gini",
    "Inequality (0 to 1) of how often these were served; 0: all alike",
)
BUNDLE_INFO = Gauge(
    "headrace_serving_bundle_info", "1 for the bundle that slates come from", ["version"]
)
BUNDLE_AGE = Gauge(
    "headrace_serving_bundle_age_seconds", "Since the bundle in use was made; -1: there is none"
)
SLATE_GENRE_ENTROPY = Histogram(
    "headrace_slate_genre_entropy_bits",
    "Entropy of the genres of a slate",
    buckets=[0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4],
)
