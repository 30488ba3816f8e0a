"""One metric's explanation, as `glossary` holds it. It knows no metric."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One metric. Example: ``Entry("loss", "Loss", "mean over the step's trained tokens ...", "NaN; rising ...")``."""

    name: str
    title: str
    meaning: str  # what it is and how it is computed, with its unit
    watch: str  # what a bad value looks like, and what it points to
