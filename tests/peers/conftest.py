"""What is here needs PyTorch: `make peers` runs it, pytest leaves it alone (doctests included)."""

collect_ignore_glob = ["*.py"]
