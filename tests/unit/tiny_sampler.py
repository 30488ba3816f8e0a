"""A policy that answers in the right form and is right now and then, with its tokenizer and sampler: made in a second."""

from functools import lru_cache

from headway.engine.engine import Engine
from headway.model.config import DecoderConfig
from headway.model.tokenizer import Tokenizer
from headway.model.transformer import Decoder, initialise
from headway.problems.prompt import boxed, messages
from headway.sample import Sampler
from headway.stage_config import OptimizerConfig
from headway.train.batching import Document, epochs
from headway.train.likelihood import Likelihood
from headway.train.optim import make_optimizer, update
from headway.types import Problem, Split
from headway.verify.judge import Verifier


def parities(count: int, split: Split = Split.TRAIN, first: int = 0) -> list[Problem]:
    """Is the number odd? Families by its last digit."""
    numbers = range(first, first + count)
    return [Problem.make("parities", f"last {i % 3}", f"is {i} odd", str(i % 2), split) for i in numbers]


@lru_cache
def tokenizer() -> Tokenizer:
    return Tokenizer.train([f"{problem.question} {boxed(problem.reference)}" for problem in parities(50)], 280)


@lru_cache
def trained_weights() -> Decoder:
    """A decoder that has seen some answers: it boxes a 0 or a 1, mostly, and ends."""
    words = tokenizer()
    model = initialise(DecoderConfig(words.size, 16, 1, 2, 1, 8, 24, max_positions=64), 0)
    documents = []
    for problem in parities(40):
        prompt = words.prompt_ids(messages(problem))
        documents.append(Document((*prompt, *words.encode(boxed(problem.reference)), words.stop_id), len(prompt)))
    optimizer = make_optimizer(model, OptimizerConfig(lr=0.02))
    objective = Likelihood(model, documents, lambda: epochs(40, 20, 0), 10_000)
    for step in range(18):
        for micros in objective.updates(step):
            for micro in micros:
                objective.loss(micro)[0].backward()
            update(optimizer, model, 0.02, 1.0)
    return model


def policy() -> Decoder:
    """A copy of it."""
    model = Decoder(trained_weights().config)
    model.load_state_dict(trained_weights().state_dict())
    return model


def sampler(verifier: Verifier, model: Decoder | None = None, seed: int = 0) -> Sampler:
    words = tokenizer()
    return Sampler(Engine(model or policy(), words.stop_ids, slots=32), words, verifier, "", seed)
