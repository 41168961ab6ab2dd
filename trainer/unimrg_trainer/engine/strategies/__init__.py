"""How a step is spread over processes: DDP, DeepSpeed ZeRO and FSDP2 behind one class."""
