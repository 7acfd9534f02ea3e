"""The alerts as Prometheus' rules, and as the table of docs/alerts.md."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from infra.ops.alerts import Alert

INTERVAL_S: Final = 2  # as the console, so that both say the same within the same seconds
HEADER: Final = """\
# Made by `headrace alerts rules`; change infra/ops/alerts.py, or a threshold by its setting
# (docs/alerts.md), and make it anew. Checked by promtool in the tests.
"""


def rules_of(alerts: Sequence[Alert]) -> dict[str, Any]:
    """One group with all alerts."""
    rules = [_rule_of(alert) for alert in alerts]
    return {"groups": [{"name": "headrace", "interval": f"{INTERVAL_S}s", "rules": rules}]}


def _rule_of(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.promql(),
        "for": f"{alert.for_s}s",
        "labels": {"severity": alert.severity},
        "annotations": annotations_of(alert),
    }


def annotations_of(alert: Alert) -> dict[str, str]:
    """What somebody who is told reads."""
    return {"summary": alert.summary, "runbook_url": alert.runbook}


def as_yaml(alerts: Sequence[Alert]) -> str:
    """The file that Prometheus loads."""
    return HEADER + yaml.safe_dump(rules_of(alerts), sort_keys=False, width=10_000)


def as_markdown(alerts: Sequence[Alert]) -> str:
    """The table of docs/alerts.md."""
    lines = ["| alert | severity | holds for | when | runbook |", "|---|---|---|---|---|"]
    for alert in alerts:
        topic = Path(alert.runbook).stem
        link = f"[{topic}](runbooks/{topic}.md)"
        lines.append(
            f"| `{alert.name}` | {alert.severity} | {alert.for_s} s | {alert.summary} | {link} |"
        )
    return "\n".join(lines) + "\n"
