"""How good an encoder is: features once, probes on them, intervals by patient. No Ray in here."""
