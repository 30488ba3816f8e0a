"""The rules of the house, read from the source: floors, sizes, names, and what is never called."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "headway"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
EVERYTHING = sorted(path for name in ("headway", "tests", "benchmarks", "docs") for path in (ROOT / name).rglob("*.py"))

# Who lives on which floor. A file imports lower floors and its own folder; the files of floor 0 may import each other.
FLOORS = {
    "__init__": 0, "types": 0, "errors": 0, "config": 0, "stage_config": 0,
    "objectives": 0, "recipe": 0, "durable": 0, "journal": 0, "lock": 0,
    "machine": 0, "ranks": 0, "watchdog": 0,
    "problems": 1, "verify": 1, "store": 1, "runs": 1, "checkpoints": 1, "endpoint": 1,
    "model": 2,
    "engine": 3, "train": 3,
    "start": 4, "sample": 4, "evaluate": 4, "teacher": 4, "tracking": 4,
    "stages": 5, "serve": 5, "curate": 5,
    "pipeline": 6, "report": 6, "chat": 6, "plan": 6,
    "cli": 7, "verbs": 7, "__main__": 8,
}  # fmt: skip
ACROSS = {
    ("runs", "checkpoints"),
    ("evaluate", "sample"),
    ("teacher", "sample"),
    ("pipeline", "report"),
    ("chat", "report"),
    ("plan", "report"),
    ("cli", "verbs"),
}  # who may import a neighbour of its own floor, never back
HEAVY = {"torch", "transformers", "safetensors", "tokenizers", "datasets"}  # never below floor 2
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}
FORBIDDEN_BASE = {PACKAGE / "stages" / "base.py"}  # "base" is forbidden, too, but here it is a stage's own name
MAX_LINES = 400
MAX_FUNCTION_LINES = 60
FORBIDDEN_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {
    "eval", "exec", "sympify", "parse_expr", "extractall", "torch.load", "yaml.load", "yaml.unsafe_load",
    "os.system", "os.popen", "signal.alarm", "signal.setitimer",
}  # fmt: skip
FORBIDDEN_KEYWORDS = {"trust_remote_code", "shell", "allow_pickle"}


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def unit(path: Path) -> str:
    """The part of the house that a file belongs to: its folder, or its own name at the top."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that the file imports anywhere, in full, with its line."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            if node.module == "headway":
                yield from ((f"headway.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module or "", node.lineno


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a called expression; "" where it is something else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def floor_mistakes(path: Path, name: str) -> list[str]:
    """The imports of a file of the part `name` that climb, or that cross to a neighbour."""
    mistakes = []
    for module, line in imports(path):
        if module.split(".")[0] != "headway":
            continue
        other = [*module.split("."), "__init__"][1]
        other = other if other in FLOORS else "__init__"  # `from headway import __version__`
        is_below = FLOORS[other] < FLOORS[name] or FLOORS[other] == FLOORS[name] == 0
        if not (is_below or other == name or (name, other) in ACROSS):
            mistakes.append(f"{path.name}:{line}: {name} (floor {FLOORS[name]}) imports {module} (floor {FLOORS[other]})")
    return mistakes


def call_mistakes(tree: ast.AST) -> list[str]:
    """The forbidden imports, calls and keywords below `tree`, by line."""
    mistakes = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            mistakes += [f"{node.lineno}: imports {name}" for name in names if name.split(".")[0] in FORBIDDEN_MODULES]
            mistakes += [f"{node.lineno}: imports {name}" for name in names if name in FORBIDDEN_CALLS]
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            is_eval_mode = name.endswith(".eval") and not node.args  # torch's Module.eval()
            if not is_eval_mode and {name, name.split(".")[-1]} & FORBIDDEN_CALLS:
                mistakes.append(f"{node.lineno}: calls {name}")
            for keyword in node.keywords:
                off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg in FORBIDDEN_KEYWORDS and not off:
                    mistakes.append(f"{node.lineno}: {name}({keyword.arg}=...)")
    return mistakes


def by_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_is_a_house():
    assert len(SOURCES) > 10
    assert PACKAGE / "types.py" in SOURCES
    assert Path(__file__) in TESTS


def test_every_part_has_its_floor():
    unknown = {unit(path) for path in SOURCES} - FLOORS.keys()
    assert not unknown, f"give these parts of headway/ a floor here and in CONTRIBUTING.md: {sorted(unknown)}"


@pytest.mark.parametrize("path", SOURCES, ids=by_name)
def test_imports_only_go_down(path):
    assert floor_mistakes(path, unit(path)) == []


@pytest.mark.parametrize("path", [path for path in SOURCES if FLOORS.get(unit(path), 9) <= 1], ids=by_name)
def test_the_two_lowest_floors_know_no_tensors(path):
    assert [module for module, _ in imports(path) if module.split(".")[0] in HEAVY - {"datasets"}] == []


def test_the_floor_test_sees_what_it_should(tmp_path):
    path = tmp_path / "some.py"
    path.write_text("def f():\n    from headway.engine.cache import KeyValues\nimport headway.errors\n")
    assert floor_mistakes(path, "model") == ["some.py:2: model (floor 2) imports headway.engine.cache (floor 3)"]
    assert floor_mistakes(path, "train") == ["some.py:2: train (floor 3) imports headway.engine.cache (floor 3)"]
    assert floor_mistakes(path, "engine") == []
    assert floor_mistakes(path, "stages") == []
    path.write_text("import headway.evaluate.metrics\nimport headway.sample\n")
    assert floor_mistakes(path, "sample") == ["some.py:1: sample (floor 4) imports headway.evaluate.metrics (floor 4)"]
    assert floor_mistakes(path, "evaluate") == []
    path.write_text("from headway import cli\nfrom headway import __version__\n")
    assert floor_mistakes(path, "pipeline") == ["some.py:1: pipeline (floor 6) imports headway.cli (floor 7)"]


@pytest.mark.parametrize("path", SOURCES, ids=by_name)
def test_files_are_short_and_say_what_they_are(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(parsed(path)), "a module's docstring says what the file does, and what it does not know"


@pytest.mark.parametrize("path", SOURCES, ids=by_name)
def test_functions_are_short(path):
    functions = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [
        (f.name, f.end_lineno - f.lineno + 1) for f in functions if f.end_lineno and f.end_lineno - f.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


@pytest.mark.parametrize("path", TESTS, ids=by_name)
def test_tests_say_what_they_are(path):
    assert ast.get_docstring(parsed(path))


def test_no_file_is_a_drawer_of_odds_and_ends():
    parts = [(path, part) for path in SOURCES for part in path.relative_to(ROOT).with_suffix("").parts]
    assert [path for path, part in parts if part in FORBIDDEN_NAMES] == []
    assert [path for path, part in parts if part == "base" and path not in FORBIDDEN_BASE] == []


@pytest.mark.parametrize("path", EVERYTHING, ids=by_name)
def test_nothing_dangerous_is_called(path):
    assert call_mistakes(parsed(path)) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.memory",
        "from sympy import sympify",
        "torch.load(p)",
        "torch.load(p, weights_only=True)",
        "eval('1')",
        "x = [exec(y) for y in z]",
        "sympy.parse_expr(t)",
        "tar.extractall(p)",
        "yaml.load(t)",
        "np.load(p, allow_pickle=True)",
        "AutoModel.from_pretrained(p, trust_remote_code=flag)",
        "subprocess.run(c, shell=True)",
        "os.system(c)",
        "signal.alarm(3)",
        "sympy.eval(t)",
    ],
)
def test_the_danger_test_sees(code):
    assert len(call_mistakes(ast.parse(code))) >= 1


@pytest.mark.parametrize("code", ["model.eval()", "self.model.eval()", "np.load(p, allow_pickle=False)", "json.load(f)"])
def test_the_danger_test_lets_pass(code):
    assert call_mistakes(ast.parse(code)) == []


def module_skips(tree: ast.Module) -> list[int]:
    """Lines at a module's top level that skip all of it: `pytestmark = skip…`, `pytest.skip(…)`, `importorskip(…)`."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        text = ast.unparse(node)
        if re.search(r"pytestmark\b.*\bskip", text) or re.search(r"\b(skip|importorskip)\(", text):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", TESTS, ids=by_name)
def test_no_test_file_is_skipped_as_a_whole(path):
    if path == Path(__file__):
        return
    assert module_skips(parsed(path)) == []


def test_the_skip_test_sees():
    assert module_skips(ast.parse("import pytest\npytestmark = pytest.mark.skip(reason='later')")) == [2]
    assert module_skips(ast.parse("torch = pytest.importorskip('torch')")) == [1]
    assert module_skips(ast.parse("if True:\n    pytest.skip('no', allow_module_level=True)")) == [1]
    assert module_skips(ast.parse("def test_a():\n    pytest.skip('here is fine')")) == []


@pytest.mark.parametrize("module", ["headway.types", "headway.errors", "headway.config", "headway.recipe", "headway.runs"])
def test_the_light_modules_load_nothing_heavy(module):
    assert loaded_by(f"import {module}") & {*HEAVY, "duckdb", "deltalake", "pyarrow", "numpy"} == set()


def test_help_loads_nothing_heavy():
    code = "import sys; sys.argv = ['headway', '--help']\nfrom headway.cli import main\ntry: main()\nexcept SystemExit: pass"
    assert loaded_by(code) & {*HEAVY, "duckdb", "deltalake", "pyarrow", "numpy", "sympy"} == set()


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after `code`."""
    tell = "\nimport sys; print('\\nLOADED', *{name.split('.')[0] for name in sys.modules})"
    output = subprocess.run([sys.executable, "-c", code + tell], capture_output=True, text=True, check=True).stdout
    return set(output.splitlines()[-1].split())
