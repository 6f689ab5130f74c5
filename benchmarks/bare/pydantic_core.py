"""The names that cnnbench imports from pydantic-core."""

ErrorDetails = dict


class PydanticCustomError(ValueError):
    """What a validator of cnnbench raises."""

    def __init__(self, kind: str, template: str, context: dict[str, str]) -> None:
        super().__init__(kind, template.format(**context))
