"""`tci doctor`: looks at the machine, attacks a sandbox of this installation, and says what stopped each attack."""
