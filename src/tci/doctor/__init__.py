"""Attacks the sandboxes of this installation, and says what stopped each attack."""
