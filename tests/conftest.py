"""Makes the fixtures of tests/support known to all tests."""

pytest_plugins = [
    "tests.support.dictionary_store",
    "tests.support.mlflow_server",
    "tests.support.tcp_gate",
    "tests.support.virtual_clock",
]
