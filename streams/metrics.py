"""What on-call engineers watch of the flows: lag, freshness, and what became of each event."""

from prometheus_client import Counter, Gauge, Histogram

EVENTS = Counter("headrace_stream_events", "Events by what became of them", ["effect"])
BAD_RECORDS = Counter("headrace_stream_bad_records", "Records sent to dead-letters")
MISROUTED = Counter("headrace_stream_misrouted", "Records moved to the partition of their user")
ERASURES = Counter("headrace_stream_erasures", "Erasures of viewers that were read")
CLAMPED = Counter("headrace_stream_clamped", "Events whose own time was replaced or bounded")
ROWS_WRITTEN = Counter("headrace_stream_rows_written", "Rows written to the store", ["table"])
ROWS_RESIDENT = Gauge("headrace_stream_rows_resident", "Rows held in memory", ["table"])
ROW_LOADS = Gauge("headrace_stream_row_loads", "Rows read from the store so far", ["table"])
ROW_EVICTIONS = Gauge("headrace_stream_row_evictions", "Rows given back so far", ["table"])
LAG = Gauge("headrace_stream_lag", "Records behind the end of the log", ["topic", "partition"])
COMMIT_FAILURES = Counter("headrace_stream_commit_failures", "Offset commits the broker refused")
ARCHIVED = Counter("headrace_archive_records", "Records in files of the lake", ["table"])
ARCHIVE_WAITING = Gauge("headrace_archive_waiting", "Records in memory, not yet in a file")
BATCH = Histogram(
    "headrace_stream_batch_events",
    "Events in a batch",
    buckets=[1, 3, 10, 30, 100, 300, 1000, 4000],
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
DRIFTS = Counter("headrace_learning_drifts", "Changes found", ["what", "segment"])
ONLINE_LOSS = Gauge("headrace_learning_log_loss", "Test-then-train, over the window", ["series"])
ONLINE_AUC = Gauge("headrace_learning_roc_auc", "Test-then-train, over the window", ["series"])
ONLINE_CALIBRATION = Gauge(
    "headrace_learning_calibration_error", "Test-then-train, over the window", ["series"]
)
