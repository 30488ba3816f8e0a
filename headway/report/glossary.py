"""What every logged number means: one entry a name, shown beside each chart and written out in docs/metrics.md.

    python -m headway.report.glossary > docs/metrics.md        (a test fails when the file is stale)

A name that a stage logs belongs in here; the page charts an unknown name all the same and says that it has no entry.
This file does not know where the numbers are computed.
"""

from __future__ import annotations

from headway.report.entry import Entry
from headway.report.glossary_rl import RL
from headway.report.glossary_run import HEALTH, RECORD

_EVALUATION = (
    Entry(
        "accuracy",
        "Accuracy",
        "Share of judged samples that are CORRECT: the mean over problems of each problem's own share. In RL: of the "
        "step's fresh rollouts, before any filter.",
        "In RL: flat at 0 (problems too hard, or no boxed answers) or at 1 (nothing left to learn).",
    ),
    Entry(
        "ci_low, ci_high",
        "95 % interval",
        "Interval of the accuracy with problems as the sampling unit: Student's t on per-problem shares; Wilson's "
        "form where that would leave 0 to 1; the rule of three where all problems agree (Miller 2024, arXiv "
        "2411.00640).",
        "Wide: evaluate more problems. More samples a problem narrow it only a little.",
    ),
    Entry(
        "p_vs_previous",
        "p against the previous stage",
        "Two-sided paired t-test on per-problem differences to the stage before. Below 0.05 the page says better or "
        "worse; otherwise it says that no difference is visible.",
        "Close to 0.05: run more seeds before believing it.",
    ),
    Entry(
        "difference_vs_previous",
        "Change",
        "Mean per-problem difference of accuracy to the stage before, in percentage points.",
        "Negative with p < 0.05: the stage harmed the model.",
    ),
    Entry(
        "pass_at_k",
        "pass@k",
        "Chance that k samples of a problem hold a correct one, unbiased: 1 - C(n-c, k) / C(n, k), averaged over "
        "problems (Chen et al. 2021, arXiv 2107.03374).",
        "Falling while accuracy rises: the policy sharpens and loses variety.",
    ),
    Entry(
        "majority",
        "majority@k",
        "Share of problems whose most frequent extracted answer is correct. Ties count with their expected value, "
        "samples without an answer do not vote.",
        "Below accuracy: wrong answers agree with each other.",
    ),
    Entry(
        "best_by_logprob",
        "best@k by log-prob",
        "Share of problems whose likeliest sample (highest mean log-prob a token) is correct: best-of-n without a verifier.",
        "Below accuracy: the policy is surest where it is wrong.",
    ),
    Entry(
        "truncated",
        "Truncated",
        "Share of rollouts that reached max_tokens before a stop token.",
        "Above a few percent: max_tokens is too small, or the model has not learned to stop.",
    ),
    Entry(
        "no_answer",
        "No answer",
        "Share of judged rollouts in which the verifier found no final answer.",
        "High after SFT: the answer convention was not learned.",
    ),
    Entry(
        "unverifiable",
        "Could not be judged",
        "Share of rollouts that the verifier could not judge. They leave the denominator of the accuracy: our own failure "
        "is never the model's mistake.",
        "Above 0: see their reasons with `headway sql`; a reference may be broken.",
    ),
    Entry(
        "mean_tokens",
        "Mean length",
        "Mean number of tokens a rollout, its stop token counted.",
        "Running to max_tokens: length drift. Collapsing: the reasoning is being given up.",
    ),
)

_TRAINING = (
    Entry(
        "loss",
        "Loss",
        "The stage's loss, normalised over the whole optimizer step: nats a trained token in mid-training and SFT, "
        "the DPO loss a pair (log 2 = 0.693 at the start), the clipped policy-gradient objective in RL.",
        "NaN; a jump that does not come back. In RL its size means little: read accuracy.",
    ),
    Entry(
        "validation_loss",
        "Validation loss",
        "Mean negative log-likelihood in nats a token on the teacher's problems that are kept out of the gradient.",
        "Rising while loss falls: the stage memorises; mid-training stops there by itself.",
    ),
    Entry("lr", "Learning rate", "Learning rate of the step, after warm-up and decay.", "-"),
    Entry(
        "grad_norm",
        "Gradient norm",
        "Euclidean norm of the whole gradient before clipping, mean over the step's updates.",
        "Always above clip_norm: the learning rate acts through the clip. Spikes: look at those batches.",
    ),
    Entry("tokens", "Tokens so far", "Useful tokens sent through forward and backward since the stage began.", "-"),
    Entry("seconds", "Seconds a step", "Wall time of the step.", "Growing: rollouts get longer, or memory is short."),
    Entry(
        "tokens_per_s",
        "Speed",
        "Useful tokens (padding never counted) a second through forward and backward; in RL sampling time is included.",
        "Far below the recipe's documented rate.",
    ),
)

_DPO = (
    Entry(
        "pair_accuracy",
        "Pair accuracy",
        "Share of pairs whose chosen rollout has the higher implicit reward, beta (log pi - log reference).",
        "At 1.0 from early on: the pairs differ by something trivial, such as length or format.",
    ),
    Entry(
        "margin",
        "Margin",
        "Mean implicit reward of chosen minus rejected rollouts, in units of beta nats; of log-probs a token where the loss "
        "takes those (ipo, length_normalised).",
        "Exploding: beta or the learning rate is off. With ipo it should settle at 0.5.",
    ),
    Entry(
        "chosen_reward",
        "Chosen reward",
        "Mean implicit reward of the chosen rollouts: beta (log pi - log reference). The margin is its distance to the "
        "rejected reward.",
        "Falling below 0: even the right solutions become less likely than at the start.",
    ),
    Entry(
        "rejected_reward",
        "Rejected reward",
        "Mean implicit reward of the rejected rollouts: beta (log pi - log reference).",
        "Rising: the loss is not acting.",
    ),
    Entry(
        "chosen_logprob",
        "Chosen log-prob",
        "Mean log-probability of the chosen rollouts, in nats a rollout.",
        "Falling as fast as the rejected one: likelihood displacement; lower the rate or add nll_weight.",
    ),
    Entry(
        "rejected_logprob",
        "Rejected log-prob",
        "Mean log-probability of the rejected rollouts, in nats a rollout.",
        "Rising: the loss is not acting.",
    ),
    Entry(
        "chosen_shift",
        "Chosen against reference",
        "Mean of log pi - log reference over all tokens of the step's chosen rollouts, in nats a token, whatever beta is.",
        "Below -0.1 over ten steps while the margin grows: the alarm of docs/dpo.md; set nll_weight or lower the rate.",
    ),
    Entry(
        "rejected_shift",
        "Rejected against reference",
        "Mean of log pi - log reference over all tokens of the step's rejected rollouts, in nats a token.",
        "Above 0: the loss is not acting. Far below -1: the policy moves away from everything, the right solutions next.",
    ),
    Entry(
        "chosen_tokens",
        "Chosen length",
        "Mean number of learned tokens of the step's chosen rollouts, the stop token counted.",
        "Far from the rejected ones' length: the pairs teach length; see max_length_ratio and length_normalised.",
    ),
    Entry(
        "rejected_tokens",
        "Rejected length",
        "Mean number of learned tokens of the step's rejected rollouts, the stop token counted.",
        "As chosen_tokens.",
    ),
)

_TABLE = (
    Entry(
        "num_problems",
        "Problems",
        "Rows of the table `problems`, by source, split, family and domain (the metadata's `domain`, `subject` or `topic`). "
        "Difficulty is lowest, median and highest on the source's own scale.",
        "A split or a family that is missing, or holds far fewer problems than its file.",
    ),
    Entry(
        "labels",
        "Problems by label",
        "Domain and difficulty by the last word of each labeller on a problem: a model's, or the pass rate's band.",
        "A labeller that calls everything alike: it tells nothing apart.",
    ),
    Entry(
        "num_rollouts",
        "Rollouts",
        "Rows of the table `rollouts`, by sampler and policy; RL's steps are counted together. Correct is the share of judged "
        "rollouts by their first verdict, those that could not be judged left out.",
        "A teacher that is hardly ever right, or never wrong: then rollout DPO has nothing to pair.",
    ),
    Entry("num_verdicts", "Verdicts", "Rows of the table `verdicts`, by verifier and outcome.", "-"),
    Entry(
        "reasons",
        "Reasons",
        "Short codes of the first verdicts that are not CORRECT, the most frequent first.",
        "One reason that dominates: read some of its rollouts with `headway sql` and `headway show`.",
    ),
    Entry(
        "pass_rates",
        "Pass rate a problem",
        "Problems by the share of their judged rollouts of one sampler that are CORRECT, in percent; the outer bins are exact.",
        "All at 0 or at 100: nothing that disagrees, so no pairs and no advantages.",
    ),
    Entry(
        "rollout_lengths",
        "Length of a rollout",
        "Characters of the text, and tokens with the stop token where our engine sampled them: quantiles, and a histogram whose "
        "bins double in width.",
        "A pile at the longest bin: max_tokens cuts them off.",
    ),
    Entry(
        "no_verdict",
        "Rollouts without a verdict",
        "Rollouts that the verifier has not judged.",
        "Every query leaves them out: `headway verify` judges them.",
    ),
    Entry(
        "unverifiable_rollouts",
        "Rollouts that could not be judged",
        "Rollouts whose first verdict is UNVERIFIABLE.",
        "A reference may be broken: ask for their reasons.",
    ),
    Entry(
        "truncated_rollouts",
        "Truncated rollouts",
        "Rollouts that reached max_tokens, or that their data set calls incomplete.",
        "They are never learned from; many of them waste their sampling.",
    ),
    Entry(
        "empty_texts",
        "Empty rollouts",
        "Rollouts without a character of text.",
        "The model ends at once, or an import lost a column.",
    ),
    Entry(
        "duplicate_texts",
        "Duplicate texts",
        "Rollouts whose text another rollout of the same problem has already.",
        "The queries keep one of each; many of them say that a sampler lacks variety.",
    ),
    Entry(
        "on_heldout_problems",
        "Training rollouts of held-out problems",
        "Rollouts of a sampler that stages learn from, on problems of the split `heldout`.",
        "No stage learns from them, but someone paid for them; was a split mixed up?",
    ),
    Entry(
        "without_problem",
        "Rollouts without their problem",
        "Rollouts whose problem the table does not hold.",
        "They are in no query: add their problems.",
    ),
    Entry(
        "without_rollout",
        "Verdicts without their rollout",
        "Verdicts whose rollout the table does not hold.",
        "They count nowhere but among the verdicts.",
    ),
    Entry(
        "unsolved_problems",
        "Problems nobody solved",
        "Problems with judged rollouts, none of them CORRECT by any sampler.",
        "Too hard, or a wrong reference; pairing and RL cannot use them.",
    ),
    Entry(
        "disagreeing_problems",
        "Problems whose rollouts disagree",
        "Problems with a CORRECT judged rollout and one that is not.",
        "These give pairs to rollout DPO and advantages to RL.",
    ),
    Entry(
        "unsampled_problems",
        "Problems without a rollout",
        "Problems that no sampler has tried.",
        "Nothing is known of how hard they are.",
    ),
)

SECTIONS = (
    ("Evaluation", _EVALUATION),
    ("Training", _TRAINING),
    ("A stage's record", RECORD),
    ("Health", HEALTH),
    ("Rollout DPO", _DPO),
    ("Reinforcement learning", RL),
    ("The table of rollouts", _TABLE),
)
ENTRIES: dict[str, Entry] = {entry.name: entry for _, entries in SECTIONS for entry in entries}


def anchor(name: str) -> str:
    """The name's fragment on the page and in docs/metrics.md."""
    return "metric-" + "".join(letter if letter.isalnum() else "-" for letter in name.lower())


def document() -> str:
    """The text of docs/metrics.md."""
    lines = [
        "# What each number means",
        "",
        "Written by `python -m headway.report.glossary > docs/metrics.md`; a test fails when it is stale.",
        "The rows of `runs/NAME/metrics/STAGE.jsonl` and the records of `runs/NAME/results.json` use these names, and every",
        "chart of the page explains itself with the same words.",
        "",
    ]
    for title, entries in SECTIONS:
        lines += [f"## {title}", "", "| name | what it is | what a bad value looks like |", "| --- | --- | --- |"]
        for entry in entries:
            mark = f'<a id="{anchor(entry.name)}"></a>`{entry.name}`'
            lines.append(f"| {mark} | {entry.meaning} | {entry.watch if entry.watch != '-' else ''} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(document(), end="")
