"""Real data sets in their original file formats: found, verified, parsed."""
