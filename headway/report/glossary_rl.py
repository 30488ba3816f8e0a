"""What the numbers of reinforcement learning mean (see `glossary`)."""

from __future__ import annotations

from headway.report.entry import Entry

RL = (
    Entry(
        "reward",
        "Reward",
        "Mean reward of the step's rollouts: +1 CORRECT, -1 otherwise, less any length penalty.",
        "Flat.",
    ),
    Entry(
        "entropy",
        "Entropy",
        "Mean entropy of the policy's next-token distribution over the trained tokens, exact over the whole vocabulary, in nats, "
        "at the step's temperature (`rl.log_entropy`). `surprise` estimates it over all sampled tokens.",
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
        "Share of trained tokens on which the clip acted: their ratio left [1 - clip_low, 1 + clip_high] on the side that stops "
        'the gradient; with `surrogate = "weight"`, on either side. With a ratio of sequences, all tokens of one count.',
        "Above 0.2: the updates are too large, or too many a batch. With GSPO's narrow clip 0.15 is usual.",
    ),
    Entry(
        "clipped_high",
        "Clipped above",
        "The part of `clipped` above 1 + clip_high: tokens of good rollouts that have become likelier already.",
        "Far above clipped_low while the entropy falls: a higher clip_high lets rare tokens grow (DAPO).",
    ),
    Entry(
        "clipped_low",
        "Clipped below",
        "The part of `clipped` below 1 - clip_low: tokens of bad rollouts that have become rarer already.",
        "As clipped.",
    ),
    Entry(
        "kl",
        "KL to the sampler",
        "Mean over trained tokens of the k3 estimate of KL(sampling policy, current policy), in nats (Schulman 2020).",
        "Well above 0 at the first update: sampler and trainer disagree. Growing with minibatches: too many a batch.",
    ),
    Entry(
        "kl_reference",
        "KL to the reference",
        "Mean over trained tokens of the k3 estimate of how far the current policy is from the stage's start, in nats. Only "
        "where the recipe has a kl_coef; whichever estimator it trains with.",
        "Rising without end: kl_coef holds nothing. Stuck near 0 with a flat accuracy: it holds too much.",
    ),
    Entry(
        "tis_capped",
        "Weights capped",
        "Share of trained tokens whose weight p(trainer at the step's start) / p(sampler) was cut down to tis_cap.",
        "Above a percent: sampler and trainer compute different policies; see gap_max.",
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
