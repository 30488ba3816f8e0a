"""The error tree: every failure a user can cause or meet, one line each, exit code 2.

    HeadwayError
    ├── ConfigError      a recipe or an option is wrong: names the key and what would be right
    ├── DataError        a problem file or row is wrong: names the file, the line and the column
    ├── StoreError       the table of rollouts refuses: missing, damaged, or a selection kept nothing
    ├── RunError         a run's folder is in use, or holds another recipe's work
    ├── CheckpointError  weights, tokenizer or training state cannot be loaded, or do not belong together
    ├── EngineError      the sampler cannot serve a request
    └── EndpointError    a server that we ask refuses, or cannot be reached

It does not know who prints them: `cli` turns a HeadwayError into one line on standard error and exit code 2.
"""


class HeadwayError(Exception):
    """A failure that has one clear line for the user. The message names what is wrong and what would be right."""


class ConfigError(HeadwayError):
    """A recipe key or a command-line option is unknown, missing or out of range."""


class DataError(HeadwayError):
    """A problem file, a row of it, or a whole problem set is unusable."""


class StoreError(HeadwayError):
    """The rollout table is missing or damaged, or a selection kept no row (the message carries its funnel)."""


class RunError(HeadwayError):
    """A run's folder is locked by another process, or holds work of a different recipe."""


class CheckpointError(HeadwayError):
    """A checkpoint is damaged, of an unsupported kind, or belongs to another tokenizer or model."""


class EngineError(HeadwayError):
    """The sampler was asked for something it cannot do."""


class EndpointError(HeadwayError):
    """A server that we ask refuses us (key, model, address), or does not answer at all."""
