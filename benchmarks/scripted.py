r"""Rewrites as a script would do them, by another hand than `paraphrases.py` and written before the comparison was read.

    keeping:  capitals, lower case, LaTeX stripped, all sentences shuffled, another word for each word of a list, every number in
              words, units written otherwise, choices added, told as a wish, a sentence without numbers inside, a frame around
              it, articles dropped, Markdown, a number of the problem, characters of another script's punctuation, letters dropped
    changing: each number + 1, + 10, x 2, all numbers, the first and the last exchanged, one number in a text that is also
              rewritten, numbers and names

Every rewrite takes (text, chance) and gives a text, or None where it finds nothing to do.
"""

import random
import re

from paraphrases import Rewrite, in_words, is_formal, names

NUMBER = re.compile(r"(?<![\w.,\\{^_])\d+(?:,\d{3})*(?:\.\d+)?(?![\w]|[.,]\d|\^\\?circ)")
_WORDS_TABLE = """
    how many=what number of|how much=what amount of|bought=acquired|buys=acquires|sold=sold off|has=owns|had=owned
    |wants to=would like to
    |needs to=must|costs=is priced at|spent=used up|spends=uses up|each=every single|gave=handed over|gives=hands over
    |total=combined
    |altogether=in all|in total=altogether|more than=in excess of|makes=creates|made=created|children=youngsters|kids=children
    |friends=buddies|people=persons|house=residence|car=automobile|money=funds|works=is employed|earns=makes
    |find=work out|compute=work out|determine=find out|evaluate=find the value of|simplify=write in simplest form|suppose=assume
    |let=let us take|such that=so that|express your answer=state the result|the value of=what the value is of|positive=positive
    |after=following|before=prior to|start=begin|started=began|finish=complete|left=remaining|store=shop|school=academy
    |begins=starts
    |eats=consumes|ate=consumed|walks=goes on foot|runs=jogs|books=volumes|big=large|small=little|rest=remainder|same=identical
    |then=next|also=in addition|if=supposing|when=at the time|because=as|only=just|currently=at present|decides=makes up his mind
"""
WORDS: dict[str, str] = {old: new for old, _, new in (pair.strip().partition("=") for pair in _WORDS_TABLE.split("|"))}
UNITS = {
    "miles per hour": "mph", "kilometers": "km", "hours": "hrs", "minutes": "min", "pounds": "lbs", "feet": "ft", "inches": "in.",
    "seconds": "sec", "meters": "m", "ounces": "oz", "dollars": "USD", "percent": "%", "lbs": "pounds", "mph": "miles an hour",
    "gallons": "gal", "weeks": "wks",
}  # fmt: skip
_SAID = re.compile(
    r".*(?:teen|ty)\b|eleven|twelve|hundred|thousand|million|double|triple|thrice|third|fourth|fifth|quarter|twice"
)
INSERTED = (
    "It was a sunny day.",
    "Everyone was in a good mood.",
    "The weather was nice.",
    "This had been planned for a long time.",
    "Nobody was surprised by that.",
    "Note that nothing else changes.",
)
FRAMES = (
    "A student was given this problem by the teacher: «{}» Help the student to solve it.",
    "User: {}\nAssistant:",
    "### Instruction:\n{}\n\n### Response:\n",
    "I came across the following exercise and cannot solve it. {} Any help is welcome!",
    "[INST] {} [/INST]",
    "Task: {}\nThink it through before answering.",
)


def is_drawn(text: str) -> bool:
    return "[asy]" in text or "\\begin" in text


def capitals(text: str, chance: random.Random) -> str | None:
    return None if is_formal(text) else text.upper()


def lower_case(text: str, chance: random.Random) -> str | None:
    return None if is_formal(text) else text.lower()


def stripped(text: str, chance: random.Random) -> str | None:
    if is_drawn(text) or not is_formal(text):
        return None
    new = re.sub(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"(\1)/(\2)", text)
    new = re.sub(r"\\[dt]?frac(\d)(\d)", r"\1/\2", new)
    new = re.sub(r"\\(?:left|right|text|mathbf|overline|displaystyle|[,!;])(?![a-z])", "", new)
    return re.sub(r"[$\\{}]", "", new)


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.?!])(?<!Mr\.)(?<!Mrs\.)(?<!Ms\.)(?<!Dr\.)\s+(?=[A-Z\"])", text.strip())


def shuffled(text: str, chance: random.Random) -> str | None:
    parts = sentences(text)
    if len(parts) < 3 or is_formal(text):
        return None
    new = chance.sample(parts, len(parts))
    return " ".join(new) if new != parts else None


def other_words(text: str, chance: random.Random) -> str | None:
    pattern = re.compile(r"(?<![\\\w])(?:" + "|".join(sorted(WORDS, key=len, reverse=True)) + r")\b", re.IGNORECASE)
    new = pattern.sub(lambda m: WORDS[m[0].lower()].capitalize() if m[0][0].isupper() else WORDS[m[0].lower()], text)
    return new if new != text else None


def said(value: int) -> str:
    """Any number below a billion in words."""
    for size, name in ((10**6, "million"), (10**3, "thousand")):
        if value >= size:
            rest = f" {said(value % size)}" if value % size else ""
            return f"{said(value // size)} {name}{rest}"
    return in_words(value)


def all_in_words(text: str, chance: random.Random) -> str | None:
    if is_formal(text):
        return None

    def words(m: re.Match[str]) -> str:
        whole, _, part = m[0].replace(",", "").partition(".")
        point = f" point {' '.join(in_words(int(d)) for d in part)}" if part else ""
        return said(int(whole)) + point if len(whole) < 9 else m[0]

    new = re.sub(r"\$ ?(" + NUMBER.pattern + r")", r"\1 dollars", text)
    new = re.sub(r"(?<!/)" + NUMBER.pattern + r"(?!\s?/\s?\d)", words, new).replace("%", " percent")
    return new if new != text else None


def other_units(text: str, chance: random.Random) -> str | None:
    pattern = re.compile(r"(?<=\d )(?:" + "|".join(sorted(UNITS, key=len, reverse=True)) + r")\b")
    new = pattern.sub(lambda m: UNITS[m[0]], text)
    return new if new != text else None


def choices(text: str, chance: random.Random) -> str | None:
    start = chance.randrange(3, 90)
    values = [start, start + chance.randrange(1, 9), start * 2, start + 10]
    shape = chance.choice(
        [
            "\n(A) {} (B) {} (C) {} (D) {}",
            "\nA. {}\nB. {}\nC. {}\nD. {}",
            " A) {} B) {} C) {} D) {}",
            "\n- A: {}\n- B: {}\n- C: {}\n- D: {}",
        ]
    )
    return text + shape.format(*values)


def wish(text: str, chance: random.Random) -> str | None:
    parts = sentences(text)
    m = re.match(r"(How (?:many|much|long|far|old|big|fast)|What) (.+)\?$", parts[-1])
    if not m:
        return None
    start = chance.choice(["I would like to know", "Your task is to state", "Tell me"])
    return " ".join([*parts[:-1], f"{start} {m[1][0].lower()}{m[1][1:]} {m[2]}."])


def inserted(text: str, chance: random.Random) -> str | None:
    parts = sentences(text)
    place = chance.randrange(len(parts))
    return None if is_formal(text) else " ".join([*parts[:place], chance.choice(INSERTED), *parts[place:]])


def framed(text: str, chance: random.Random) -> str | None:
    return chance.choice(FRAMES).replace("{}", text)


def no_articles(text: str, chance: random.Random) -> str | None:
    new = re.sub(r"(?<![\\\w$])(?:the|a|an|of|that) (?=[a-z]{2})", "", text)
    return new if new != text else None


def markdown(text: str, chance: random.Random) -> str | None:
    parts = sentences(text)
    return chance.choice(["- " + "\n- ".join(parts), "## Question\n\n" + text, " ".join([*parts[:-1], f"**{parts[-1]}**"])])


def renumbered(text: str, chance: random.Random) -> str | None:
    n = chance.randrange(2, 60)
    return (
        chance.choice(
            [
                "Problem {}. ",
                "#{} ",
                "Ex. {}: ",
                "({}) ",
                "{}) ",
                "Q{}. ",
                "No. {} - ",
                "Problem {}.3\n",
                "Exercise {} (3 points). ",
                "{}.\n",
            ]
        ).format(n)
        + text
    )


def other_script(text: str, chance: random.Random) -> str | None:
    marks = chance.choice([{".": "。", "?": "？", ",": "，"}, {"'": "’", " - ": " – ", "?": " ?"}, {"?": "؟"}])
    new = text
    for old, mark in marks.items():
        new = re.sub(re.escape(old) + r"(?=\s|$)", mark, new) if old in ".?," else new.replace(old, mark)
    return new if new != text else None


def dropped(text: str, chance: random.Random) -> str | None:
    words = [m for m in re.finditer(r"(?<![\\\w$^{])[a-z]{6,}\b", text) if not _SAID.match(m[0])]
    if len(words) < 5:
        return None
    for m in sorted(chance.sample(words, 2), key=lambda m: -m.start()):
        i = m.start() + chance.randrange(2, len(m[0]) - 2)
        text = text[:i] + text[i + 1 :]
    return text


SCRIPTED: dict[str, Rewrite] = {
    "all in words": all_in_words, "other units": other_units, "other words": other_words, "LaTeX stripped": stripped,
    "shuffled": shuffled, "a wish": wish, "a sentence inside": inserted, "no articles": no_articles, "letters dropped": dropped,
    "lower case": lower_case, "capitals": capitals, "choices": choices, "other punctuation": other_script, "Markdown": markdown,
    "renumbered": renumbered, "framed": framed,
}  # fmt: skip


# -- another problem ------------------------------------------------------------------------------------------------------


def _written(value: str, new: float) -> str:
    return f"{new:,.0f}" if "," in value else f"{new:.10g}"


def _places(text: str) -> list[re.Match[str]]:
    return [] if "[asy]" in text else [m for m in NUMBER.finditer(text) if len(m[0]) < 9]


def moved(text: str, chance: random.Random, plus: float, times: float) -> str | None:
    places = _places(text)
    if not places:
        return None
    m = chance.choice(places)
    value = float(m[0].replace(",", ""))
    new = _written(m[0], value * times + plus)
    return text[: m.start()] + new + text[m.end() :] if float(new.replace(",", "")) != value else None


def all_moved(text: str, chance: random.Random) -> str | None:
    plus = chance.randrange(1, 8)
    new = NUMBER.sub(lambda m: _written(m[0], float(m[0].replace(",", "")) + plus), text)
    return new if new != text and "[asy]" not in text else None


def ends_exchanged(text: str, chance: random.Random) -> str | None:
    places = _places(text)
    if len(places) < 2 or is_formal(text) or places[0][0] == places[-1][0]:
        return None
    a, b = places[0], places[-1]
    return text[: a.start()] + b[0] + text[a.end() : b.start()] + a[0] + text[b.end() :]


def rewritten_too(text: str, chance: random.Random) -> str | None:
    new = moved(text, chance, chance.choice([1, 2, 5, 10]), 1)
    if new is None:
        return None
    for rewrite in chance.sample([*SCRIPTED.values()], 2):
        new = rewrite(new, chance) or new
    return new


def numbers_and_names(text: str, chance: random.Random) -> str | None:
    new = names(text, chance)
    return new and moved(moved(new, chance, 3, 1) or new, chance, 0, 2)


OTHERS: dict[str, Rewrite] = {
    "one number + 1": lambda text, chance: moved(text, chance, 1, 1),
    "one number + 10": lambda text, chance: moved(text, chance, 10, 1),
    "one number x 2": lambda text, chance: moved(text, chance, 0, 2),
    "all numbers": all_moved,
    "the first and the last exchanged": ends_exchanged,
    "one number, also rewritten": rewritten_too,
    "numbers and names": numbers_and_names,
}
