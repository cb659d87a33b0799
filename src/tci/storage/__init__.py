"""What is remembered: SQL is the record, Redis is the clock."""
