"""The draw of what the likeliest tokens do not hold, by the kernel in Triton's interpreter, against the sorted row."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from cuda_cases import interpreted, needs_interpreter
from kept_cases import ALMOST_ONE, USES, check_rest, check_same, hard_cut, hard_noise, hard_rows
from test_stepping import TAPES, Tape, noted

from headway.engine import truncation
from headway.engine.truncation import Cut, draw_kept

pytestmark = needs_interpreter

FOR_CARDS = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from headway.model.cuda import kept, launch
types = dict(noise="*fp64", top_k="*i64", top_p="*fp64", is_whole="*u8", tokens="*i64")
types |= dict.fromkeys(["probs", "min_p", "chosen", "entropies"], "*fp32")
sizes = dict(HAS_K=True, HAS_P=True, HAS_MIN=True, HAS_ENTROPIES=True, SIZE=4099, TILE=4096)
signature = {name: types.get(name, "constexpr") for name in kept._draw_rest.arg_names}
constants = {(kept._draw_rest.arg_names.index(name),): value for name, value in sizes.items()}
source = ASTSource(fn=kept._draw_rest, signature=signature, constexprs=constants)
for generation in (80, 90):
    made = triton.compile(source, target=GPUTarget("cuda", generation, 32), options=launch(8))
    print(any("add." in line and ".f64" in line for line in made.asm["ptx"].splitlines()))
"""


def kernel() -> ModuleType:
    interpreted()
    from headway.model.cuda import kept

    return kept


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("turn", [0, 1])
def test_rows_are_drawn_as_if_sorted(use: tuple[bool, bool, bool], turn: int) -> None:
    check_rest(kernel(), hard_rows(300), hard_noise(2 * USES.index(use) + turn), hard_cut(300, use, turn))


@pytest.mark.parametrize(("vocabulary", "use", "rows"), [
    (4099, (True, True, True), [0, 3, 4, 6, 7]), (4099, (False, True, False), [1, 3, 4, 5, 6]),
    (50_000, (True, True, True), [0, 8]), (50_000, (False, True, True), [3, 4]), (50_000, (True, False, False), [4, 6]),
])  # fmt: skip
def test_more_tokens_than_a_tile(vocabulary: int, use: tuple[bool, bool, bool], rows: list[int]) -> None:
    cut, noise = hard_cut(vocabulary, use, turn=1).of(torch.tensor(rows)), hard_noise(3)[rows]
    check_rest(kernel(), hard_rows(vocabulary)[rows], noise, cut)


def test_shares_that_are_exact() -> None:
    # A half in eighths, a half in 32nds. Top-p 5/8: the sums before the 32nds are 16/32, 17/32, 18/32, 19/32 < 20/32, so four of
    # them are kept, 5/8 in all. u = 0.8 is 1/2, which the eighths do not exceed: the first of the 32nds; below, the last eighth.
    probs = torch.zeros(4, 300)
    probs[:, [290, 7, 100, 30]], probs[:, 200:216] = 2.0**-3, 2.0**-5
    noise = torch.tensor([0.8, 0.8 - 2.0**-50, ALMOST_ONE, 0.0], dtype=torch.float64)
    tokens, chosen = torch.zeros(4, dtype=torch.int64), torch.zeros(4)
    top_p = torch.full((4, 1), 0.625, dtype=torch.float64)
    kernel().draw_rest(probs, noise, None, top_p, None, torch.zeros(4, dtype=torch.bool), tokens, chosen, None)
    assert tokens.tolist() == [200, 290, 203, 7]
    assert chosen.tolist() == pytest.approx([0.05, 0.2, 0.05, 0.2])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter
def test_rows_that_are_no_numbers_end_with_a_token() -> None:
    probs = torch.full((4, 300), torch.nan)
    probs[1] *= -1.0
    probs[2] = 0.0
    probs[3] = 1 / 300
    probs[3, 17] = torch.nan
    for cut in (hard_cut(300, (True, True, True)), hard_cut(300, (False, True, False))):
        tokens, chosen, entropies = torch.full((4,), -1), torch.zeros(4), torch.zeros(4)
        cut, noise = cut.of(torch.arange(4)), torch.full((4,), 0.5, dtype=torch.float64)
        is_whole = torch.zeros(4, dtype=torch.bool)
        kernel().draw_rest(probs, noise, cut.top_k, cut.top_p, cut.min_p, is_whole, tokens, chosen, entropies)
        assert ((tokens >= 0) & (tokens < 300)).all()


@pytest.mark.parametrize("use", [(False, True, False), (True, True, True), (False, False, True)])
def test_a_draw_asks_the_device_nothing(use: tuple[bool, bool, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU plays CUDA: a draw is noted as in a graph, and once more with other numbers; rows that are whole stay."""
    probs, cut = hard_rows(600), hard_cut(600, use, turn=1)
    cut = Cut(cut.top_k if cut.top_k is None else cut.top_k.clamp(max=25), cut.top_p, cut.min_p, 25 if use[0] else 0)
    noise = hard_noise(1)
    first, second = (draw_kept(probs, u, cut, wants_entropies=True) for u in (noise, noise.flip(0)))
    kept, whole = kernel(), list[torch.Tensor]()
    draw_rest = noted(kept.draw_rest)
    monkeypatch.setattr(kept, "draw_rest", lambda *args: whole.append(args[5].clone()) or draw_rest(*args))
    monkeypatch.setattr(truncation, "has_kernel", lambda _: True)
    tape = Tape()
    TAPES.append(tape)
    try:
        with tape:
            found = draw_kept(probs, noise, cut, wants_entropies=True)
    finally:
        TAPES.pop()
    check_same(found, first)
    [is_whole] = whole
    assert is_whole.any()
    assert not is_whole.all()
    noise.copy_(noise.flip(0).clone())
    tape.replay()
    check_same(found, second)


def test_it_compiles_for_cards(tmp_path: Path) -> None:
    """The types of a card's compiler are stricter than the interpreter's; and sums stay float64."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    made = subprocess.run([sys.executable, "-c", FOR_CARDS], capture_output=True, text=True, check=True, env=environment)
    assert made.stdout.split() == ["True", "True"]
