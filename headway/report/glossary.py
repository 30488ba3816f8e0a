"""What every logged number means: one entry a name, shown beside each chart and written out in docs/metrics.md.

    python -m headway.report.glossary > docs/metrics.md        (a test fails when the file is stale)

A name that a stage logs belongs in here; the page charts an unknown name all the same and says that it has no entry.
This file does not know where the numbers are computed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One metric. Example: ``Entry("loss", "Loss", "mean over the step's trained tokens ...", "NaN; rising ...")``."""

    name: str
    title: str
    meaning: str  # what it is and how it is computed, with its unit
    watch: str  # what a bad value looks like, and what it points to


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

_HEALTH = (
    Entry(
        "update_ratio_embedding",
        "Movement of the embedding",
        "How far one step moves the embedding and output weights, as a share of their norm; measured every 10 steps on a fixed "
        "sample of the weights. So are update_ratio_attention, update_ratio_mlp and update_ratio_norms (and others).",
        "Above 0.1: the learning rate is too high; far below 1e-6 in float32: nothing is learned.",
    ),
    Entry(
        "update_ratio_attention", "Movement of attention", "As update_ratio_embedding, of the attention's matrices.", "As there."
    ),
    Entry("update_ratio_mlp", "Movement of the MLPs", "As update_ratio_embedding, of the MLPs' matrices.", "As there."),
    Entry("update_ratio_norms", "Movement of the norms", "As update_ratio_embedding, of the norms' weights.", "As there."),
    Entry(
        "update_ratio_others", "Movement of the others", "As update_ratio_embedding, of what is in no other group.", "As there."
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
        "Mean implicit reward of chosen minus rejected rollouts, in units of beta nats.",
        "Exploding: beta or the learning rate is off.",
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
)

_RL = (
    Entry(
        "reward",
        "Reward",
        "Mean reward of the step's rollouts: +1 CORRECT, -1 otherwise, less any length penalty.",
        "Flat.",
    ),
    Entry(
        "entropy",
        "Entropy",
        "Mean entropy of the policy's next-token distribution over sampled positions, in nats.",
        "Near 0 early: collapse; groups agree and nothing is learned. Rising steadily: the policy is coming apart.",
    ),
    Entry(
        "temperature",
        "Temperature",
        "Temperature that the step's rollouts were sampled with; the trainer divides its logits by the same number.",
        "-",
    ),
    Entry(
        "gap_max",
        "Largest sampler gap",
        "Largest absolute difference, over the step's tokens, between the log-prob that the sampler recorded and the "
        "one that the trainer computes before its first update.",
        "Above 1e-4 in float32: sampler and trainer disagree, and the gradient is that of another model.",
    ),
    *(
        Entry(
            f"gap_at_{first}",
            f"Largest gap from token {first}",
            f"As gap_max, of the tokens of a completion from place {first} up to the next of these bins.",
            "Growing with the place: positions or the cache differ between sampler and trainer.",
        )
        for first in (0, 16, 64, 256, 1024, 4096, 16_384)
    ),
    Entry(
        "repetitive",
        "Repetitive",
        "Share of the step's rollouts in which more than half of the 8-token pieces stood before.",
        "Above 0.2: rollouts run in circles; read one with `headway show`.",
    ),
    Entry(
        "boxed_spam",
        "Boxed spam",
        "Share of the step's rollouts that box more than three answers.",
        "Rising: the policy guesses at the verifier in place of answering.",
    ),
    Entry(
        "mean_tokens_correct",
        "Mean length, right",
        "Mean number of tokens of the step's CORRECT rollouts; the row has none where none is.",
        "Growing without more accuracy: length is rewarded by something other than the answer.",
    ),
    Entry(
        "mean_tokens_wrong",
        "Mean length, wrong",
        "Mean number of tokens of the step's rollouts that are WRONG or have no answer.",
        "Growing while right ones do not: the loss spreads the blame over long wrong rollouts (GRPO's length bias).",
    ),
    Entry(
        "surprise",
        "Surprise",
        "Mean of -log p over sampled tokens, in nats, under the distribution they were sampled from: an estimate of its entropy.",
        "Near 0 early: collapse; groups agree and nothing is learned. Rising steadily: the policy is coming apart.",
    ),
    Entry(
        "clipped",
        "Clipped",
        "Share of trained tokens whose ratio left [1 - clip_low, 1 + clip_high] on the side that stops the gradient.",
        "Above 0.2: the updates are too large, or too many a batch.",
    ),
    Entry(
        "kl",
        "KL to the sampler",
        "Mean over trained tokens of the k3 estimate of KL(sampling policy || current policy), in nats (Schulman 2020).",
        "Well above 0 at the first update: sampler and trainer disagree. Growing with minibatches: too many a batch.",
    ),
    Entry(
        "trained_groups",
        "Groups trained",
        "Groups that carry an advantage, because their rollouts disagree, after every filter.",
        "Few: the problems are too easy or too hard for this policy.",
    ),
    Entry("trained_rollouts", "Rollouts trained", "Rollouts with an advantage other than 0.", "As trained_groups."),
    Entry("sampled_rollouts", "Rollouts sampled", "Fresh rollouts of the step, with refills and oversampling.", "-"),
    Entry("sampled_tokens", "Tokens sampled", "Tokens of the step's fresh rollouts.", "-"),
    Entry("all_correct", "Groups all right", "Share of fresh groups whose rollouts are all CORRECT.", "Near 1: too easy."),
    Entry("all_wrong", "Groups all wrong", "Share of fresh groups without a CORRECT rollout.", "Near 1: too hard."),
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
    ("Health", _HEALTH),
    ("Rollout DPO", _DPO),
    ("Reinforcement learning", _RL),
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
