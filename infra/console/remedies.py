"""For each alert: who is affected, and the command to try first. The runbook has the rest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from infra.console.processes import kind_of


@dataclass(frozen=True, slots=True)
class Remedy:
    """What a person at three in the morning needs beside the alert itself."""

    affected: str  # names in braces are labels of the alert
    command: str  # to look, harmless
    cure: str = ""  # what the runbook does where the look confirms it


REMEDIES: Final[Mapping[str, Remedy]] = {
    "HeadraceLag": Remedy(
        "viewers of the partitions behind see slates without their newest events", "headrace lag"
    ),
    "HeadraceLagPage": Remedy(
        "viewers of the partitions behind see old state; slates ignore what they just did",
        "headrace lag && headrace status",
    ),
    "HeadraceNoProgress": Remedy(
        "all viewers of the partitions that stand still: nothing they do is taken in",
        "headrace status && headrace doctor",
        "headrace restart {flow}",
    ),
    "HeadraceFreshnessSlow": Remedy(
        "viewers who act and look at once: their slates trail what they did", "headrace lag"
    ),
    "HeadraceDeadLetters": Remedy(
        "the viewers whose events were refused, and the producers that sent them",
        "headrace dead-letters list",
    ),
    "HeadraceServingSlow": Remedy(
        "every viewer who asks for a slate waits", "headrace status", "headrace restart serve"
    ),
    "HeadraceServingErrors": Remedy(
        "viewers whose calls fail get no slate",
        "headrace status && headrace doctor",
        "headrace restart serve",
    ),
    "HeadraceCacheMisses": Remedy(
        "nobody yet: rows are read from Redis again and again, the flow is slower", "headrace lag"
    ),
    "HeadraceArmDominates": Remedy(
        "every viewer gets slates of one kind; the other arms learn nothing",
        "headrace models report",
    ),
    "HeadraceDiversityLow": Remedy(
        "every viewer gets slates of like titles", "headrace rules list"
    ),
    "HeadraceModelStale": Remedy(
        "every viewer: slates go by what was learnt earlier",
        "headrace models list",
        "headrace restart serve",
    ),
    "HeadraceDrift": Remedy(
        "viewers of the segment that changed: predictions fit them less", "headrace models report"
    ),
    "HeadraceRedisMemory": Remedy(
        "nobody yet; once it is full no row can be written and the flow ends", "headrace doctor"
    ),
    "HeadraceRedisDown": Remedy(
        "every viewer: slates are made as for unknown viewers, nothing new is taken in",
        "headrace doctor",
        "headrace restart redis",
    ),
    "HeadraceBrokerDown": Remedy(
        "every viewer: no event is taken in, Track answers UNAVAILABLE",
        "headrace doctor",
        "headrace restart broker",
    ),
    "HeadraceProcessDown": Remedy(
        "whoever needs {process}: see what it does in its runbook",
        "headrace status",
        "headrace restart {process}",
    ),
    "HeadraceOverload": Remedy(
        "viewers get fewer candidates, charts, or a refusal", "headrace status"
    ),
    "HeadraceStaleSource": Remedy(
        "readers of {process}: what it goes by is old",
        "headrace status && headrace doctor",
        "headrace restart {process}",
    ),
}
OWNERS: Final = {"attribution": "learning"}  # the process that a flow runs in, by default
UNKNOWN: Final = Remedy("see the runbook", "headrace doctor")


def remedy_of(name: str, labels: Mapping[str, str]) -> Remedy:
    """The remedy of an alert, with its labels put in.

    >>> remedy_of("HeadraceProcessDown", {"process": "serve"}).affected
    'whoever needs serve: see what it does in its runbook'
    >>> remedy_of("HeadraceNoProgress", {"flow": "attribution"}).cure
    'headrace restart learning'
    """
    found = REMEDIES.get(name, UNKNOWN)
    process = labels.get("process", "")
    flow = labels.get("flow") or process or "features"
    affected = found.affected.replace("{process}", process or "some process")
    cure = found.cure.replace("{process}", kind_of(process) or "features")
    return Remedy(affected, found.command, cure.replace("{flow}", OWNERS.get(flow, kind_of(flow))))
