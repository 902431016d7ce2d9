"""What runs in the jail of a Python script: the bootstrap, which nothing outside of a jail imports."""
