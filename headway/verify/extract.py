r"""From a completion's text to its final answer: a ladder of markers, searched from the end.

    text --(drop thoughts)--> outside --> \boxed{} > <answer> > "final answer is", "####", "Answer:" > last number

The last box counts; boxes joined by "and" form a list. What stands inside `<think>`, finished or not, is no answer.
Every search is `str.rfind` or a regular expression without nested repetition, so the time is linear in the text.

It does not know the reference, and not what an answer means: it returns text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_TAIL = 2_000  # characters looked at behind a marker; a longer answer is none that a rule could read

_THINK = re.compile(r"<(/?)(?:think|thinking|thought)>", re.IGNORECASE)
_END_OF_TEXT = re.compile(r"<\|(?:im_end|im_start|endoftext|eot_id|end|end_of_text)\|>|<｜end▁of▁sentence｜>|</s>")
_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_OPENERS = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_UNBRACED = re.compile(r"\s*([+-]?[0-9a-zA-Z][0-9a-zA-Z./]*)")
_GLUE = re.compile(r"\\(?:quad|qquad|text|textbf|mathrm|[,;: ()\[\]])|[\s{}$*]+")
_JOINED = re.compile(r"(?:for[\w() ]{1,24})?[,;]?(?:and|or|[,;])(?:also)?", re.IGNORECASE)
# The word "answer" from its first letter that is never a capital, so that one search finds both. The others only where the text
# has letters beyond ASCII at all.
_WORDS = ("nswer", "NSWER", "ntwort", "ntwoord", "espuesta", "esposta", "isposta", "awaban", "evap:")
_MORE_WORDS = (
    "éponse", "dpowied", "твет", "ідпов", "πάντηση", "答案", "答え", "答：", "정답", "답은", "답:", "जवाब", "उत्तर", "áp án",
    "áp số", "جواب", "إجابة", "คำตอบ",
)  # fmt: skip
_MARKED = re.compile(
    r"(?:nswer|éponse|ntwort|espuesta|esposta|isposta|ntwoord|awaban)(?:s|nya)?\b"
    r"(?:\s*\([^()\n]{1,24}\))?"  # a remark
    r"(?:\s+(?:final[ea]?|définitive|correct[ae]?|akhir(?:nya)?)\b)?[\s*_]*"
    r"(?:(?:to|of|for)\b[^.\n:]{0,80}?(?=\bis\b|:))?"  # "to the question"
    r"(?:(?:is|are|was|est|ist|lautet|es|é|è|adalah|should be|must be)\b|[:=：]|(?<=\*\*\n)|(?<=\*\*\n\n)|(?=\$|\\\[|\\\())"
    r"(?:\s*(?:exactly|simply|just|then|therefore|thus|given by)\b)?[\s*_]*[:：]?[\s*_]*"
    r"|твет\s*[:：]?\s*|答案\s*(?:应该)?(?:是|为|為|：|:)\s*[：:]?\s*|(?:答え|정답|답)\s*(?:は|은|는|：|:)\s*[：:]?\s*|答：\s*"
    r"|(?:جواب|إجابة)(?:\s+(?:النهائي|النهائية|الصحيح|الصحيحة))?\s*(?:هو|هي|[:：])\s*[:：]?\s*"
    r"|(?:जवाब|उत्तर)\s*(?:है|[:：])\s*[:：]?\s*|(?:áp án|áp số)(?:\s+cuối cùng)?\s*(?:là|[:：])\s*[:：]?\s*"
    r"|(?:dpowiedź|dpowiedz|ідповідь|πάντηση|evap|คำตอบ)(?:\s*(?:to|є|είναι|คือ)\b|คือ|\s*[:：])\s*[:：]?\s*",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"\n|\.(?=\s+[A-Z\"'(])|\.(?=\s*$)|(?<=[^\d])[.!?](?=\s)|。|<")
_MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_MORE_MATH = re.compile(r"\s*(?:,|;|and\b|or\b|,\s*and\b|,\s*or\b)\s*(?=\$|\\\(|\\\[)", re.IGNORECASE)
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*")
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.,^])(?:[-+\u2212]\s?)?\\?\$?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)?(?:(?<=[0-9])\.?[0-9]*|\.[0-9]+)"
    r"(?:/[0-9]+)?%?"
)
_PROSE = re.compile(r"[^\W\d_]{3,}|[\u0900-\uffff]{2,}")
_MATH_IN_PROSE = re.compile(r"^\s*[A-Za-z]{2,}[^$]*\$[^$]+\$|\$[^$]+\$[^$]*[A-Za-z]{2,}[^$]*$")
_NAMES = re.compile(
    r"\\?(?:text|mathrm|operatorname|begin|end)\{[^{}]*\}|\\[a-zA-Z]+|(?:a?(?:sin|cos|tan)|sqrt|log|exp|Abs|infinity)"
)
_CALL = re.compile(r"[A-Za-z_]\($")
_POWER = re.compile(r"(?<=[\w)\]}])\*\*(?=[\w(+-])")  # Python's, where it would otherwise be bold
_REFUSAL = re.compile(r"(?:not|n't|n’t|unable to|impossible to)\s*(?:know|determine|find|tell|sure|say)|unknown", re.IGNORECASE)
_CHOICE = re.compile(r"(?<![A-Za-z0-9\\])\(?([A-J])\)?(?![A-Za-z0-9'’])(?!\}?\s?(?:\*[\w\\]|[\^_+/=]))")
_MARKED_LETTER = re.compile(
    r"[$*\s]*\(?(?:\\text\{)?\(?([A-Ja-j])(?![A-Za-z0-9'’=+^_])[)}\s*$]*(?:[.,:;。，]|$|(?!or\b|and\b|\(?[A-J]\b)[a-z]{2})"
)
_LEADING_LETTER = re.compile(r"\(?([A-J])\)?\s*[.:)。、]")


@dataclass(frozen=True, slots=True)
class Found:
    """An answer and the rung of the ladder it was found on: box, tag, marker, bold, math, whole or number."""

    answer: str
    rung: str


def final_answer(text: str, *, last_number: bool = False) -> str | None:
    r"""The final answer that `text` states, as written, or None.

    >>> final_answer(r"first \boxed{1}, no: \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    >>> final_answer("<think>\\boxed{3}") is None
    True
    >>> final_answer("so 7 remain", last_number=True)
    '7'

    With `last_number`, a text without box or marker is searched for bold text, formulas and numbers, last first.
    """
    found = find(text, last_number=last_number)
    return found.answer if found else None


def find(text: str, *, last_number: bool = False) -> Found | None:
    """As `final_answer`, with the rung that the answer was found on."""
    if "<" in text:
        text = outside_thought(text)
    if "\\boxed" in text or "\\fbox" in text:
        boxed = _last_box(text)
        if boxed is not None:
            return Found(boxed, "box") if boxed.strip() else None
    close = text.rfind("</answer>")
    if close >= 0:
        tag = text.rfind("<answer>", 0, close)
        if tag >= 0:
            return Found(text[tag + 8 : close].strip(), "tag")
    marked = _last_marked(text, sentences=last_number)
    if marked:
        return Found(marked, "marker")
    return _loose(text) if last_number else None


def outside_thought(text: str) -> str:
    """`text` without its think blocks and without what follows an end-of-text token.

    A block that never ends reaches to the end; a closing tag without an opening one closes
    a block that the prompt opened.
    """
    end = _END_OF_TEXT.search(text)
    if end and len(text) - end.end() > 16:
        text = text[: end.start()]
    elif end:
        text = _END_OF_TEXT.sub("", text)
    if "think" not in text and "THINK" not in text and "thought" not in text:
        return text
    kept: list[str] = []
    position, inside = 0, False
    for tag in _THINK.finditer(text):
        if tag.group(1):
            if not inside:
                kept.clear()
            inside, position = False, tag.end()
        elif not inside:
            kept.append(text[position : tag.start()])
            inside = True
    if not inside:
        kept.append(text[position:])
    return "\n".join(kept)


def choice(text: str) -> str | None:
    """The one option letter that `text` settles on, when it stands alone in the text's last statement, else None.

    >>> choice("I would go with (B) here"), choice("A B C D")
    ('B', None)
    """
    marked = _last_marked(text, sentences=False)
    if marked:
        head = _MARKED_LETTER.match(marked)
        if head:
            return head.group(1).upper()
    else:
        head = _LEADING_LETTER.match(text.strip()[:80])
        if head:
            return head.group(1)
    tail = marked or text[-MAX_TAIL:]
    letters = {match.group(1) for match in _CHOICE.finditer(tail) if not _is_article(tail, match)}
    return letters.pop() if len(letters) == 1 else None


def _is_article(text: str, match: re.Match[str]) -> bool:
    """Whether a capital A or I is the English word and no option: followed by a lower-case word."""
    return match.group(0) in "AI" and bool(re.match(r"\s+[a-z]", text[match.end() : match.end() + 3]))


def _is_part(text: str, match: re.Match[str]) -> bool:
    """Whether a number is no answer of its own: the argument in print(42), the last summand in 10^{10}+42."""
    start = match.start()
    if text[start] in "+-\u2212":
        return text[start - 1 : start] in ("}", ")", "]")
    return bool(_CALL.search(text[max(0, start - 24) : start])) and text[match.end() : match.end() + 1] == ")"


def _last_box(text: str) -> str | None:
    """The content of the last balanced box, a joined list of the last boxes, or None where there is none."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    span = _box_at(text, start)
    if span is None:
        spans = _all_boxes(text)
        if not spans:
            return None
        start, *span = spans[-1]
    contents = [text[span[0] : span[1]]]
    while len(contents) < 64:
        previous = max(text.rfind("\\boxed", 0, start), text.rfind("\\fbox", 0, start))
        before = _box_at(text, previous) if previous >= 0 else None
        if before is None or start - before[1] > 80:
            break
        if before[1] > start:  # the earlier box holds this one
            outer = text[before[0] : before[1]]
            inner = text[start : span[1] + 1]
            contents = [outer.replace(inner, contents[0], 1)] if len(contents) == 1 else contents
        elif _JOINED.fullmatch(_GLUE.sub("", text[before[1] + 1 : start])):
            contents.insert(0, text[before[0] : before[1]])
        else:
            break
        start, span = previous, before
    return ", ".join(contents)


def _box_at(text: str, start: int) -> tuple[int, int] | None:
    r"""Where the content of the box command at `start` begins and ends, or None where it does not end.

    `\boxed 7` holds the one token behind it. Looks at most at `MAX_TAIL` * 8 characters.
    """
    command = _BOX.match(text, start)
    if command is None:
        return None
    begin = command.end()
    while begin < len(text) and text[begin].isspace():
        begin += 1
    if text[begin : begin + 1] != "{":
        token = _UNBRACED.match(text, command.end())
        return (token.start(1), len(token.group(1).rstrip(".")) + token.start(1)) if token else None
    begin += 1
    close = text.find("}", begin)
    if close < 0:
        return None
    if text.find("{", begin, close) < 0 and text.find("\\", begin, close) < 0:
        return begin, close
    depth = 1
    for brace in _BRACE.finditer(text, begin):
        if brace.group() == "{":
            depth += 1
        elif brace.group() == "}":
            depth -= 1
            if depth == 0:
                return begin, brace.start()
    if text[close - 1] == "\\" and text.find("{", begin, close) < 0:
        return begin, close - 1  # \boxed{185\}: a slip of the pen
    return None


def _all_boxes(text: str) -> list[tuple[int, int, int]]:
    """All balanced boxes as (start, content start, content end) in one pass, ordered by their end."""
    stack: list[tuple[int, int] | None] = []
    found: list[tuple[int, int, int]] = []
    for token in _OPENERS.finditer(text):
        piece = token.group()
        if piece == "{":
            stack.append(None)
        elif piece == "}":
            top = stack.pop() if stack else None
            if top:
                found.append((*top, token.start()))
        elif len(piece) > 2:
            stack.append((token.start(), token.end()))
    return found


def _last_marked(text: str, *, sentences: bool) -> str | None:
    """What follows the last "answer is", "Answer:" or "####", up to the end of its line or sentence."""
    end = len(text)
    hashes = text.rfind("####")
    words = _WORDS if text.isascii() else _WORDS + _MORE_WORDS
    for _ in range(16):
        at = max(text.rfind(word, 0, end) for word in words)
        if at < hashes or at < 0:
            break
        marked = _MARKED.match(text, at, at + 400)
        if marked:
            tail = text[marked.end() : marked.end() + MAX_TAIL].lstrip()
            if not tail and marked.end() < len(text):
                tail = text[marked.end() :].lstrip()[:MAX_TAIL]
            answer = _statement(tail, sentences=sentences)
            if answer:
                return answer
        end = at
    if hashes >= 0:
        line = text[hashes + 4 : hashes + 4 + MAX_TAIL].lstrip("# \t").split("\n", 1)[0]
        return line.strip().rstrip(".").strip("*") or None
    return None


def _statement(tail: str, *, sentences: bool) -> str:
    """The answer at the start of `tail`: its formula, or its first sentence."""
    first = _MATH.match(tail)
    if first:
        end = first.end()
        while more := _MORE_MATH.match(tail, end):
            following = _MATH.match(tail, more.end())
            if following is None:
                break
            end = following.end()
        if end != first.end():
            return tail[:end].strip()
        if not re.match(r"\s*[-+*/^=<>]", tail[end : end + 8]):
            return next(group for group in first.groups() if group is not None).strip()
    stop = _SENTENCE.search(tail)
    statement = (tail[: stop.start()] if stop else tail).strip().rstrip(".").strip("*_` ").strip()
    if sentences and len(re.findall(r"[A-Za-z]{2,}", statement)) > 2 and "\\" not in statement:
        numbers = list(_NUMBER.finditer(statement))
        if len(numbers) == 1:
            return numbers[0].group().strip()
    return statement


def _loose(text: str) -> Found | None:
    """The last bold text, formula or number of a text that marks no answer; nothing where it gives up."""
    tail = text[-MAX_TAIL:]
    if _REFUSAL.search(tail[-200:]):
        return None
    words = _NAMES.sub("", text) if len(text) <= 200 and "**" not in _POWER.sub("^", text) else None
    if words is not None and not (_PROSE.search(words) or ("$" in text and _MATH_IN_PROSE.search(text))):
        whole = text.strip()
        if whole:
            return Found(whole, "whole")
    candidates = [(match.start(), match.group(1), "bold") for match in _BOLD.finditer(tail)][-1:]
    for match in _MATH.finditer(tail):
        candidates.append((match.start(), next(g for g in match.groups() if g is not None), "math"))
    numbers = [match for match in _NUMBER.finditer(tail) if any(c.isdigit() for c in match.group()) and not _is_part(tail, match)]
    candidates = candidates[-2:]
    if candidates:
        start, answer, rung = max(candidates)
        if not numbers or numbers[-1].start() < start + len(answer) + 4 or rung == "bold":
            return Found(answer.strip(), rung)
    return Found(numbers[-1].group().strip(), "number") if numbers else None
