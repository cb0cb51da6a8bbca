"""Models without their dead units: what is dead, and what replaces it."""
