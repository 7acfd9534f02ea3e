"""The course of a fault: injected, told, mended by the runbook, over. No stack, no clock."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

RUNBOOKS: Final = Path(__file__).resolve().parents[2] / "docs" / "runbooks"
CURE: Final = re.compile(r"^```sh cure\n(.*?)^```$", re.MULTILINE | re.DOTALL)

DETECT_S: Final = 15.0  # what the console is held to
GIVE_UP_S: Final = 45.0  # looked for longer than that, to tell late from never
RECOVER_S: Final = 180.0
LOOK_EVERY_S: Final = 0.25
GREEN_LOOKS: Final = 3  # snapshots in a row


class RunbookError(ValueError):
    """A runbook has no cure that can be run as it stands."""


@dataclass(frozen=True)
class Seen:
    """One look at the console's page: its state, and the alerts that fire."""

    sequence: int
    state: str  # ok, warn, page, blind
    firing: frozenset[str]


@dataclass(frozen=True)
class Fault:
    """Something that is done to the stack, and what must be told of it."""

    name: str
    tells: str  # what is done, in a few words
    alert: str
    runbook: str  # name of the file
    inject: Callable[[], None]  # returns once it is done
    places: Mapping[str, str] = field(default_factory=dict)  # names in the runbook's commands
    release: Callable[[], None] = lambda: None  # what the cure does not: the cause ends


@dataclass
class Outcome:
    """What became of a fault; seconds since it was injected, and since the cure began."""

    fault: str
    alert: str
    detected_s: float | None = None
    commands: list[str] = field(default_factory=list)
    cured: bool = False  # every command ended well, and the page is green
    recovered_s: float | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def problem(self) -> str:
        """Everything that went wrong, in a line."""
        return "; ".join(self.problems)

    @property
    def is_passed(self) -> bool:
        """Told in time, cured, and green again."""
        in_time = self.detected_s is not None and self.detected_s <= DETECT_S
        return in_time and self.cured and self.recovered_s is not None

    def as_dict(self) -> dict[str, Any]:
        """For drill.json."""
        return {
            "alert": self.alert, "detected_s": rounded(self.detected_s), "cured": self.cured,
            "recovered_s": rounded(self.recovered_s), "commands": self.commands,
            "passed": self.is_passed, "problem": self.problem,
        }  # fmt: skip


@dataclass(frozen=True)
class World:
    """What a course needs of the world around it."""

    look: Callable[[], Seen]
    run: Callable[[str], int]  # a command line; its exit status
    now_s: Callable[[], float]
    pause: Callable[[float], None]
    tell: Callable[[str], None]  # a line for the timeline


def cure_of(runbook: str, places: Mapping[str, str], folder: Path = RUNBOOKS) -> list[str]:
    """The commands of a runbook's cure, with names like PROCESS filled in. Raises RunbookError."""
    blocks = CURE.findall((folder / f"{runbook}.md").read_text())
    if len(blocks) != 1:
        raise RunbookError(f"{runbook}.md must have one block marked `sh cure`; got {len(blocks)}")
    lines = [line.strip() for line in blocks[0].splitlines() if line.strip()]
    for name, value in places.items():
        lines = [re.sub(rf"\b{name}\b", value, line) for line in lines]
    return lines


def follow(fault: Fault, world: World) -> Outcome:
    """Injects a fault and follows it to its end. What goes wrong is told in the outcome."""
    found = Outcome(fault.name, fault.alert)
    if until_green(world, world.now_s()) is None:
        _trouble(f"the page was not green before the fault: {_what_fires(world)}", found, world)
        return found
    world.tell(f"inject: {fault.tells}")
    try:
        fault.inject()
        began_s = world.now_s()
        found.detected_s = until_told(fault, world, began_s)
        if found.detected_s is None:
            _trouble(f"{fault.alert} did not fire within {GIVE_UP_S:g} s", found, world)
        else:
            world.tell(f"{fault.alert} fires, the page is red: {found.detected_s:.1f} s")
        fault.release()
        cure_s = world.now_s()
        statuses = [_run(line, found, world) for line in cure_of(fault.runbook, fault.places)]
        found.recovered_s = until_green(world, cure_s)
        found.cured = found.recovered_s is not None and not any(statuses)
        if found.recovered_s is None:
            firing = _what_fires(world)
            _trouble(f"the page is not green after {RECOVER_S:g} s: {firing}", found, world)
        else:
            world.tell(f"the page is green: {found.recovered_s:.1f} s after the cure began")
    except Exception as error:
        _trouble(repr(error), found, world)
        fault.release()
    return found


def _trouble(problem: str, found: Outcome, world: World) -> None:
    found.problems.append(problem)
    world.tell(problem)


def _run(line: str, found: Outcome, world: World) -> int:
    found.commands.append(line)
    status = world.run(line)
    world.tell(f"$ {line}  (exit {status})")
    if status:
        found.problems.append(f"`{line}` ended with {status}")
    return status


def until_told(fault: Fault, world: World, began_s: float) -> float | None:
    """Seconds until the alert fires and the page is not green; None: neither came."""
    while (passed_s := world.now_s() - began_s) < GIVE_UP_S:
        seen = world.look()
        if fault.alert in seen.firing and seen.state in ("warn", "page"):
            return world.now_s() - began_s
        world.pause(min(LOOK_EVERY_S, GIVE_UP_S - passed_s))
    return None


def until_green(world: World, began_s: float) -> float | None:
    """Seconds until the first of some snapshots in a row in which nothing fires."""
    green: list[tuple[int, float]] = []
    while world.now_s() - began_s < RECOVER_S:
        seen = world.look()
        if seen.state != "ok" or seen.firing:
            green = []
        elif not green or seen.sequence != green[-1][0]:
            green.append((seen.sequence, world.now_s() - began_s))
        if len(green) == GREEN_LOOKS:
            return green[0][1]
        world.pause(LOOK_EVERY_S)
    return None


def _what_fires(world: World) -> str:
    return ", ".join(sorted(world.look().firing)) or "nothing fires"


def rounded(seconds: float | None) -> float | None:
    """For people and files."""
    return None if seconds is None else round(seconds, 2)
