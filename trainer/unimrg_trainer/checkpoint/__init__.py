"""Checkpoints that belong to no strategy: safetensors and JSON, committed by one conditional write."""
