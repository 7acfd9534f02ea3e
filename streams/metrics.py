"""What on-call engineers watch of the flows: lag, freshness, and what became of each event."""

from prometheus_client import Counter, Gauge, Histogram

from features import metrics as shared

AGES = shared.AGES
FRESHNESS_BY_STAGE = shared.FRESHNESS_BY_STAGE
EVENTS = Counter("headrace_stream_events", "Events by what became of them", ["effect"])
BAD_RECORDS = Counter(
    "headrace_stream_bad_records",
    "Records sent to dead-letters, by the rule broken",
    ["reason"],
)
MISROUTED = Counter("headrace_stream_misrouted", "Records moved to the partition of their user")
ERASURES = Counter("headrace_stream_erasures", "Erasures of viewers that were read")
CLAMPED = Counter("headrace_stream_clamped", "Events whose own time was replaced or bounded")
LATE = Counter(
    "headrace_stream_late",
    "Events that the log received more than five minutes after they happened",
)
ROWS_WRITTEN = Counter("headrace_stream_rows_written", "Rows written to the store", ["table"])
ROWS_RESIDENT = Gauge("headrace_stream_rows_resident", "Rows held in memory", ["table"])
ROW_LOADS = Gauge("headrace_stream_row_loads", "Rows read from the store so far", ["table"])
ROW_EVICTIONS = Gauge("headrace_stream_row_evictions", "Rows given back so far", ["table"])
ROW_CACHE = Counter(
    "headrace_stream_row_cache",
    "Rows that events asked for; hit: in memory, load: read from Redis",
    ["table", "outcome"],
)
HOT_KEY_SHARE = Gauge(
    "headrace_stream_hot_key_share",
    "Share (0 to 1) of the most frequent key in the last 8,192 events; 0 of fewer than 256",
    ["kind"],
)
LOG_END = Gauge(
    "headrace_stream_log_end_offset", "Offset behind the last record", ["topic", "partition"]
)
APPLIED = Gauge(
    "headrace_stream_applied_offset", "Offset of the next record to apply", ["topic", "partition"]
)
LAG = Gauge(
    "headrace_stream_lag",
    "Records not applied yet, measured each second",
    ["topic", "partition"],
)
LAG_SECONDS = Gauge(
    "headrace_stream_lag_seconds",
    "Age of the oldest record that is not applied, 0 for none; by: since the log received it "
    "(ingestion), or since it happened (event)",
    ["topic", "partition", "by"],
)
COMMIT_FAILURES = Counter("headrace_stream_commit_failures", "Offset commits the broker refused")
ARCHIVED = Counter("headrace_archive_records", "Records in files of the lake", ["table"])
ARCHIVE_WAITING = Gauge("headrace_archive_waiting", "Records in memory, not yet in a file")
BATCH = Histogram(
    "headrace_stream_batch_events",
    "Events in a batch",
    buckets=[1, 3, 10, 30, 100, 300, 1000, 4000],
)
BATCH_SECONDS = Histogram(
    "headrace_stream_batch_seconds",
    "Work on what is written together, in seconds: decoding, and updating rows",
    buckets=[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1],
)
FLUSH_SECONDS = Histogram(
    "headrace_stream_flush_seconds",
    "How long the flow waited until what it had written was acknowledged, in seconds",
    ["target"],
    buckets=[0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 30],
)
FRESHNESS = Histogram(
    "headrace_stream_freshness_seconds",
    "From the log's receipt of an event to its rows in the store, newest event of each batch",
    buckets=[0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30],
)
LEARNT = Counter("headrace_learning_outcomes", "Outcomes learnt")
LEARNING_BAD = Counter("headrace_learning_bad_records", "Records of the log of learning left out")
ROLLBACKS = Counter("headrace_learning_rollbacks", "Orders to roll back, by effect", ["effect"])
LEARNING_DELAY = Histogram(
    "headrace_learning_publish_seconds",
    "From the decision of an outcome to a published version with it, the oldest of each version",
    buckets=[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 3_600],
)
VERSIONS = Counter("headrace_learning_versions", "Versions published")
VERSIONS_REFUSED = Counter("headrace_learning_versions_refused", "Versions not fit to be published")
VERSION_SEQUENCE = Gauge("headrace_learning_version_sequence", "Of the newest published version")
VERSION_AGE = Gauge(
    "headrace_learning_version_age_seconds", "Since the newest version was published; -1: none yet"
)
VERSION_BYTES = Gauge("headrace_learning_version_bytes", "Of the newest published version")
VERSIONS_KEPT = Gauge("headrace_learning_versions_kept", "Versions that can be gone back to")
OUTCOMES = Counter("headrace_attribution_outcomes", "Outcomes written", ["kind"])
OUTCOMES_KNOWN = Counter(
    "headrace_attribution_already_written", "Outcomes that the log had before a crash"
)
SLATES_OPEN = Gauge("headrace_attribution_open_slates", "Slates in memory", ["partition"])
ATTRIBUTION_INPUTS = Counter(
    "headrace_attribution_unused",
    "Records without an outcome: unmatched, too_late, repeated, bad_impressions, ...",
    ["reason"],
)
SETTLED_EARLY = Counter(
    "headrace_attribution_settled_early", "Slates decided before their horizon: too many were open"
)
ANSWER_DELAY = Histogram(
    "headrace_attribution_delay_seconds",
    "From a slate in the log to the first answer to one of its slots",
    buckets=[1, 3, 10, 30, 60, 120, 300, 600, 1_200, 3_600],
)
ARM_MEAN = Gauge(
    "headrace_learning_arm_mean",
    "Mean of the posterior of an arm's reward (0 to 1) in a context; all: in no particular one",
    ["arm", "context"],
)
ARM_SLOTS = Counter(
    "headrace_learning_slots",
    "Slots by the arm that had them and what became of them: clicked, ignored, or corrected later",
    ["arm", "outcome"],
)
DRIFTS = Counter("headrace_learning_drifts", "Changes found", ["what", "segment"])
ONLINE_LOSS = Gauge("headrace_learning_log_loss", "Test-then-train, over the window", ["series"])
ONLINE_AUC = Gauge("headrace_learning_roc_auc", "Test-then-train, over the window", ["series"])
ONLINE_CALIBRATION = Gauge(
    "headrace_learning_calibration_error", "Test-then-train, over the window", ["series"]
)
