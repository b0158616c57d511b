"""Training: the step, its state, its schedules, its checkpoints. `step.py` is where to start reading."""
