"""What is to be probed."""
