"""The model card of a saved checkpoint: README.md beside its weights, in the form that Hugging Face's hub reads.

    recipe.json, selections/, environment.json  --> what was trained on what, and with which versions
    results.json                                --> the run's own numbers, up to this stage; no other number is in it
    headway.json of the checkpoint              --> the hash of its weights

It is written with the weights, and once more when they are measured: the manifest of a checkpoint does not list it
(`durable`), so neither that nor whoever edits it touches the weights. An edited or measured card is left as it is. The run's
folder gets a short README.md that says where its last weights lie. It does not know how anything was computed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from headway.config import STAGES
from headway.durable import CARD, read_json, write_atomic
from headway.ranks import by_first
from headway.report.card_use import how_to_use
from headway.report.markup import clean, p_value, percent, points
from headway.report.tables import StageRow, funnels, read_run
from headway.runs import recipe_id
from headway.store.store import Store
from headway.types import Funnel

UNMEASURED = "This checkpoint is not measured yet."
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MEMORY_ONLY = {"micro_batch_tokens", "recompute", "checkpoint_seconds", "checkpoints_kept", "log_gap", "log_entropy"}
_TITLES = {
    "base": "pre-training from scratch",
    "midtrain": "distillation as mid-training",
    "sft": "supervised fine-tuning",
    "dpo": "preference learning (DPO) on correct and incorrect rollouts",
    "rl": "reinforcement learning with verifiable rewards",
}


@by_first
def write_cards(run_dir: Path) -> None:
    """Write the card of every finished checkpoint that has none or an unmeasured one, and the run's README.md."""
    trained = [stage for stage in STAGES if (run_dir / "checkpoints" / stage / "final").is_dir()]
    for stage in trained:
        folder = run_dir / "checkpoints" / stage / "final"
        card = folder / CARD
        is_measured = (run_dir / "stages" / f"{stage}.json").exists()
        if not card.exists() or (is_measured and UNMEASURED in card.read_text(encoding="utf-8", errors="replace")):
            write_atomic(card, model_card(run_dir, stage, folder))
    if trained:
        text = _run_readme(run_dir, trained)
        path = run_dir / CARD
        if not path.exists() or path.read_text(encoding="utf-8", errors="replace") != text:
            write_atomic(path, text)


def model_card(run_dir: Path, stage: str, folder: Path) -> str:
    """The card of the weights in `folder` (it may still be on its way to its place) after `stage` of the run."""
    recipe = read_json(run_dir / "recipe.json")
    rows = _rows(run_dir, stage)
    trained = [name for name in STAGES[: STAGES.index(stage) + 1] if recipe.get(name) is not None]
    base = str(recipe["model"]["checkpoint"])
    start = f"[{base}](https://huggingface.co/{base})" if _is_hub(base) else f"`{Path(base).name}`" if base else ""
    begun = f"Started from {start}." if start else "Started from random weights, with a tokenizer of its own."
    parts = [
        _front(recipe, base),
        f"# {recipe['name']} after {stage}\n",
        f"{begun} Trained by Headway, recipe `{recipe['name']}`, seed {recipe['seed']}: {', then '.join(trained)}.\n",
        "## Training\n",
        *(_stage_part(run_dir, recipe, name) for name in trained),
        "## Results\n",
        _results(rows, stage, recipe["evaluate"]),
        "## Data\n",
        _data(run_dir, recipe),
        "## Use\n",
        how_to_use(folder, recipe),
        "## Limits\n",
        _limits(rows, stage),
        "## Made with\n",
        _made_with(run_dir, recipe, folder),
    ]
    return "\n".join(parts)


def _front(recipe: Mapping[str, Any], base: str) -> str:
    """The YAML that the hub reads. What is not known is left out."""
    from huggingface_hub import ModelCardData

    sources = recipe["problems"]["sources"]
    used = sorted({s["data"] for s in sources if s["split"] != "heldout" and s["data"] and _is_hub(s["data"])})
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=base if _is_hub(base) else None,
        license=_license(base),
        datasets=used or None,
        tags=["headway", "reasoning", "math"],
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _license(base: str) -> str | None:
    """The licence that the start's own card states, where that card is on this machine."""
    from huggingface_hub import ModelCard, try_to_load_from_cache

    found: Any = Path(base) / CARD if base and not _is_hub(base) else None
    if _is_hub(base):
        found = try_to_load_from_cache(base, CARD)
    stated: Any = None
    if isinstance(found, str | Path) and Path(found).is_file():
        with suppress(Exception):  # whatever stands in a file of someone else's
            stated = ModelCard(Path(found).read_text(encoding="utf-8")).data.to_dict().get("license")
    return stated if isinstance(stated, str) else None


def _stage_part(run_dir: Path, recipe: Mapping[str, Any], stage: str) -> str:
    """What a stage learned from, for how long, and with which settings."""
    found = [funnel for name, funnel in funnels(run_dir) if name == stage]
    learned = f"{_amount(found[0], stage)}" if found else ""
    record_path = run_dir / "stages" / f"{stage}.json"
    record = read_json(record_path) if record_path.exists() else {}
    if held := record.get("validation_documents"):
        learned += f" {held:,} of these were held back to say when to stop."
    took = f" {record['steps']:,} optimizer steps, {record['train_tokens']:,} training tokens." if record.get("steps") else ""
    settings = ", ".join(f"`{key} = {json.dumps(value)}`" for key, value in _flat(recipe[stage]) if key not in _MEMORY_ONLY)
    return f"**{stage}**: {_TITLES[stage]}. {learned}{took}{_adapters(recipe, stage)}\n\nSettings: {settings}\n"


def _adapters(recipe: Mapping[str, Any], stage: str) -> str:
    """What of the weights learned, where it was not all of them."""
    lora = recipe.get("lora")
    if not lora or stage == "base" or stage not in (lora["stages"] or STAGES):
        return ""
    return f" Adapters of rank {lora['rank']} (alpha {lora['alpha']}) on {', '.join(lora['targets'])} learned, merged since."


def _amount(funnel: Funnel, stage: str) -> str:
    unit = "rollouts" if stage in ("midtrain", "sft") else "problems"
    lost = ", ".join(f"{count:,} {clean(reason)}" for reason, count in funnel.dropped.items() if count)
    return f"Learned from {funnel.kept:,} of {funnel.considered:,} {unit}{f' (left out: {lost})' if lost else ''}."


def _flat(section: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """The settings of a section by their dotted names; sections that are absent are left out."""
    found: list[tuple[str, Any]] = []
    for key, value in section.items():
        if isinstance(value, dict):
            found += _flat(value, f"{before}{key}.")
        elif value is not None:
            found.append((f"{before}{key}", value))
    return found


def _rows(run_dir: Path, stage: str) -> list[StageRow]:
    """The measured stages up to this one."""
    if not (run_dir / "results.json").exists():
        return []
    return [row for row in read_run(run_dir).stages if STAGES.index(row.stage) <= STAGES.index(stage)]


def _results(rows: list[StageRow], stage: str, how: Mapping[str, Any]) -> str:
    """The staircase up to this stage, as in results.json."""
    measured = bool(rows) and rows[-1].stage == stage
    note = "" if measured else f"{UNMEASURED}\n"
    if not rows:
        return note
    ks = sorted({k for row in rows for k in row.pass_at_k if k > 1})
    heads = ["after", "accuracy", "95 % interval", "change", "paired test", *(f"pass@{k}" for k in ks)]
    heads += ["majority", "cut off", "no answer", "mean tokens"]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for row in rows:
        claim = f"{points(row.difference_vs_previous)} ({row.claim})" if row.claim else "-"
        cells = [row.stage if row.stage in (*_TITLES,) and row.train_tokens else f"{row.stage} (the start)"]
        cells += [percent(row.accuracy), f"{percent(row.ci_low)} to {percent(row.ci_high)}", claim, p_value(row.p_vs_previous)]
        cells += [percent(row.pass_at_k.get(k)) for k in ks]
        cells += [percent(row.majority), percent(row.truncated), percent(row.no_answer)]
        cells.append("-" if row.mean_tokens is None else f"{row.mean_tokens:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    last = rows[-1]
    cuts = "".join(f", {key.replace('_', '-')} {how[key]:g}" for key in ("top_k", "min_p") if how.get(key))
    told = (
        f"Accuracy is the mean over {last.num_problems:,} held-out problems of the share of {last.samples_per_problem:g} samples "
        f"that the verifier accepts (temperature {how['temperature']:g}, top-p {how['top_p']:g}{cuts}, at most "
        f"{how['max_tokens']:,} tokens); the interval takes problems as the sampling unit. Change and test are against the row "
        "before, paired by problem; better or worse is only said below p = 0.05.\n"
    )
    families = ", ".join(f"{clean(name)} {percent(share)}" for name, share in last.families.items())
    by_family = f"\nBy family after {last.stage}: {families}.\n" if len(last.families) > 1 else ""
    return f"{note}{told}\n" + "\n".join(lines) + f"\n{by_family}"


def _data(run_dir: Path, recipe: Mapping[str, Any]) -> str:
    """The sources with how many problems of each the run kept, and what was removed before."""
    counts: dict[tuple[str, str], int] = {}
    with suppress(FileNotFoundError):
        table = Store(run_dir / "store", create=False).sql("SELECT source, split, count(*) AS n FROM problems GROUP BY ALL")
        counts = {(row["source"], row["split"]): row["n"] for row in table.to_pylist()}
    lines = ["| source | from | used for | problems |", "| --- | --- | --- | --- |"]
    for source in recipe["problems"]["sources"]:
        data = source["data"]
        origin = f"reasoning-gym's `{source['family']}`, generated with seed {source['seed']}" if source["family"] else ""
        if data:
            origin = f"[{data}](https://huggingface.co/datasets/{data})" if _is_hub(data) else f"a file `{Path(data).name}`"
        label = source["name"] or source["family"] or Path(data).name.split(".")[0] or "data"
        use = "evaluation" if source["split"] == "heldout" else "the base alone" if source["base_only"] else source["split"]
        lines.append(f"| {_cell(label)} | {_cell(origin)} | {use} | {counts.get((label, source['split']), 0):,} |")
    cleaning = [f"- {clean(funnel)}" for name, funnel in funnels(run_dir) if name.startswith("problems-")]
    taught = read_json(run_dir / "stages" / "teacher.json") if (run_dir / "stages" / "teacher.json").exists() else {}
    rollouts = (
        f"\nRollouts before training: {taught['scripted']:,} scripted, {taught['imported']:,} imported.\n" if taught else ""
    )
    server = (recipe["teacher"].get("server") or {}).get("model", "")
    rollouts += f"\nTeacher behind a server: {clean(server)}.\n" if server else ""
    return "\n".join([*lines, "", "What was left out before anything was learned:", "", *cleaning, rollouts])


def _limits(rows: list[StageRow], stage: str) -> str:
    """What is not known, and what the numbers warn of."""
    said = [
        "- Measured on the held-out problems above alone. Other subjects, languages, longer conversations and safety were not.",
        "- A rule-based verifier decided what is right, in training and in evaluation; it can be wrong.",
    ]
    if rows and rows[-1].stage == stage:
        last = rows[-1]
        said.append(
            f"- {percent(1 - last.accuracy)} of the samples were not accepted; {percent(last.truncated)} were cut off, "
            f"{percent(last.no_answer)} gave no final answer, {percent(last.unverifiable)} could not be judged."
        )
        if last.claim in ("worse", "no visible difference"):
            said.append(f"- Against the stage before: {last.claim}.")
    return "\n".join(said) + "\n"


def _made_with(run_dir: Path, recipe: Mapping[str, Any], folder: Path) -> str:
    environment = read_json(run_dir / "environment.json")
    began = environment["started_with"]
    versions = ", ".join(f"{name} {version}" for name, version in began.get("versions", {}).items())
    went_on = len(environment.get("resumed_with", []))
    extra = read_json(folder / "headway.json") if (folder / "headway.json").is_file() else {}
    lines = [
        f"- versions: {versions}" + (f"; went on {went_on} times with others" if went_on else ""),
        f"- recipe: `{recipe_id(dict(recipe))}`, weights: `{extra.get('weights', '-')}`, "
        f"tokenizer: `{extra.get('tokenizer', '-')}`",
        "- Every setting: `recipe.json` of the run. `manifest.json` lists the files with their sha256, but for this card.",
    ]
    return "\n".join(lines) + "\n"


def _run_readme(run_dir: Path, trained: list[str]) -> str:
    """What lies where in a run's folder."""
    recipe = read_json(run_dir / "recipe.json")
    last = f"checkpoints/{trained[-1]}/final"
    lines = [
        f"# The run {recipe['name']}\n",
        f"The last weights, those after {trained[-1]}: [{last}]({last}), a Hugging Face checkpoint with its own card.",
        "It can be copied anywhere, and uploaded as it is.\n",
        "| after | weights |",
        "| --- | --- |",
        *(f"| {stage} | [checkpoints/{stage}/final](checkpoints/{stage}/final) |" for stage in trained),
        f"\n    headway chat {recipe['name']}             # or any of the folders above",
        f"    headway serve {recipe['name']}",
        f"    headway report {recipe['name']}           # the numbers, and report.html\n",
    ]
    return "\n".join(lines)


def _is_hub(name: str) -> bool:
    return (
        bool(_HUB_NAME.fullmatch(name)) and not Path(name).exists() and Path(name).suffix not in (".json", ".jsonl", ".parquet")
    )


def _cell(text: str) -> str:
    return clean(text).replace("|", "\\|").replace("\n", " ")
