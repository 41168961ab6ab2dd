"""Tracking: rank 0 appends to a spool on disk, a thread of the launcher uploads it to MLflow, `finish` closes the run.

Training never waits for MLflow and never fails because of it. Importing these modules does not import MLflow; the
uploader does when it makes its first call. See docs/method/tracking.md.
"""
