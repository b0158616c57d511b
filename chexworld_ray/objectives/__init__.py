"""What is learned: the world-model loss of the three tasks."""
