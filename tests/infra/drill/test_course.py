"""The course of a fault, over a page that changes by the clock of the test."""

import json

import pytest
from rich.console import Console

from infra.drill.course import (
    DETECT_S,
    GIVE_UP_S,
    RECOVER_S,
    Fault,
    Outcome,
    RunbookError,
    Seen,
    World,
    cure_of,
    follow,
)
from infra.drill.run import FAULTS, table_of, write
from infra.drill.site import Site
from infra.ops.alerts import ALERTS


class Stack:
    """A page that is red from some seconds after a fault until some seconds after its cure."""

    def __init__(self, red_after_s, green_after_s, exit_status=0):
        self.now_s = 100.0
        self.told, self.commands = [], []
        self._red_after_s, self._green_after_s = red_after_s, green_after_s
        self._exit_status = exit_status
        self._broken_s = self._cured_s = float("inf")

    def world(self):
        return World(self.look, self.run, lambda: self.now_s, self.pause, self.told.append)

    def fault(self, places=None):
        return Fault("worker", "a worker is killed", "HeadraceProcessDown", "process-down",
                     self.break_it, places or {"PROCESS": "features"})  # fmt: skip

    def break_it(self):
        self._broken_s = self.now_s

    def look(self):
        is_red = self._broken_s + self._red_after_s <= self.now_s
        is_over = self._cured_s + self._green_after_s <= self.now_s
        sequence = int(self.now_s / 2)
        if is_red and not is_over:
            return Seen(sequence, "page", frozenset({"HeadraceProcessDown"}))
        return Seen(sequence, "ok", frozenset())

    def run(self, line):
        self.now_s += 3
        self.commands.append(line)
        self._cured_s = self.now_s
        return self._exit_status

    def pause(self, seconds):
        self.now_s += seconds


def test_a_fault_that_is_told_and_mended_passes():
    stack = Stack(red_after_s=8, green_after_s=5)
    found = follow(stack.fault(), stack.world())
    assert found.is_passed
    assert found.detected_s == pytest.approx(8, abs=0.3)
    assert found.recovered_s == pytest.approx(8, abs=0.3)
    assert stack.commands == found.commands == ["headrace restart features"]
    assert stack.told[0].startswith("inject: a worker is killed")


def test_a_fault_that_is_told_late_is_mended_and_fails():
    stack = Stack(red_after_s=DETECT_S + 1, green_after_s=1)
    found = follow(stack.fault(), stack.world())
    assert (found.cured, found.is_passed) == (True, False)


def test_a_fault_that_is_never_told_fails_and_says_so():
    found = follow((stack := Stack(GIVE_UP_S + 1e6, 1)).fault(), stack.world())
    assert found.detected_s is None
    assert "did not fire" in found.problem
    assert not found.is_passed


def test_a_page_that_stays_red_fails_and_says_what_fires():
    found = follow((stack := Stack(3, RECOVER_S + 60)).fault(), stack.world())
    assert (found.cured, found.recovered_s) == (False, None)
    assert "HeadraceProcessDown" in found.problem


def test_a_page_that_is_red_before_the_fault_tells_nothing_of_it():
    stack = Stack(red_after_s=0, green_after_s=1)
    stack.break_it()
    found = follow(stack.fault(), stack.world())
    assert (found.detected_s, stack.commands) == (None, [])
    assert "not green before" in found.problem


def test_a_command_that_fails_is_no_cure():
    found = follow((stack := Stack(3, 1, exit_status=1)).fault(), stack.world())
    assert (found.cured, found.is_passed) == (False, False)
    assert "ended with 1" in found.problem


def test_a_fault_that_cannot_be_injected_is_an_outcome():
    def fail():
        raise OSError("no such process")

    stack = Stack(3, 1)
    fault = Fault("worker", "", "HeadraceProcessDown", "process-down", fail)
    assert "no such process" in follow(fault, stack.world()).problem


def test_commands_come_out_of_the_runbook(tmp_path):
    (tmp_path / "x.md").write_text("```sh\nheadrace lag\n```\n```sh cure\nheadrace a NAME\n```\n")
    assert cure_of("x", {"NAME": "b"}, tmp_path) == ["headrace a b"]
    (tmp_path / "y.md").write_text("```sh\nheadrace lag\n```\n")
    with pytest.raises(RunbookError, match=r"y\.md"):
        cure_of("y", {}, tmp_path)


def test_faults_name_alerts_and_runbooks_that_exist(tmp_path):
    faults = Site(tmp_path).faults()
    runbook_of = {alert.name: alert.runbook for alert in ALERTS}
    assert [fault.name for fault in faults] == list(FAULTS)
    for fault in faults:
        assert runbook_of[fault.alert] == f"docs/runbooks/{fault.runbook}.md"
        commands = cure_of(fault.runbook, fault.places)
        assert all(command.startswith("headrace ") for command in commands)


def test_figures_are_written_for_machines_and_for_people(tmp_path):
    found = [Outcome("redis", "HeadraceRedisDown", 7.123, ["headrace restart redis"], True, 4.5)]
    write(tmp_path / "home" / "drill.json", found)
    told = json.loads((tmp_path / "home" / "drill.json").read_text())
    assert told["passed"] is True
    figures = told["faults"]["redis"]
    assert (figures["detected_s"], figures["cured"], figures["recovered_s"]) == (7.12, True, 4.5)
    console = Console(width=200, record=True)
    console.print(table_of([*found, Outcome("stall", "HeadraceNoProgress", problems=["[odd]"])]))
    assert "[odd]" in console.export_text()
