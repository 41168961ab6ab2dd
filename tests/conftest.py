"""Makes the fixtures of tests/support known to all tests."""

import os

from hypothesis import HealthCheck, settings

# The tensors of tests are small, and many tests have several processes: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is no defect.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

pytest_plugins = [
    "tests.support.control_plane",
    "tests.support.dictionary_store",
    "tests.support.kubelet.kubelet",
    "tests.support.mlflow_server",
    "tests.support.s3_server",
    "tests.support.tcp_gate",
    "tests.support.s3_stores",
    "tests.support.kwok_cluster",
    "tests.support.virtual_clock",
    # Last, as it imports others: pytest rewrites the assertions of modules that are not imported yet.
    "tests.support.cluster",
]
