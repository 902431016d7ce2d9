"""`python -m millrace.cli`, for where the command is not on the path."""

from millrace.cli import main

main(prog_name="millrace")
