"""`python -m jaxplain` is the `jaxplain` command."""

from jaxplain.cli import main

main()
