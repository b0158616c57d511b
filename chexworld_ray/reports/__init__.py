"""What a person reads: tables, figures, one HTML page."""
