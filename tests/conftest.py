"""Makes the fixtures of tests/support known to all tests."""

import pytest

pytest_plugins = [
    "tests.support.control_plane",
    "tests.support.dictionary_store",
    "tests.support.kubelet.kubelet",
    "tests.support.mlflow_server",
    "tests.support.s3_server",
    "tests.support.tcp_gate",
    "tests.support.s3_stores",
    "tests.support.virtual_clock",
    # Last, as it imports others: pytest rewrites the assertions of modules that are not imported yet.
    "tests.support.cluster",
]


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one worker, and all that need a control plane: it is started once."""
    for item in items:
        file = item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group("cluster" if file.startswith("tests/cluster/") else file))
