"""What the numbers of a stage's record mean, and those that say whether training is all right (see `glossary`)."""

from __future__ import annotations

from headway.report.entry import Entry

RECORD = (
    Entry("stage", "Stage", "Which stage was measured; `base` is the model that the recipe starts from.", "-"),
    Entry("samples_per_problem", "Samples a problem", "How many samples of each held-out problem were judged.", "-"),
    Entry("families", "Families", "The accuracy, and its interval, by family or source of the held-out problems.", "-"),
    Entry("steps", "Steps", "Steps that the stage trained; fewer than planned where it ended by itself.", "-"),
    Entry("train_tokens", "Tokens trained", "Useful tokens that the whole stage sent through forward and backward.", "-"),
    Entry("wall_s", "Time", "Seconds that the stage took, evaluation included, added up over restarts.", "-"),
    Entry("documents", "Documents", "Of mid-training: the rollouts that were learned.", "-"),
    Entry("validation_documents", "Held-back documents", "Of mid-training: the rollouts that its validation loss is of.", "-"),
    Entry("fill", "Fill", "Of mid-training: the share of its rows that documents fill.", "Below 0.8: seq_len is too short."),
    Entry("best_step", "Best step", "Of mid-training: the step whose weights were kept.", "Far before the end: fewer epochs."),
    Entry("best_validation_loss", "Best validation loss", "Of mid-training: the validation loss of that step.", "-"),
)

HEALTH = (
    Entry(
        "update_ratio_embedding",
        "Movement of the embedding",
        "How far one step moves the embedding and output weights, as a share of their norm; measured every 10 steps on a fixed "
        "sample of the weights. So are update_ratio_attention, update_ratio_mlp and update_ratio_norms (and others). With [lora] "
        "the weights are the adapters'.",
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
    Entry(
        "micro_batch_tokens",
        "Micro-batch",
        "Tokens that go through the model at once from this step on; the row has it where memory ran out and they were lowered.",
        "Very small: the stage is slow; `headway plan` says what it needs.",
    ),
    Entry(
        "alarm",
        "Alarm of the stage",
        "What the stage itself found wrong, in words: in DPO that the chosen rollouts become unlikely.",
        "Any.",
    ),
)
