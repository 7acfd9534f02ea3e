"""Slates and explanations as tables for people."""

from collections.abc import Mapping

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from serving.client import Explained, Recommendations

N_FEATURES = 15  # shown of an explanation, by what they contribute


def show_slate(slate: Recommendations, number: int, console: Console) -> None:
    """A page of a slate, what filters took out, and where the time went."""
    console.print(
        f"page {number}, request {slate.request_id}: {len(slate.items)} titles out of "
        f"{slate.n_candidates} candidates\n"
        f"context [bold]{slate.decision_context or 'none'}[/], policy {slate.policy or 'none'}, "
        f"learned state {slate.model_sequence}, bundle {slate.bundle_version or 'none'}",
        highlight=False,
    )
    if slate.degraded:
        console.print(f"[yellow]missing:[/] {', '.join(slate.degraded)}")
    table = Table("slot", "item", "title", "source", "arm", "P(arm)", "score", "why", box=SIMPLE)
    for slot, item in enumerate(slate.items):
        table.add_row(
            str(slot), item.item_id, item.title, item.source, item.arm, f"{item.propensity:.3f}",
            f"{item.score:.3f}", item.reason + (f" (rule {item.rule_id})" if item.rule_id else ""),
        )  # fmt: skip
    console.print(table)
    if slate.removed:
        console.print(f"taken out: {_counted(slate.removed)}", highlight=False)
    if slate.rules:
        console.print(f"rules: {', '.join(slate.rules)}", highlight=False)
    if slate.stage_ms:
        times = ", ".join(f"{name} {ms:.2f}" for name, ms in slate.stage_ms.items())
        console.print(f"milliseconds: {times}", highlight=False)


def show_explanation(found: Explained, console: Console) -> None:
    """The sentence, where the title stands, and the features that count most."""
    console.print(f"[bold]{found.summary}[/]", highlight=False)
    table = Table(show_header=False, box=SIMPLE)
    table.add_row("brought by", ", ".join(found.sources) or "no source")
    table.add_row("taken out by", ", ".join(found.removed_by) or "no filter")
    table.add_row("place after the first stage", str(found.cheap_rank or "none"))
    table.add_row("place by score", str(found.rank or "none"))
    table.add_row("slot", str(found.slot) if found.shown else "none")
    table.add_row("score", f"{found.item.score:.4f}")
    console.print(table)
    contributions = found.item.contributions
    if contributions:
        console.print(_contributions(contributions, found.item.features))


def _contributions(contributions: Mapping[str, float], features: Mapping[str, float]) -> Table:
    table = Table("feature", "value", "adds to the score", box=SIMPLE)
    largest = sorted(contributions, key=lambda name: -abs(contributions[name]))
    for name in largest[:N_FEATURES]:
        table.add_row(name, f"{features[name]:.4g}", f"{contributions[name]:+.4f}")
    return table


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items(), key=lambda kv: -kv[1]))
