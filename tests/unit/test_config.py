"""Recipes: what parses, what overrides do, and the one line that each mistake gets."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from headway.config import STAGES
from headway.errors import ConfigError
from headway.recipe import load_recipe, parse_recipe
from headway.types import Split

RECIPES = Path(__file__).parents[2] / "recipes"

TEXT = """
name = "small"
[[problems.sources]]
family = "chain_sum"
count = 10
[[problems.sources]]
data = "held.jsonl"
split = "heldout"
[base]
epochs = 2
[rl]
steps = 5
optimizer.lr = 3e-4
"""


def write(folder: Path, text: str = TEXT) -> Path:
    path = folder / "small.toml"
    path.write_text(text, encoding="utf-8")
    return path


def message_of(folder: Path, text: str = TEXT, *overrides: str) -> str:
    """The error of a wrong recipe; one line always."""
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(folder, text), overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_recipe_parses_with_its_defaults(tmp_path):
    recipe = load_recipe(write(tmp_path))
    assert recipe.stages == ("base", "rl")
    assert recipe.problems.sources[1].split is Split.HELDOUT
    assert recipe.rl is not None
    assert (recipe.rl.steps, recipe.rl.optimizer.lr, recipe.rl.clip_high) == (5, 3e-4, 0.28)
    assert recipe.midtrain is None


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.name)
def test_every_shipped_recipe_parses(path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert recipe.stages


def test_stages_are_in_their_fixed_order_whatever_the_file_says(tmp_path):
    recipe = load_recipe(write(tmp_path, TEXT + "[sft]\n[dpo]\n[midtrain]\n"))
    assert recipe.stages == STAGES == ("base", "midtrain", "sft", "dpo", "rl")


def test_a_recipe_is_frozen(tmp_path):
    recipe = load_recipe(write(tmp_path))
    with pytest.raises(ValidationError, match="frozen"):
        recipe.seed = 3


def test_a_recipe_survives_its_own_json(tmp_path):
    recipe = load_recipe(write(tmp_path))
    assert parse_recipe(recipe.model_dump(mode="json"), "recipe.json") == recipe


def test_overrides_reach_values_sections_and_items(tmp_path):
    overrides = ["seed=7", "rl.steps=20", "problems.sources.0.count=3", "sft.epochs=4", "name=other", 'device="cpu"']
    recipe = load_recipe(write(tmp_path), overrides)
    assert (recipe.seed, recipe.name, recipe.device) == (7, "other", "cpu")
    assert recipe.rl is not None
    assert recipe.rl.steps == 20
    assert recipe.problems.sources[0].count == 3
    assert recipe.stages == ("base", "sft", "rl")
    assert recipe.sft is not None
    assert recipe.sft.epochs == 4


def test_the_last_override_of_a_key_wins(tmp_path):
    assert load_recipe(write(tmp_path), ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("addition", "wrong", "nearest"),
    [
        ("[midtrian]\n", "'midtrian'", "'midtrain'"),
        ("[sft]\nepoch = 3\n", "'sft.epoch'", "'sft.epochs'"),
        ("[sft.optimizer]\nweight_decy = 3\n", "'sft.optimizer.weight_decy'", "'sft.optimizer.weight_decay'"),
        ("[[problems.sources]]\nfamly = 'x'\n", "'problems.sources.2.famly'", "'problems.sources.2.family'"),
        ("[evaluate]\nsample = 4\n", "'evaluate.sample'", "'evaluate.samples'"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path, addition, wrong, nearest):
    message = message_of(tmp_path, TEXT + addition)
    assert f"unknown key {wrong}" in message
    assert message.endswith(f"the nearest key is {nearest}")
    assert "small.toml" in message


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("rl.steps=0", ("'rl.steps' = 0", "greater than or equal to 1")),
        ("rl.steps=many", ("'rl.steps' = 'many'", "integer")),
        ("rl.steps=", ("'rl.steps' = ''", "integer")),
        ("rl.loss_level=word", ("'rl.loss_level' = 'word'", "'token', 'sequence', 'sequence_sum' or 'constant'")),
        ("rl.group_size=1", ("'rl.group_size' = 1", "greater than or equal to 2")),
        ("rl.optimizer.lr=inf", ("'rl.optimizer.lr' = inf", "finite")),
        ("evaluate.top_p=1.5", ("'evaluate.top_p' = 1.5", "less than or equal to 1")),
        ("device=tpu", ("'device' = 'tpu'", "'cpu'")),
        ("name=../up", ("'name' = '../up'", "pattern")),
        ("problems.sources.0.split=test", ("'problems.sources.0.split' = 'test'", "'heldout'")),
        ("problems.sources.0.data=x.jsonl", ("problems.sources.0:", "either a `family` or a `data`")),
        ("problems.sources.0.count=0", ("problems.sources.0:", "needs a `count`")),
        ("problems.sources=[]", ("'problems.sources'", "at least 1 item")),
        ("model.checkpoint=some/model", ("either a `checkpoint` or a [base] stage",)),
        ("rl.pool=mixed", ("rl.pool = 'mixed'", "`dpo.own_problems`")),
        ("rl.pool=easy", ("'rl.pool'", "'unsolved'")),
        ("base.own_sources=true", ("base.own_sources", "`base_only = true`")),
    ],
)
def test_a_bad_value_names_its_key_and_what_would_be_right(tmp_path, override, parts):
    message = message_of(tmp_path, TEXT, override)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("seed", "--set takes key=value, not 'seed'"),
        ("=3", "--set takes key=value"),
        ("name.low=3", "'name' is a single value, it has no 'low'"),
        ("name.low.er=3", "nothing below a single value"),
        ("problems.sources.5.count=3", "'5' is not one of the items 0 to 1"),
        ("problems.sources.².count=3", "'²' is not one of the items 0 to 1"),
        ("problems.sources.first=3", "'first' is not one of the items"),
        ("rl.stps=3", "the nearest key is 'rl.steps'"),
    ],
)
def test_a_bad_override_says_what_is_wrong(tmp_path, override, part):
    assert part in message_of(tmp_path, TEXT, override)


def test_a_recipe_without_stages_or_problems_or_name_is_refused(tmp_path):
    sources = "[[problems.sources]]\nfamily = 'chain_sum'\ncount = 1\n"
    assert "at least one stage section" in message_of(tmp_path, "name = 'a'\n" + sources)
    assert "'problems' is missing" in message_of(tmp_path, "name = 'a'\n[base]\n")
    assert "'name' is missing" in message_of(tmp_path, "[base]\n" + sources)


def test_a_model_needs_an_origin(tmp_path):
    text = "name = 'a'\n[[problems.sources]]\nfamily = 'chain_sum'\ncount = 1\n[sft]\n"
    assert "either a `checkpoint` or a [base] stage" in message_of(tmp_path, text)


def test_unreadable_recipes_are_one_line(tmp_path):
    with pytest.raises(ConfigError, match="no recipe at"):
        load_recipe(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="cannot read the recipe"):
        load_recipe(tmp_path)
    assert "is not TOML" in message_of(tmp_path, "name = ")
    (tmp_path / "latin.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigError, match="cannot read the recipe"):
        load_recipe(tmp_path / "latin.toml")


def test_a_long_wrong_value_is_cut_in_the_message(tmp_path):
    assert len(message_of(tmp_path, TEXT, f"rl.steps={'x' * 10_000}")) < 400


def test_a_recipe_extends_another(tmp_path):
    (tmp_path / "whole.toml").write_text(
        'name = "whole"\n[[problems.sources]]\nfamily = "chain_sum"\ncount = 3\n[base]\nepochs = 2\nseq_len = 64\n[rl]\n'
    )
    (tmp_path / "part.toml").write_text('extends = "whole.toml"\nwithout = ["rl"]\nname = "part"\n[base]\nepochs = 3\n')
    part = load_recipe(tmp_path / "part.toml")
    assert part.name == "part"
    assert part.stages == ("base",)
    assert part.base is not None
    assert (part.base.epochs, part.base.seq_len) == (3, 64)  # one key changed, its neighbour kept


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "none.toml"', "no recipe at"),
        ('extends = "self.toml"', "extends"),
        ('without = ["rl"]', "extends"),
        ('extends = "whole.toml"\nwithout = ["rll"]', "'rll' is none"),
    ],
)
def test_a_wrong_extends_is_one_line(tmp_path, text, message):
    (tmp_path / "whole.toml").write_text('name = "whole"\n[rl]\nsteps = 5\n')
    (tmp_path / "self.toml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(tmp_path / "self.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sft.balance=length", "`balance` needs `max_examples`"),
        ("dpo.max_length_ratio=0.5", "1 or more, or 0 for none"),
        ("dpo={loss='ipo', label_smoothing=0.1}", "dpo: `label_smoothing` belongs to the losses"),
        ("dpo={loss='hinge', label_smoothing=0.1}", 'not to `loss` = "hinge"'),
        ("dpo={loss='robust', label_smoothing=0.0}", '`loss` = "robust" needs a `label_smoothing` above 0'),
        ("dpo={loss='ipo', length_normalised=true}", "leave `length_normalised` out"),
        ("dpo.loss=kto", "'dpo.loss' = 'kto'"),
        ("dpo.label_smoothing=0.5", "'dpo.label_smoothing' = 0.5"),
    ],
)
def test_a_setting_that_could_not_act_is_refused(tmp_path, override, message):
    assert message in message_of(tmp_path, TEXT, override)


def test_limo_takes_the_place_of_the_papers_subset_and_is_not_mixed_with_it(tmp_path):
    text = TEXT + "\n[sft.limo]\ntries = 8\n"
    (tmp_path / "limo.toml").write_text(text)
    assert load_recipe(tmp_path / "limo.toml", ["sft.max_examples=50"]).sft.limo.tries == 8
    assert "`per_problem` is a setting of the paper's subset" in message_of(tmp_path, text, "sft.per_problem=2")


def test_a_loss_brings_its_published_defaults_unless_they_are_given(tmp_path):
    def found(text: str) -> tuple[float, float]:
        recipe = load_recipe(write(tmp_path, TEXT + "[dpo]\n" + text))
        assert recipe.dpo is not None
        assert parse_recipe(recipe.model_dump(mode="json"), "again") == recipe
        return recipe.dpo.beta, recipe.dpo.label_smoothing

    assert found("") == found("loss = 'ipo'") == found("loss = 'hinge'") == (0.1, 0.0)
    assert found("length_normalised = true") == (5.0, 0.0)
    assert found("length_normalised = true\nbeta = 2.0") == (2.0, 0.0)
    assert found("loss = 'robust'") == (0.1, 0.1)
    assert found("loss = 'robust'\nlabel_smoothing = 0.3") == (0.1, 0.3)
