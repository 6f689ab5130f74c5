"""What of a command is done, running, failed and left."""
