"""Runs the stages of a job and supervises their ranks: signals, watchdog, exit codes, termination record."""
