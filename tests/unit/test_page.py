"""The page: whole, self-contained, the same bytes each time, and deaf to whatever a rollout or a name tries to inject."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_run import STAGES, build

from headway.errors import RunError
from headway.report import charts, glossary
from headway.report.markup import amount, clean, clock, duration, escape, listed, p_value, percent, points, size
from headway.report.page import headline, page, write_page
from headway.report.tables import read_run
from headway.types import Funnel

PAYLOADS = (
    "<script>window.__xss=1</script>",
    "<img src=x onerror=window.__xss=1>",
    '"><svg onload=window.__xss=1>',
    "'><iframe src=javascript:alert(1)></iframe>",
    "</pre></details><script>window.__xss=1</script>",
    "</style><script>window.__xss=1</script>",
    "</title><script>window.__xss=1</script>",
    "<!--<script>",
    "]]><b>bold</b>",
    '<a href="javascript:window.__xss=1">x</a>',
    "<a href='https://evil.example/'>x</a>",
    '<link rel=stylesheet href="//evil.example/x.css">',
    '<base href="https://evil.example/">',
    '<meta http-equiv=refresh content="0;url=https://evil.example">',
    '<form action="https://evil.example"><input name=q>',
    '" onmouseover="window.__xss=1" x="',
    "' style='background:url(https://evil.example/p.png)'",
    "![x](https://evil.example/?q=1) {{7*7}} ${7*7}",
    "\\href{javascript:window.__xss=1}{x} \\boxed{<b>1</b>}",
    "&lt;script&gt; &#60;script&#62; \u2028\u202e\x1b[2J\x00\x07",
)

VOID = {"meta", "br", "link", "img", "input", "base"}
ALLOWED = """
    html head meta title style body header main footer section nav article figure figcaption h1 h2 h3 h4
    p a small strong span dl dt dd div table thead tbody tr th td details summary pre mark ul li output
    bdi code svg g rect line circle polyline text
"""


class Reader(HTMLParser):
    """Collects elements, ids and links, and complains about what is not nested."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.ids, self.attributes, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]

    def handle_endtag(self, tag):
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.words.append(data)

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return build(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a&lt;b&gt; onload=x"
    return build(folder, num_problems=40, payloads=PAYLOADS)


def harmless(text):
    """Parse a page and check that nothing in it can act or fetch; returns the reader."""
    reader = Reader(text)
    assert set(reader.tags) <= set(ALLOWED.split())
    for tag, name, value in reader.attributes:
        assert not name.startswith("on"), (tag, name, value)
        assert name not in ("src", "srcset", "action", "formaction", "xlink:href", "background"), (tag, name)
        if name == "href":
            assert (value or "").startswith("#"), value
        if name == "style":
            assert re.fullmatch(r"--share:[0-9.]+|text-align:center", value or ""), value
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert len(reader.ids) == len(set(reader.ids))
    return reader


def test_every_section_is_there_and_the_page_is_well_formed(run):
    reader = harmless(page(run))
    for name in ("headline", "staircase", "curves", "funnels", "holdings", "rollouts", "run", "words"):
        assert name in reader.ids
    words = "".join(reader.words)
    for word in (
        *STAGES,
        "Validation loss",
        "over k a problem",
        "chosen longer 42.0 %",
        "reference answer",
        "2,400 rollouts and 2,400 verdicts",
        "Problems whose rollouts disagree",
        "Resolved recipe",
        "Watch for",
        "headway show abc --run x",
    ):
        assert word in words
    links = {value[1:] for _, name, value in reader.attributes if name == "href"}
    assert links <= set(reader.ids), f"links to nowhere: {links - set(reader.ids)}"


def test_right_and_wrong_rollouts_of_every_stage_are_on_the_page(run):
    text = page(run)
    rollouts = text[text.index('id="rollouts"') : text.index('id="run"')]
    for stage in STAGES:
        marks = re.findall(rf'class="mark (\w+)"[^>]*>.</span><span class="stage">{stage}<', rollouts)
        assert "correct" in marks
        assert set(marks) - {"correct"}


def test_a_policy_forbids_everything_but_the_pages_own_style(run):
    policies = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page(run))
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"]


def test_nothing_is_fetched_and_no_script_is_in_the_page(run):
    text = page(run)
    assert "<script" not in text
    assert "://" not in text
    assert "data:" not in text.replace("img-src data:", "")


def test_the_same_folder_gives_the_same_bytes_and_no_leftover(run):
    path = write_page(run)
    first = path.read_bytes()
    assert path == run / "report.html"
    assert write_page(run).read_bytes() == first
    assert not list(run.glob("*.tmp*"))


def test_20_payloads_in_every_place_stay_text(attacked):
    text = page(attacked)
    reader = harmless(text)
    assert len(PAYLOADS) == 20
    words = "".join(reader.words)
    for payload in PAYLOADS:
        assert clean(payload) in words  # shown as it is
    for broken in ("<script", "<img", "<iframe", "<b>", "<!--<"):
        assert broken not in text
    assert not set(text) & set("\x00\x07\x1b\u202e\u2028")


def test_a_long_rollout_loses_its_middle_and_says_so(tmp_path):
    from headway.report.readings import Reading
    from headway.report.rollouts import rollout_section
    from headway.types import Outcome

    text = "start " + "x" * 50_000 + " end \\boxed{4}"
    reading = Reading("rl", "p", "f", "q", "4", text, Outcome.CORRECT, "4", "", "stop", 9, 0, "abc", 1, 1, "gained")
    section = rollout_section([reading], ["rl"])
    assert len(section) < 25_000
    assert "30,020 characters left out" in section  # 6 + 50,000 + 14 characters, 20,000 of them shown
    assert "start x" in section
    assert "<mark>\\boxed{4}</mark>" in section


def test_the_page_of_a_bare_run_says_what_is_missing(tmp_path):
    values = {"stages": [], "seed": 3, "recipe": "r", "peak_memory_bytes": 0}
    (tmp_path / "results.json").write_text(json.dumps(values))
    words = "".join(harmless(page(tmp_path)).words)
    for word in (
        "Nothing has been evaluated yet",
        "logged no steps",
        "no selection",
        "no table",
        "no judged evaluation rollouts",
    ):
        assert word in words
    (tmp_path / "results.json").unlink()
    with pytest.raises(RunError, match="missing"):
        write_page(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_the_headline_claims_what_the_tests_allow(run):
    lead, claim = headline(read_run(run))
    rows = read_run(run).stages
    assert percent(rows[-1].accuracy) in lead
    assert f"{rows[-1].num_problems} held-out problems" in lead
    better = [row.stage for row in rows if row.claim == "better"]
    assert f"better than the stage before: {listed(better)}" in claim
    assert "no visible difference: dpo" in claim


def test_the_staircase_draws_heights_by_accuracy(run):
    rows = read_run(run).stages
    drawing = charts.staircase(rows)
    treads = [float(y) for y in re.findall(r'class="tread" x1="[0-9.]+%" x2="[0-9.]+%" y1="([0-9.]+)"', drawing)]
    # the plot is 300 pixels from 0 (at 330) to 1 (at 30)
    assert treads == pytest.approx([330 - 300 * row.accuracy for row in rows], abs=0.06)
    bands = [float(h) for h in re.findall(r'class="band"[^>]* height="([0-9.]+)"', drawing)]
    assert bands == pytest.approx([300 * (row.ci_high - row.ci_low) for row in rows], abs=0.06)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.5, 1.0]),
        (0, 0, [-0.5, 0.0, 0.5]),
        (-21.3, -3.0, [-30.0, -20.0, -10.0, 0.0]),
        (1e-6, 7e-6, [0.0, 2e-6, 4e-6, 6e-6, 8e-6]),
        (1e9, 2.5e9, [1e9, 1.5e9, 2e9, 2.5e9]),
    ],
)
def test_ticks_are_round_and_enclose(low, high, expected):
    found = charts.ticks(low, high, 3)
    assert found == pytest.approx(expected)
    assert found[0] <= low <= high <= found[-1]


@pytest.mark.parametrize("values", [(1.0,), (2.0, 2.0), (0.0, 0.0, 0.0), (-5.0, 1e9), tuple(range(5000)), (1e-30, 2e-30)])
def test_any_curve_is_drawn_inside_its_box(values):
    series = charts.Series("x", tuple(float(i) for i in range(1, len(values) + 1)), tuple(map(float, values)))
    drawing = charts.curve([series])
    assert "nan" not in drawing
    for pair in " ".join(re.findall(r' points="([^"]+)"', drawing)).split():
        x, y = map(float, pair.split(","))
        assert 43.9 <= x <= 312.1
        assert 13.9 <= y <= 144.1
    assert len(drawing) < 40_000


def test_thinning_keeps_a_spike():
    values = [1.0] * 4000
    values[1234] = 50.0
    drawing = charts.curve([charts.Series("loss", tuple(map(float, range(4000))), tuple(values))])
    heights = [float(pair.split(",")[1]) for pair in " ".join(re.findall(r' points="([^"]+)"', drawing)).split()]
    assert min(heights) < 40  # the plot's upper edge is at 14, its lower at 144


def test_a_noisy_curve_is_smoothed_without_a_shift():
    assert charts.moving_mean([1.0, 2.0, 3.0, 4.0, 5.0], 3) == pytest.approx([1.5, 2.0, 3.0, 4.0, 4.5])
    assert charts.smoothing([float(i) for i in range(200)]) == 1
    assert charts.smoothing([float(i % 2) for i in range(200)]) == 11


def test_a_histogram_is_drawn_to_scale_and_never_by_zero():
    drawing = charts.bars([("a", 4), ("b", 2), ("c", 0)], "letters")
    assert re.findall(r' height="([0-9.]+)"', drawing) == ["86.0", "43.0", "0.0"]  # the plot is 86 units high
    assert "nan" not in charts.bars([], "none") + charts.bars([("a", 0)], "none")


def test_a_funnel_is_drawn_to_scale_and_never_by_zero():
    drawing = charts.funnel(Funnel("sft", 200, 50, {"wrong": 50, "long": 100, "none": 0}))
    assert re.findall(r'width="([0-9.]+)%" height="22">', drawing) == ["25.000", "50.000", "25.000"]
    assert "none" not in drawing
    assert "nan" not in charts.funnel(Funnel("empty", 0, 0))


def test_metrics_md_is_fresh_and_every_entry_is_whole():
    root = Path(__file__).resolve().parents[2]
    assert (root / "docs" / "metrics.md").read_text(encoding="utf-8") == glossary.document()
    for name, entry in glossary.ENTRIES.items():
        assert entry.name == name
        assert entry.title
        assert entry.meaning.endswith(".")
    assert len(glossary.ENTRIES) == sum(len(entries) for _, entries in glossary.SECTIONS)


def test_numbers_in_words():
    assert [percent(0.8731), percent(None), points(0.12), points(-0.0004), points(-0.051)] == [
        "87.3 %",
        "-",
        "+12.0",
        "0.0",
        "\u22125.1",
    ]
    assert [p_value(0.00001), p_value(0.0123), p_value(0.43), p_value(None)] == ["p < 0.001", "p = 0.012", "p = 0.43", "-"]
    assert [amount(v) for v in (0, 1234, 12_345, 3.2e6, 0.01234, 5e-7, -0.0002, None)] == [
        "0",
        "1,234",
        "12.3 k",
        "3.2 M",
        "0.01234",
        "5e-7",
        "-0.0002",
        "-",
    ]
    assert [duration(s) for s in (0.44, 59.7, 133, 3600, 90_000, None)] == ["0.4 s", "1 min", "2 min 13 s", "1 h", "1 d 1 h", "-"]
    assert [clock(s) for s in (0.4, 133, 3700, None)] == ["0:00", "2:13", "1:01:40", "-"]
    assert [size(3 * 2**30), size(512), listed([]), listed(["a"]), listed(["a", "b", "c"])] == [
        "3.0 GiB",
        "512 B",
        "",
        "a",
        "a, b and c",
    ]


def test_escape_keeps_text_readable_and_controls_visible():
    assert escape("a < b & 'c'") == "a &lt; b &amp; &#x27;c&#x27;"
    assert clean("x\x1b[31m\u202e\ud800\r\ny\tz") == "x\\x1b[31m\\u202e\\ud800\ny\tz"


def test_p_just_below_the_limit_does_not_read_as_if_above():
    assert p_value(0.0496) == "p = 0.050"  # three digits; the claim beside it is made from the exact value
