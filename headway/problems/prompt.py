r"""The one prompt and the one answer convention, for training, sampling and evaluation alike.

    question text  =  question  +  "\n"  +  instruction        (no second line where the instruction is empty)
    answer         =  \boxed{72}                               (the last box of a completion counts)

It does not know chat templates or tokens: a tokenizer that has a template gets `messages`, one without gets
`question_text`. It does not read answers either: `verify` does.
"""

from __future__ import annotations

from headway.types import Problem


def question_text(problem: Problem, instruction: str = "") -> str:
    r"""What the policy is asked: the question and, on a line of its own, the recipe's instruction.

    >>> from headway.types import Problem, Split
    >>> question_text(Problem.make("sums", "chain_sum", "2 + 2 =", "4", Split.TRAIN), "Box the answer.")
    '2 + 2 =\nBox the answer.'
    """
    return asked(problem.question, instruction)


def asked(question: str, instruction: str) -> str:
    """`question_text` of a bare question."""
    return f"{question}\n{instruction}" if instruction else question


def boxed(answer: str) -> str:
    r"""A final answer as every solution of ours writes it.

    >>> print(boxed("72"))
    \boxed{72}
    """
    return f"\\boxed{{{answer}}}"


def messages(problem: Problem, instruction: str = "") -> list[dict[str, str]]:
    """The same question as a conversation of one user turn, for a chat template.

    There is no system turn: templates that have a default one add it themselves.
    """
    return [{"role": "user", "content": question_text(problem, instruction)}]
