"""The part of pydantic-core that cnnbench imports."""

ErrorDetails = dict


class PydanticCustomError(ValueError):
    """The error raised by cnnbench's validators."""

    def __init__(self, kind: str, template: str, context: dict[str, str]) -> None:
        super().__init__(kind, template.format(**context))
