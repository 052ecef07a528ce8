"""Fixtures of the tests that track with MLflow."""

import pytest


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """Empty database of MLflow, shared because MLflow takes seconds to create its tables."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path
