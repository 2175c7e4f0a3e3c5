"""Where the published vectors are: CRYPTOMETER_CAPTURES, or shared/captures beside the project."""

import os
from pathlib import Path

_BESIDE = Path(__file__).parents[3] / "shared" / "captures"
CAPTURES = Path(os.environ.get("CRYPTOMETER_CAPTURES") or _BESIDE)
