"""Parameters of verdicts."""

from typing import get_args

from cnnbench.cli.options import LEAST_ALPHA, MOST_ALPHA
from cnnbench.comparisons.samples import Pairing
from cnnbench.errors import UsageError, or_list, quoted


def require_alpha(alpha: float) -> None:
    """Checks a significance level.

    Raises:
      UsageError: it is too small, too large, or not a number.
    """
    if not LEAST_ALPHA <= alpha <= MOST_ALPHA:
        between = f"between {LEAST_ALPHA} and {MOST_ALPHA}"
        raise UsageError(f"alpha: {alpha} is not {between}; write 0.05.")


def require_test(test: str | None) -> None:
    """Checks the name of a test.

    Raises:
      UsageError: there is no such test.
    """
    if test not in {None, *get_args(Pairing)}:
        raise UsageError(
            f"test: {quoted(str(test))} is no test; write {or_list(get_args(Pairing))}."
        )
