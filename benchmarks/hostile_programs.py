r"""Hostile programs and honest ones through the sandbox, one at a time: does anything get out, and is what comes out right?

    python benchmarks/hostile_programs.py [--seconds 0.5] [--memory-mb 1024] [--every 1]

Hostile: a folder of canaries (files with a secret, a module, a socket), a listening port and a variable of the environment are
laid out. After each program: no secret in its result, no file of the folder, of the working folder or of /tmp new, changed or
read, no connection, no process beside the sandbox's own, its time and the memory of all of them within the limits. Honest:
CPython (`python -I`, in a process of its own, our own programs only) says what each must come to, in three forms. Beyond:
honest ones of what the sandbox lacks must be called unsupported.
Prints one JSON line a family and a total; exit code 1 on any breach.
"""

import argparse
import ast
import contextlib
import hashlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

from honest_list import BEYOND, forms, honest
from hostile_list import hostile

from headway.verify.program import Ran, Sandbox, Status
from headway.verify.sandbox import MAX_VALUE, text_of
from headway.verify.workers import Pool

GRACE = 10.0  # seconds beside the wall-clock limit: a worker may have to start on a busy machine
DYING = 2.0  # seconds that a killed process may take to be gone


class Canaries:
    """What must not be touched. A context manager; `breaches()` says what was touched since it was last asked."""

    def __init__(self, folder: Path) -> None:
        self.token, self.folder = secrets.token_hex(8), folder / "canaries"
        self.work = folder / "work"
        self.secret, self.environment = f"secret-{secrets.token_hex(12)}", f"secret-{secrets.token_hex(12)}"
        for made in (self.folder, self.work):
            made.mkdir()
        self.file = self.folder / "canary.txt"
        self.file.write_text(self.secret)
        (self.folder / "canary_module.py").write_text(f"SECRET = {self.secret!r}\n")
        self.name = f"HEADWAY_CANARY_{self.token}"
        os.environ[self.name] = self.environment
        os.chdir(self.work)  # before the sandbox starts: it is where it would write to
        self.port, self.local = socket.socket(), socket.socket(socket.AF_UNIX)
        self.port.bind(("127.0.0.1", 0))
        self.local.bind(str(self.folder / "canary.socket"))
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind(("127.0.0.1", self.port.getsockname()[1]))
        for listening in (self.port, self.local):
            listening.listen(8)
        for one in (self.port, self.local, self.datagrams):
            one.setblocking(False)
        self._before = self._files()
        self.file.read_bytes()
        self.notices_reads = self.file.stat().st_atime != 1e9  # else mounted "noatime": reads show in results alone
        self._files()

    def close(self) -> None:
        for one in (self.port, self.local, self.datagrams):
            one.close()
        del os.environ[self.name]

    @property
    def places(self) -> dict[str, str]:
        """What fills in the hostile programs."""
        return {
            "FILE": str(self.file),
            "DIR": str(self.folder),
            "PORT": str(self.port.getsockname()[1]),
            "UNIX": str(self.folder / "canary.socket"),
            "TOKEN": self.token,
            "ENV": self.name,
        }

    def _files(self) -> dict[str, object]:
        """Every file of ours with its content, times and mode; of the folders that all may write to, what carries our token."""
        found: dict[str, object] = {}
        for path in sorted([*self.folder.rglob("*"), *self.work.rglob("*"), self.folder, self.work]):
            if path.is_file():
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                os.utime(path, (1e9, 1.1e9))  # a read would bring the first time up to date, mounted "relatime" or not
                found[str(path)] = (content, path.stat().st_mode, path.stat().st_size)
            else:
                found[str(path)] = path.stat().st_mode
        for public in {Path(tempfile.gettempdir()), Path("/tmp"), Path("/dev/shm"), Path.home()}:
            with contextlib.suppress(OSError):
                found |= {str(path): "left" for path in public.iterdir() if self.token in path.name}
        return found

    def breaches(self, text: str) -> list[str]:
        """What a program whose result holds `text` has touched."""
        found = [
            f"{path.name} was read" for path in self.folder.glob("canary*.*") if path.is_file() and path.stat().st_atime != 1e9
        ]
        found += [f"a secret of {name} in the result" for name, word in self._secrets() if word in text]
        after = self._files()
        found += [
            f"{path} is new or changed"
            for path in after.keys() | self._before.keys()
            if after.get(path) != self._before.get(path)
        ]
        self._before = after
        for one, name in ((self.port, "port"), (self.local, "local socket")):
            with contextlib.suppress(BlockingIOError):
                one.accept()[0].close()
                found.append(f"a connection to the {name}")
        with contextlib.suppress(BlockingIOError):
            self.datagrams.recv(1)
            found.append("a datagram")
        return found

    def _secrets(self) -> list[tuple[str, str]]:
        """The secrets, also as a program might dress them up."""
        dressed: list[tuple[str, str]] = []
        for name, word in (("the file", self.secret), ("the environment", self.environment)):
            plain = word.removeprefix("secret-")
            dressed += [
                (name, plain),
                (name, plain[::-1]),
                (name, plain.encode().hex()),
                (name, hashlib.sha256(word.encode()).hexdigest()),
            ]
        return dressed


def processes() -> dict[int, tuple[int, int, str, str]]:
    """Every process that lives: parent, session, state and name."""
    found: dict[int, tuple[int, int, str, str]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            head, _, rest = (entry / "stat").read_text().rpartition(")")
            fields = rest.split()
            found[int(entry.name)] = (int(fields[1]), int(fields[3]), fields[0], head.partition("(")[2])
    return found


class Household:
    """The sandbox's own processes, and what does not belong to them."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.sessions, self.peak_kb, self.before = pool, set[int](), 0, processes().keys()

    def strangers(self) -> list[str]:
        """Processes that are still there a moment later: one that was killed takes time to give its memory back."""
        found = self._strangers()
        end = time.monotonic() + DYING
        while found and time.monotonic() < end:
            time.sleep(0.02)
            found = self._strangers()
        return found

    def _strangers(self) -> list[str]:
        """Processes of the workers' sessions, or below our own process, that are neither a worker nor its one monty."""
        workers = set(self.pool.pids)
        self.sessions |= workers
        now = processes()
        ours = {pid for pid, (parent, session, _, _) in now.items() if session in self.sessions or parent == os.getpid()}
        ours -= self.before - workers
        found = []
        for pid in ours:
            parent, _, state, name = now[pid]
            if state != "Z" and pid not in workers and not (name == "monty" and parent in workers):
                found.append(f"process {pid} ({name}, {state}) is left running")
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    self.peak_kb = max(self.peak_kb, int(line.split()[1])) if line.startswith("VmHWM") else self.peak_kb
        return found


def attack(sandbox: Sandbox, canaries: Canaries, every: int) -> tuple[list[dict[str, object]], list[str]]:
    """Every hostile program: one row a family, and the breaches."""
    household, rows, breaches = Household(sandbox.pool), defaultdict(list), list[str]()
    sandbox.run(["1"])  # the workers start outside the clock
    for number, (family, source) in enumerate(hostile(canaries.places)):
        if number % every:
            continue
        start = time.monotonic()
        (ran,) = sandbox.run([source])
        wall = time.monotonic() - start
        found = canaries.breaches(f"{ran.value}\n{ran.reason}") + household.strangers()
        if wall > 5 * sandbox.pool.seconds + GRACE:
            found.append(f"it took {wall:.1f} s")
        if len(ran.value) > MAX_VALUE or len(ran.reason) > 100:
            found.append("its result is too long")
        if household.peak_kb > sandbox.pool.memory_mb * 1024:
            found.append(f"it took {household.peak_kb} KB")
        breaches += [f"{family} {source[:200]!r}: {breach}" for breach in found]
        rows[family].append((ran, wall, len(found)))
    sandbox.close()
    breaches += [f"after the end: {stranger}" for stranger in household.strangers()]
    lines: list[dict[str, object]] = [
        {
            "family": family,
            "programs": len(found),
            "breaches": sum(number for _, _, number in found),
            "slowest_s": round(max(wall for _, wall, _ in found), 2),
            "results": dict(Counter(str(ran.status) for ran, _, _ in found)),
        }
        for family, found in rows.items()
    ]
    return [*lines, {"peak_resident_mb": round(household.peak_kb / 1024)}], breaches


def cpython(body: str, expression: str) -> str:
    """What CPython says the answer is, as the sandbox writes an answer."""
    code = f"{body}\nprint(ascii(({expression})))"
    done = subprocess.run([sys.executable, "-I", "-"], input=code, capture_output=True, text=True, timeout=60, check=True)
    text = text_of(ast.literal_eval(done.stdout.strip()))
    assert text is not None, code
    return text


def compare(sandbox: Sandbox, every: int) -> tuple[list[dict[str, object]], list[str]]:
    """Every honest program in its three forms: one row a family, and the results that are not CPython's."""
    programs = list(honest())[::every]
    expected = [cpython(body, expression) for _, body, expression in programs]
    rows, wrong = defaultdict(Counter[str]), list[str]()
    for form in ("print", "value", "solution"):
        found = sandbox.run([forms(body, expression)[form] for _, body, expression in programs])
        for (family, body, expression), text, ran in zip(programs, expected, found, strict=True):
            agrees = ran.status is Status.OK and ran.value == text
            rows[family]["equal" if agrees else str(ran.status)] += 1
            if not agrees:
                wrong.append(f"{family} {form} {body!r} {expression!r}: {ran} is not {text!r}")
    return [{"family": f"honest: {family}", **counts} for family, counts in rows.items()], wrong


def beyond(sandbox: Sandbox) -> tuple[list[dict[str, object]], list[str]]:
    """The honest programs of what the sandbox lacks, and those that are called something else than unsupported."""
    found: list[tuple[str, Ran]] = list(zip(BEYOND, sandbox.run(BEYOND), strict=True))
    wrong = [f"beyond {source!r}: {ran}" for source, ran in found if ran.status is not Status.UNSUPPORTED]
    return [{"family": "beyond", "programs": len(found), "lacks": sorted({ran.reason for _, ran in found})}], wrong


def say(rows: list[dict[str, object]], faults: list[str]) -> None:
    """One line a family, and what is wrong on standard error."""
    for row in rows:
        print(json.dumps(row), flush=True)
    for fault in faults:
        print(fault, file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="processor time of a program")
    parser.add_argument("--memory-mb", type=int, default=1024)
    parser.add_argument("--every", type=int, default=1, help="only every so many-th program")
    given = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Canaries(Path(folder))) as canaries:
        with Sandbox(1, given.seconds, given.memory_mb) as sandbox:
            rows, breaches = attack(sandbox, canaries, given.every)
            say(rows, breaches)
            num_hostile = sum(int(str(row.get("programs", 0))) for row in rows)
            honest_rows, wrong = compare(sandbox, given.every)
            say(honest_rows, wrong)
            more, mistaken = beyond(sandbox)
            say(more, mistaken)
        os.chdir("/")
    equal = sum(int(str(row.get("equal", 0))) for row in honest_rows)
    total = {
        "reads_noticed": canaries.notices_reads,
        "hostile": num_hostile,
        "breaches": len(breaches),
        "honest": len(list(honest())[:: given.every]),
        "runs_equal_to_cpython": equal,
        "runs_not_equal": len(wrong),
        "beyond": len(BEYOND),
        "beyond_mistaken": len(mistaken),
        "wall_s": round(time.monotonic() - start, 1),
    }
    print(json.dumps(total))
    return 1 if breaches or wrong or mistaken else 0


if __name__ == "__main__":
    sys.exit(main())
