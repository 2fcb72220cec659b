"""The experiments that come along, as TOML."""
