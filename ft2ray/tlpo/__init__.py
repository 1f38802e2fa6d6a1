"""Timestep-layer adaptive preference optimisation: LoRA experts, their gate, losses and training steps."""
