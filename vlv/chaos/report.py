"""The table of what was killed and what came of it."""

from __future__ import annotations

from collections import Counter

from vlv.chaos.harness import Report

# Of a logged loss, where the number of processes changes: sums over another number are rounded in another order, and
# training makes more of it with each step. A sample too many or too few changes a loss by several times as much.
ROUNDING = 0.01
_OF_WEIGHTS = ("logged losses", "weights and their average", "optimizer states", "finished models")


def passed(report: Report, to_the_bit: bool) -> bool:
    """Whether everything is as in the untouched run: to the bit, or losses within rounding and all else equal."""
    findings = report.findings
    exact = [kind for kind in findings.tallies if to_the_bit or kind not in _OF_WEIGHTS]
    different = any(findings.tallies[kind].different for kind in exact) or findings.loss_difference > ROUNDING
    return not (different or findings.lost or findings.repeated or report.left_behind)


def facts(report: Report) -> dict[str, object]:
    """The table's content as JSON holds it."""
    return {
        "kills": report.kills,
        "runs": report.runs,
        "untouched_seconds": round(report.untouched_seconds, 1),
        "hit": dict(report.places),
        "killed": dict(report.victims),
        "half_written": report.torn,
        "steps_again": report.again,
        "left_behind": report.left_behind,
        "lost": report.findings.lost,
        "repeated": report.findings.repeated,
        "rounded": report.findings.rounded,
        "loss_difference": report.findings.loss_difference,
        "compared": {kind: tally.compared for kind, tally in report.findings.tallies.items()},
        "different": {kind: tally.different for kind, tally in report.findings.tallies.items()},
    }


def table(report: Report, unit: str) -> str:
    """The table, as Markdown.

    Args:
        unit: of the work: steps or images.
    """
    findings = report.findings
    rows = [
        ("kills (SIGKILL)", f"{report.kills}, in {report.runs} runs"),
        ("they hit", _listed(report.places)),
        ("killed were", _listed(report.victims)),
        ("processes that outlived a kill by a minute", str(report.left_behind)),
        ("files and folders found half written", str(report.torn)),
        *([("steps taken again", str(report.again))] if unit == "steps" else []),
        (f"{unit} lost", str(findings.lost)),
        (f"{unit} more than once in the result", str(findings.repeated)),
    ]
    for kind, tally in findings.tallies.items():
        rows.append((f"{kind} compared", f"{tally.compared:,}, {len(tally.different):,} different"))
    if findings.rounded:
        rows.append(("of these equal but for rounding", str(findings.rounded)))
    if findings.loss_difference:
        rows.append(("largest relative difference of a loss", f"{findings.loss_difference:.1e}"))
    return "\n".join(["| what | result |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common()) or "nothing"
