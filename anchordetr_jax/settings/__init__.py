"""What `config.py` is checked with: types and ranges of settings, and their names in older versions and other tools."""
