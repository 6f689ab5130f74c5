"""What child processes of tests are told by their environment."""

import os


def without(*beginnings: str) -> dict[str, str]:
    """This process's environment but for the variables whose names begin so."""
    return {name: value for name, value in os.environ.items() if not name.startswith(beginnings)}
