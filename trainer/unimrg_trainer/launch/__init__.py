"""The in-pod contract: environment, signals, processes, watchdog, exit codes and the termination record."""
