"""How many inputs a fuzz test tries: few by default, `FUZZ_EXAMPLES` (`make fuzz`: 100,000) on demand."""

import os

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))
