"""Plausible frontal chest radiographs, seeded, with masks, landmarks and findings: the data that the package ships."""
