"""What is the final answer, and is it right. `grade` is the one call for those who have no run and no table."""

from headway.verify.judge import grade

__all__ = ["grade"]
