"""The policy as a recipe starts it: its device, its shape, its tokenizer, its weights, and the engine that samples from it.

    recipe.model  --a checkpoint-->  tokenizer and weights as they are shipped
                  --none--------->   a tokenizer made of the problems, random weights of the recipe's shape

It does not know stages.
"""

from __future__ import annotations

import torch

from headway import ranks
from headway.config import EngineConfig, Recipe
from headway.engine.cache import bytes_per_position
from headway.engine.engine import Engine
from headway.errors import CheckpointError, ConfigError
from headway.model.checkpoint import load_decoder, read_extra
from headway.model.config import DecoderConfig
from headway.model.device import device_named
from headway.model.precision import compute_dtype
from headway.model.tokenizer import Tokenizer
from headway.model.transformer import Decoder, initialise
from headway.runs import Run, write_folder_atomic
from headway.store.queries import training_problems
from headway.store.store import Store
from headway.train.processes import local_rank

NEW_POSITIONS = 1024  # of a new decoder, where the recipe does not say


def device_of(recipe: Recipe) -> torch.device:
    """The recipe's device; "auto" takes CUDA, else the CPU. Raises ConfigError where it is not there."""
    device = device_named(recipe.device)
    if device.type == "mps" and ranks.size() > 1:
        raise ConfigError("'device' = 'mps': one process has it alone; start it without torchrun, or --set device=cpu")
    if device.type != "cuda" or ranks.size() == 1:
        return device
    if local_rank() >= torch.cuda.device_count():
        raise ConfigError(
            f"{local_rank() + 1} or more ranks on this machine, which has {torch.cuda.device_count()} GPUs: one a rank is needed"
        )
    return torch.device("cuda", local_rank())


def shape_of(recipe: Recipe, vocabulary: int) -> DecoderConfig:
    """The shape of a new decoder. Raises ConfigError where its width does not divide into heads."""
    source = recipe.model
    if source.width % source.heads or source.heads % source.kv_heads:
        raise ConfigError(
            f"'model': width {source.width} must divide into heads {source.heads}, and heads into kv_heads {source.kv_heads}"
        )
    return DecoderConfig(
        vocab_size=vocabulary,
        width=source.width,
        layers=source.layers,
        heads=source.heads,
        kv_heads=source.kv_heads,
        head_dim=source.width // source.heads,
        mlp_width=source.mlp_width,
        rope_theta=source.rope_theta,
        max_positions=source.max_positions or NEW_POSITIONS,
    )


@ranks.by_first
def make_tokenizer(run: Run, store: Store) -> None:
    """Train the tokenizer on the training questions, once, and keep it in the run's folder."""
    recipe, folder = run.recipe, run.folder / "tokenizer"
    if not folder.exists():
        problems = training_problems(store).rows
        texts = [f"{p.question}\n{recipe.problems.instruction}\n\\boxed{{{p.reference}}}" for p in problems]
        trained = Tokenizer.train(texts, recipe.model.vocabulary)
        with write_folder_atomic(folder, run.fingerprint) as new:
            trained.save(new)


def start_policy(run: Run, device: torch.device) -> tuple[Tokenizer, Decoder]:
    """The tokenizer, and the weights that the recipe starts from."""
    recipe, source = run.recipe, run.recipe.model
    if source.checkpoint:
        tokenizer = Tokenizer.load(source.checkpoint, source.gguf_file)
        positions = source.max_positions
        model = load_decoder(source.checkpoint, gguf_file=source.gguf_file, device=device, max_positions=positions)
        tokenizer.check_fits(model.config.vocab_size)
        _check_tokenizer(source.checkpoint, tokenizer)
    else:
        tokenizer = Tokenizer.load(run.check_tokenizer())
        model = initialise(shape_of(recipe, tokenizer.size), recipe.seed).to(device)
    return tokenizer, model


def _check_tokenizer(checkpoint: str, tokenizer: Tokenizer) -> None:
    """Raise CheckpointError where a checkpoint of ours lies beside another tokenizer than it was trained with."""
    trained = read_extra(checkpoint).get("tokenizer", tokenizer.fingerprint)
    if trained != tokenizer.fingerprint:
        raise CheckpointError(
            f"{checkpoint}: its weights were trained with another tokenizer ({trained}) than the one beside them "
            f"({tokenizer.fingerprint}); put the tokenizer's own files back"
        )


def engine_of(config: EngineConfig, model: Decoder, tokenizer: Tokenizer) -> Engine:
    """The sampler's engine, within what the recipe gives it of the machine."""
    position = bytes_per_position(model.config, compute_dtype(model))
    positions = max(1, int(config.cache_gb * 1e9) // position) if config.cache_gb else config.cache_positions
    return Engine(model, tokenizer.stop_ids, config.slots, positions, config.prefill_tokens, tokenizer.decode)
