"""From a file and the environment to frozen values."""
