"""The ``flowzoo`` command; each subcommand is a file here or a plugin of kind ``command``."""

from flowzoo.cli.main import main as main
