"""The only package that imports ray: it supplies batches, places work and moves results."""
