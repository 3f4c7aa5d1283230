"""Verdicts on the statements of a paper, computed from how far each of them is off."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

HOLDS, PARTLY, WRONG = "holds", "holds approximately", "wrong"
OPEN = "open"
JOINED = {HOLDS: ": ", PARTLY: ": ", WRONG: "; right: ", OPEN: ": "}  # to what comes after it


@dataclass
class Errata:
    """A list of statements, each judged as it is added."""

    rows: list[dict[str, str]] = field(default_factory=list)

    def judge(
        self,
        place: str,
        statement: str,
        expected: str,
        *,
        error: float,
        tolerance: float,
        inside: float | None = None,
        corrected: float | None = None,
        measure: str = "off by",
        right: str = "",
        see: str = "",
    ) -> None:
        """Add a statement with the verdict that follows from the errors.

        It holds if ``error`` is at most ``tolerance``, holds approximately if it is so where
        ``inside`` was measured, and is wrong otherwise.

        Args:
            place: the section, then where in it, as in "2.1: equation 3".
            expected: the verdict that the page states elsewhere.
            inside: the error under the condition that ``right`` names.
            corrected: the error of the form that ``right`` gives.
            measure: what the errors are, in words.

        Raises:
            ValueError: another verdict follows, or the corrected form is off as well.
        """
        if error <= tolerance:
            verdict = HOLDS
        elif inside is not None and inside <= tolerance:
            verdict = PARTLY
        else:
            verdict = WRONG
        if verdict != expected:
            raise ValueError(f"{place}, {statement}: {verdict}, not {expected} (error {error})")
        if corrected is not None and not corrected <= tolerance:
            raise ValueError(f"{place}, {statement}: the right form is off by {corrected}")
        evidence = f"{measure} {error:.2g}"
        if inside is not None:
            evidence += f", under the condition {inside:.2g}"
        if corrected is not None:
            evidence += f", the right form {corrected:.2g}"
        self._add(place, statement, verdict, right, f"{evidence}; see {see}" if see else evidence)

    def leave_open(self, place: str, statement: str, why: str) -> None:
        """Add a statement that nothing here decides."""
        self._add(place, statement, OPEN, "", why)

    def _add(self, place: str, statement: str, verdict: str, right: str, evidence: str) -> None:
        section, item = place.split(": ")
        row = {"section": section, "verdict": verdict, "item": item, "statement": statement}
        self.rows.append({**row, "right": right, "evidence": evidence})

    def table(self, *sections: str) -> pd.DataFrame:
        """The rows of some sections, in the order they were added."""
        rows = pd.DataFrame(self.rows)
        rows = rows[rows.section.isin(sections)].reset_index(drop=True)
        right = rows.verdict.map(JOINED).where(rows.right != "", "") + rows.right
        return pd.DataFrame(
            {
                "the draft": "*" + rows["item"] + "*: " + rows.statement,
                "verdict": "**" + rows.verdict + "**" + right,
                "evidence": rows.evidence,
            }
        )

    def counts(self) -> pd.DataFrame:
        """How many statements of each section have which verdict."""
        rows = pd.DataFrame(self.rows)
        counts = pd.crosstab(rows.section, rows.verdict)
        return counts.reindex(index=rows.section.unique(), columns=list(JOINED), fill_value=0)


def possible_mean(mean: float, number: int, step: int) -> float:
    """How far the nearest mean of ``number`` multiples of ``step`` is from a printed one."""
    total = round(mean * number / step) * step
    return abs(total / number - mean)
