"""The methods that ship with flowzoo, one folder a plugin."""
