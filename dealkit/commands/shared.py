"""What several commands take."""

import tyro

from dealkit.files import PROJECT_ROOT

Flat = tyro.conf.OmitArgPrefixes
NANO = PROJECT_ROOT / "data" / "checkpoints" / "nano.safetensors"
