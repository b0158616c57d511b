"""Numbers that say how good an encoder is, and how sure one can be."""
