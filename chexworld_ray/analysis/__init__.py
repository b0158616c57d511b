"""What a trained world model knows: analyses with numbers. Pure functions; Ray only fans them out."""
