"""What several commands take."""

import tyro

Flat = tyro.conf.OmitArgPrefixes
