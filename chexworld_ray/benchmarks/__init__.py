"""What things cost here: each benchmark returns one JSON-ready dict and times a calibrator beside it."""
