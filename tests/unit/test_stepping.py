"""A decode step that is recorded and replayed: what a CUDA graph does, done on the CPU operator by operator.

A `Tape` notes every operator with the very tensors that it ran on, and a replay runs the same operators on the same tensors
again: numbers that Python held while it was noted are frozen, as in a graph. What a graph cannot hold (an operator that
needs to know on the host what a tensor contains, or that brings numbers from the host) is an error while it is noted. The kernels
over the tables and over what truncations keep have a form in PyTorch here; tests/unit/test_cuda_kernels.py, test_cuda_kept.py and
tests/gpu ask the kernels themselves.
"""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from test_engine import STOP, assert_same, model, naive, naive_logprobs, random_requests
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from headway.engine import engine as engine_module
from headway.engine import held, stepping, truncation
from headway.engine.cache import BlockCache
from headway.engine.engine import Engine
from headway.engine.held import HeldOptions, kind_of
from headway.engine.sampling import Drawn, Options, sample_key
from headway.engine.tabled import CudaDecoding
from headway.engine.transfer import Coming
from headway.errors import EngineError
from headway.model import cuda, fused, products
from headway.model.config import DecoderConfig
from headway.model.transformer import initialise
from headway.types import Request

FORBIDDEN = {"_local_scalar_dense", "nonzero", "is_nonzero", "item", "lift_fresh", "lift", "equal", "unique", "masked_select"}


class Table(NamedTuple):
    blocks: Tensor
    first: Tensor
    lengths: Tensor


Pool = tuple[Table, Tensor, Tensor]
TAPES: list["Tape"] = []  # those that are being noted


def attend(q: Tensor, k: Tensor, v: Tensor, own: Pool, shared: Pool, scale: float, window: int) -> Tensor:
    """What the kernel does, row by row."""
    out = torch.zeros_like(q)
    for row in range(len(q)):
        length = int(own[0].lengths[row])
        if not length:
            continue
        block = int(own[0].blocks[int(own[0].first[row]) + (length - 1) // 32])
        own[1][block, :, :, (length - 1) % 32] = k[row]
        own[2][block, :, (length - 1) % 32] = v[row]
        keys, values = [], []
        for table, pool_keys, pool_values in (shared, own):
            count, first = int(table.lengths[row]), int(table.first[row])
            chosen = table.blocks[first : first + -(-count // 32)].long()
            keys.append(pool_keys[chosen].permute(0, 3, 1, 2).flatten(0, 1)[:count])
            values.append(pool_values[chosen].permute(0, 2, 1, 3).flatten(0, 1)[:count])
        seen, heads = torch.cat(keys)[-window:], q.shape[1] // k.shape[1]
        scores = scale * torch.einsum("hd,thd->ht", q[row], seen.repeat_interleave(heads, 1))
        out[row] = torch.einsum("ht,thd->hd", scores.softmax(-1), torch.cat(values)[-window:].repeat_interleave(heads, 1))
    return out


def draw_rest(
    probs: Tensor,
    noise: Tensor,
    top_k: Any,
    top_p: Any,
    min_p: Any,
    is_whole: Tensor,
    tokens: Tensor,
    chosen: Tensor,
    entropies: Any,
) -> None:
    """What the kernel does, from sorted rows."""
    found = truncation._whole(probs, noise, truncation.Cut(top_k, top_p, min_p, 0), entropies is not None)
    for part, drawn in zip((tokens, chosen, entropies), found, strict=True):
        if part is not None:
            part.copy_(torch.where(is_whole, part, drawn))


def noted(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel as one entry of the tape, as it is one of a graph."""

    def note(*args: Any) -> Any:
        if not TAPES:
            return kernel(*args)
        with torch.utils._python_dispatch._disable_current_modes():
            out = kernel(*args)
        TAPES[-1].entries.append((kernel, args, {}, out))
        return out

    return note


class Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func._schema.name.split("::")[1] not in FORBIDDEN, f"{func} cannot be recorded"
        out = func(*args, **(kwargs or {}))
        self.entries.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, out in self.entries:
            for old, new in zip(tree_flatten(out)[0], tree_flatten(func(*args, **kwargs))[0], strict=True):
                if isinstance(old, Tensor) and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.copy_(new)


class Recorder:
    """Stands for `stepping.Recorder`; counts."""

    def __init__(self) -> None:
        self.recorded = self.replayed = self.forgotten = self.behind = 0

    def forget(self) -> None:
        self.forgotten += 1

    def record(self, run: Callable[[], Drawn | Tensor]) -> stepping.Recording:
        tape = Tape()
        TAPES.append(tape)
        try:
            with tape:
                outputs = run()
        finally:
            TAPES.pop()
        for part in [outputs] if isinstance(outputs, Tensor) else outputs:
            if part is not None:
                part.zero_()  # what a graph computes is there only once it was replayed
        self.recorded += 1
        self.behind += isinstance(outputs, Tensor)  # logits, which are drawn from behind the recording

        def replay() -> None:
            self.replayed += 1
            tape.replay()

        return stepping.Recording(outputs, replay)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    monkeypatch.setattr(cuda, "blocks", SimpleNamespace(Table=Table, attend=noted(attend)), raising=False)
    monkeypatch.setattr(cuda, "kept", SimpleNamespace(draw_rest=noted(draw_rest)), raising=False)
    monkeypatch.setattr(truncation, "_descending", lambda probs: probs.sort(dim=-1, descending=True).values)
    for module in (truncation, held):
        monkeypatch.setattr(module, "has_kernel", lambda _: True)
    monkeypatch.setattr(engine_module, "_AHEAD", {"cpu": 1})
    monkeypatch.setattr(products, "_IS_THERE", False)  # the kernels in C leave no trace on the tape, nor does torch's own norm
    monkeypatch.setattr(fused, "kernel", lambda: None)
    monkeypatch.setattr(F, "rms_norm", lambda x, _, weight, eps: x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight)

    def step_of(decoder: Any, cache: BlockCache) -> stepping.Step:
        return stepping.RecordedStep(decoder, CudaDecoding(cache, decoder.device), made)  # type: ignore[arg-type]

    monkeypatch.setattr("headway.engine.batch.step_of", step_of)
    return made


@pytest.mark.parametrize(("slots", "positions"), [(3, 0), (40, 0), (40, 500)])
def test_replayed_steps_draw_what_a_whole_forward_draws(slots: int, positions: int, recorder: Recorder) -> None:
    decoder, requests = model(), random_requests(11)
    engine = Engine(decoder, STOP, slots, positions)
    for request, completions in zip(requests, engine.generate(requests), strict=True):
        for key, completion in zip(request.keys, completions, strict=True):
            assert_same(completion, naive(decoder, request, key))
    assert recorder.replayed > 0.7 * engine.statistics.steps > 20
    assert recorder.recorded < 0.6 * engine.statistics.steps
    assert (engine.statistics.preemptions > 0) == (positions > 0)


def test_options_are_filled_in_before_a_replay_or_drawn_behind_it(recorder: Recorder) -> None:
    decoder = model()
    for settings in (
        [{"temperature": 1.0}, {"temperature": 0.0}, {"temperature": 0.7}],
        [{"temperature": 0.5}, {"temperature": 1.6, "wants_entropies": True}],
        [{"temperature": 0.0}],
        [{"temperature": 0.6, "top_p": 0.9}, {"top_k": 3}, {"temperature": 0.0}],
        [{"repetition_penalty": 1.3}, {"temperature": 1.2, "anneal": (0.3, 20)}],
    ):
        before = recorder.replayed
        requests = [
            replace(request, max_tokens=lasts, **settings[number % len(settings)])
            for number, (request, lasts) in enumerate(zip(random_requests(12, 5), [40, 40, 25, 33, 12], strict=True))
        ]
        for request, completions in zip(requests, Engine(decoder, [39]).generate(requests), strict=True):
            for key, completion in zip(request.keys, completions, strict=True):
                expected = naive(decoder, request, key, (39,))
                assert_same(completion, expected)
                assert completion.entropies == pytest.approx(expected.entropies if request.wants_entropies else (), abs=1e-4)
        assert recorder.replayed > before + 10


@pytest.mark.parametrize(
    "settings",
    [
        [{"top_p": 0.9}, {"top_p": 0.4, "temperature": 0.7}, {"top_p": 0.7}],
        [{"top_k": 5, "wants_entropies": True}, {}, {"min_p": 0.1, "temperature": 1.5}, {"top_p": 0.8}],
        [{"top_k": 20, "top_p": 0.8}, {"temperature": 0.0}, {"top_k": 3, "min_p": 0.3}],
        [{"top_k": 70, "top_p": 0.8}, {"temperature": 1.3}],
    ],
)
def test_truncated_rows_are_drawn_within_a_recording(settings: list[dict[str, Any]], recorder: Recorder) -> None:
    """Of 300 tokens; samples come and go, so a recording draws by other truncations than those that it was made with.

    The weights are such that the likeliest tokens hold the set of some rows and not that of others.
    """
    decoder = initialise(DecoderConfig(300, 24, 2, 4, 2, 6, 32, max_positions=200), 1)
    requests = [
        replace(request, max_tokens=lasts, **settings[number % len(settings)])
        for number, (request, lasts) in enumerate(zip(random_requests(15), [25, 30, 12, 30, 17, 30, 22, 9, 30], strict=True))
    ]
    engine = Engine(decoder, [299], 12)
    for request, completions in zip(requests, engine.generate(requests), strict=True):
        for key, completion in zip(request.keys, completions, strict=True):
            expected = naive(decoder, request, key, (299,))
            assert_same(completion, expected)
            assert completion.entropies == pytest.approx(expected.entropies if request.wants_entropies else (), abs=1e-4)
    assert recorder.behind == 0
    assert recorder.replayed > 0.4 * engine.statistics.steps > 10


def test_options_that_lie_elsewhere_are_recorded_anew(recorder: Recorder) -> None:
    """More truncated rows than there is room for move the held ones, while ids have had their room since the first request."""
    decoder = initialise(DecoderConfig(300, 24, 2, 4, 2, 6, 32, max_positions=200), 1)
    session = Engine(decoder, [299], 24).session(24, lambda samples: None)
    completions: dict[tuple[int, int], Any] = {}
    requests = [
        Request((5, number), tuple(sample_key(number, index) for index in range(count)), 9, **cut)
        for number, (count, cut) in enumerate([(20, {}), (2, {"top_p": 0.9}), (20, {"top_p": 0.5}), (2, {"top_p": 0.1})])
    ]
    for number, request in enumerate(requests):
        session.add(number, request)
        with torch.inference_mode():
            while session.step():
                pass
        completions |= {(number, index): completion for _, index, completion in session.collect()}
    for (number, index), completion in completions.items():
        assert_same(completion, naive(decoder, requests[number], requests[number].keys[index], (299,)))
    assert len(completions) == 44
    assert recorder.behind == 0


def options(*requests: dict[str, Any]) -> Options:
    return Options.of([(Request((0,), (0,), 1, **one), ()) for one in requests], 5000)


def test_what_options_are_drawn_by_one_recording(recorder: Recorder) -> None:
    device = torch.device("cpu")

    def kind(*requests: dict[str, Any]) -> held.Kind:
        return kind_of(options(*requests), 5000, device)

    assert kind({"top_k": 3, "top_p": 0.9}) == kind({"top_k": 7, "top_p": 0.2})
    others = [{"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1}, {"top_k": 8}, {"top_k": 40}, {"top_k": 70}, {"top_k": 300}, {}]
    assert len({kind(one) for one in others}) == len(others)  # by parts, and by the tokens that are looked at
    some = [kind(*[{"top_p": 0.9}] * cuts, *[{}] * (40 - cuts)) for cuts in (16, 17, 18, 40)]
    assert some[1] == some[2]  # 17 are rounded up to 18
    assert len(set(some)) == 3
    assert kind({"top_p": 0.9, "repetition_penalty": 1.3}) == kind({"top_p": 0.9, "anneal": (0.3, 20)}) == ()


def test_without_the_kernel_truncated_rows_are_drawn_behind_a_recording() -> None:
    assert kind_of(options({"top_p": 0.9}), 5000, torch.device("cpu")) == ()
    assert kind_of(options({"temperature": 0.9}), 5000, torch.device("cpu")) != ()


def test_rows_beyond_the_batch_are_valid_whatever_was_held_before(recorder: Recorder) -> None:
    """The fourth row of a recording, where the batch has three, keeps one token; of 17 truncated rows the first comes again."""
    steady = HeldOptions(torch.device("cpu"))
    all_cut = options({"top_k": 40, "top_p": 0.9, "min_p": 0.1}, {"top_p": 0.8, "temperature": 0.5}, {"top_k": 9})
    for _ in range(2):
        steady.hold(all_cut, 4)
        found = steady.at(all_cut, 4)
        assert found.cut is not None
        assert found.cut_rows is None
        assert found.scale is not None
        assert found.scale.squeeze(1).tolist() == [1.0, 2.0, 1.0, 1.0]
        parts = (found.cut.top_k, found.cut.top_p, found.cut.min_p)
        assert [part.squeeze(1).tolist() for part in parts if part is not None] == [
            [40, 5000, 9, 1], [0.9, 0.8, 1.0, 1e-9], pytest.approx([0.1, 0.0, 0.0, 1.0])
        ]  # fmt: skip
        some_cut = options(*[{}] * 3, *[{"top_k": number} for number in range(2, 19)])
        steady.hold(some_cut, 20)
        found = steady.at(some_cut, 20)
        assert found.cut is not None
        assert found.cut.top_k is not None
        assert found.cut_rows is not None
        assert found.cut_rows.tolist() == [*range(3, 20), 3]
        assert found.cut.top_k.squeeze(1).tolist() == [*range(2, 19), 2]
    moves = steady.moves
    steady.hold(all_cut, 4)
    assert steady.moves == moves  # there is room


@pytest.mark.parametrize("windows", [(9, 0), (40, 40)])
def test_windows(windows: tuple[int, int], recorder: Recorder) -> None:
    decoder = model()
    object.__setattr__(decoder.config, "windows", windows)
    requests = random_requests(13, 6)
    for request, completions in zip(requests, Engine(decoder, STOP).generate(requests), strict=True):
        for key, completion in zip(request.keys, completions, strict=True):
            assert_same(completion, naive(decoder, request, key))
    assert recorder.replayed > 20


def test_a_recording_is_of_one_policy(recorder: Recorder) -> None:
    """A session that mixes policies goes on with the new weights, in a new recording."""
    decoder = model()
    engine = Engine(decoder, [40])  # an id that is never drawn
    request = Request((5, 6), tuple(sample_key(3, index) for index in range(4)), 30)
    session = engine.session(4, lambda samples: None, mixes_versions=True)
    session.add(0, request)
    with torch.inference_mode():
        for _ in range(10):
            session.step()
    recorded = recorder.recorded
    assert recorder.replayed > 3
    with torch.no_grad():
        decoder.norm.weight.mul_(0.5)
    with torch.inference_mode():
        while session.step():
            pass
    assert recorder.recorded == recorded + 1
    completions = {index: completion for _, index, completion in session.collect()}
    for mixed in completions.values():
        assert len(mixed.versions) == 2
        ids = torch.tensor([*request.prompt_ids, *mixed.token_ids])
        new = naive_logprobs(decoder, ids, len(request.prompt_ids))
        with torch.no_grad():
            decoder.norm.weight.mul_(2.0)
        old = naive_logprobs(decoder, ids, len(request.prompt_ids))
        with torch.no_grad():
            decoder.norm.weight.mul_(0.5)
        found = torch.tensor(mixed.logprobs)  # the last norm leaves no trace in the cache
        is_old = (found - old).abs() < 1e-4
        is_new = (found - new).abs() < 1e-4
        changed = int((~is_old).int().argmax())
        assert changed > 3
        assert is_old[:changed].all()
        assert is_new[changed:].all()
    assert len(completions) == 4


def test_a_step_that_asks_the_device_cannot_be_recorded() -> None:
    with pytest.raises(AssertionError, match="cannot be recorded"):
        Recorder().record(lambda: torch.ones(3).nonzero())
    with pytest.raises(AssertionError, match="cannot be recorded"):
        Recorder().record(lambda: torch.ones(1) * float(torch.ones(1)))


def test_the_host_reads_a_step_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is asked for before what the one before drew is read, as long as the batch stays."""
    said: list[str] = []
    read, step = Coming.read, stepping.Step.__call__
    monkeypatch.setattr(engine_module, "_AHEAD", {"cpu": 1})
    monkeypatch.setattr(Coming, "read", lambda self: said.append("read") or read(self))
    monkeypatch.setattr(stepping.Step, "__call__", lambda self, *args: said.append("step") or step(self, *args))
    [[found]] = Engine(model(), [39]).generate([Request((5, 6), (7,), 8)])
    assert len(found.token_ids) == 8
    # the prompt's token, then seven steps; the last two are read together, for the sample is at its limit
    assert said == ["step", "read"] * 7 + ["read"]


def test_the_cache_refuses_as_ever(recorder: Recorder) -> None:
    with pytest.raises(EngineError, match="do not fit"):
        Engine(model(), STOP, positions=64).generate([Request((1,) * 70, (1,), 20)])
