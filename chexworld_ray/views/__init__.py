"""Data in motion: crops, actions and masks, pure functions of pixels and a random key."""
