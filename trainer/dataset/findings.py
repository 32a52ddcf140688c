"""What a check of a dataset found, one thing at a time and in sum."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning"]

LISTED_OF_ONE_KIND = 20  # findings of one code that a report lists; it counts all of them


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. `path` is relative to the dataset, `line` counts from 1.

    `code` groups findings of one kind (`box_empty`); `message` says what is wrong and what to do about it.
    """

    severity: Severity
    code: str
    message: str
    path: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = f"{self.path}, line {self.line}" if self.line else self.path
        return f"{place}: {self.message}" if place else self.message


@dataclass
class DatasetReport:
    """What a dataset holds, by split, and what is wrong with it.

    `findings` lists the first LISTED_OF_ONE_KIND of every code, `counts` has the number of all of them by severity and
    code. `statistics` is what the histograms are drawn from, and is JSON as it stands.
    """

    class_names: list[str] = field(default_factory=list)
    images: dict[str, int] = field(default_factory=dict)
    instances: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    counts: dict[tuple[Severity, str], int] = field(default_factory=dict)
    statistics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether it can be trained on; warnings do not stand in the way."""
        return not any(severity == "error" for severity, _code in self.counts)

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    def total(self, severity: Severity) -> int:
        return sum(number for (its, _code), number in self.counts.items() if its == severity)

    def add(self, finding: Finding) -> None:
        """Count the finding, and list it while there are few of its kind."""
        kind = finding.severity, finding.code
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if self.counts[kind] <= LISTED_OF_ONE_KIND:
            self.findings.append(finding)
