"""Every number of every size that a job can name: what the trainer builds modules from and `arithmetic` counts with."""
