"""MLflow: remembers every run. (Being written.)"""


def sync(project, id: str, stages: list[str]) -> None:
    """Send what the stages recorded."""
