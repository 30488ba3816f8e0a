r"""What stands around a question and is no part of it: its number, where it comes from, answer choices, wishes for a format.

    "**Problem 12.** Ann has 3 cats. ... How many are left? (A) 3 (B) 4 (C) 5"   ->   "Ann has 3 cats. ... How many are left?"

Numbers in dressing are not the question's, so they must go before numbers are compared. Choices are kept where the question
speaks of them ("which of the following"). This file does not know sentences nor words.
"""

from __future__ import annotations

import re

_COUNT = r"(?:\d{1,4}(?:[.\-]\d+)*[a-z]?|[ivx]{1,5}|[a-h])"
_TAG = r"[\[(](?:[^\[\]()$\\]{0,40}\b(?:19|20)\d\d\b[^\[\]()$\\]{0,30}|[^\[\]()$\\]{0,20}?\d+ (?:points?|marks?|pts?)\.?)[\])]"
_KINDS = r"(?:problem|question|exercise|example|task|puzzle|item|quiz|prob|ques|exer|exc|ex|q|no|nr|part|p)"
_LABEL = re.compile(
    rf"[\s«“\"]*+(?:[#*>_\-\s]*+{_KINDS}(?![a-z])\.?\s*(?:no\.?|number|\#)?\s*{_COUNT}\b\s*\**(?:\s*{_TAG})?\s*"
    r"(?:[.:)\]]+|[-|]+(?=\s)|\n|\Z|(?=\s(?-i:[A-Z$\\(])))\**\s*"
    rf"|[#*>_\-\s]*+{_KINDS}\s*(?:[:\n]|\*\*)\s*\**\s*"
    r"|\[/?inst\]\s*|(?:user|human|input|instruction|prompt|statement|problem statement)\s*:\s*"
    r"|\*\*[^*]{1,20}\*\*:?\s*|\#+\s*(?:problem|question|exercise|task|instruction)s?:?\s*\n"
    rf"|[#]\s?\d{{1,4}}\s*[.:)]?\s+|{_TAG}\s*[.:]?\s*"
    r"|\**[(\[]?(?:\d{1,3}(?:\.\d+)*|[a-h]|[ivx]{1,4})[.)\]]+\**(?:\s+(?=[a-z\d\\$(#*•-])|\s*\n)"
    r"|\d{1,3}\s-\s(?=[a-z]{2})|[•*\-]\s+(?=[a-z]))",
    re.IGNORECASE,
)
_ENDS_IN = re.compile(rf"\s*{_TAG}\s*\Z", re.IGNORECASE)
_MARK = re.compile(r"(?:(?<=[\s.?!;,{$])|(?<=\A))(?:[-*•]\s)?\**[(\[]?(?P<name>[A-Ea-e])(?:[)\]]|[.:](?=\s))")
_REFERS = re.compile(
    r"\bwhich (?:\w+ )?(?:of|following|choices?|options?|ones?)\b|\b(?:choices|options) (?:below|given|listed|above)\b"
    r"|\b(?:of|from|among) (?:the following|these)\s*(?:[?:,]|\Z|(?:is|are|could|can|must|has|have|does|do|statements?|values?"
    r"|numbers?|choices|options)\b)",
    re.IGNORECASE,
)
LABELS = 4  # one behind the other: "**Question** Problem 7. (a)"
LONGEST_LABEL = 160  # characters that are looked at on either end, a bound on the work
STARTS = 4  # of choices, from the end of a text
OPTION = 90  # characters of an answer choice at most
REFERENCE = 200  # characters before the choices in which a question speaks of them


def without_label(text: str) -> str:
    """A text without its numbering and source in front; "" where it is nothing else.

    >>> without_label("Problem 28.3 (3 points). Ann has 3 cats.")
    'Ann has 3 cats.'
    """
    for _ in range(LABELS):
        found = _LABEL.match(text[:LONGEST_LABEL])
        if not found or not found.end():
            break
        text = text[found.end() :]
    return text[:-LONGEST_LABEL] + _ENDS_IN.sub("", text[-LONGEST_LABEL:])


def without_choices(text: str) -> str:
    """A text without the answer choices at its end, unless it speaks of them.

    >>> without_choices("What is 3 + 4?\\n- A: 6\\n- B: 7\\n- C: 8")
    'What is 3 + 4?'
    """
    marks = list(_MARK.finditer(text))
    for i in [i for i, mark in enumerate(marks) if mark["name"] in "Aa"][-STARTS:]:
        mark, run = marks[i], [marks[i]]
        for other in marks[i + 1 :]:
            if ord(other["name"]) == ord(run[-1]["name"]) + 1:
                run.append(other)
        starts = [one.end() for one in run]
        ends = [*(one.start() for one in run[1:]), len(text)]
        options = [text[start:end] for start, end in zip(starts, ends, strict=True)]
        limit = OPTION if mark["name"] == "A" else OPTION // 3  # "a) find ... b) compute ..." are parts
        is_short = all(len(option.strip()) <= limit and "?" not in option for option in options[:-1])
        rest = text[: mark.start()].rstrip()
        if len(run) < 3 or not is_short or len(options[-1].strip()) > 2 * limit or not rest:
            continue
        return text if _REFERS.search(rest[-REFERENCE:]) else rest[:-LONGEST_LABEL] + _LEAD.sub("", rest[-LONGEST_LABEL:])
    return text


_LEAD = re.compile(r"(?:\s|\**(?:answer )?(?:choices|options)\**\s*:?|\\(?:text\w*|mathrm)\s*\{|[$*\-•:{])*\Z", re.IGNORECASE)
