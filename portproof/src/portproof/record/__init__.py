"""Programs that record and replay a user's model, each with its own framework only."""
