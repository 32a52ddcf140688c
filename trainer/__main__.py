"""`python -m trainer`: everything comes from environment variables, see docs/variables.md."""

import logging
import os
import sys

from trainer.run import main

if __name__ == "__main__":
    code = main()
    # All is stored, said and logged. Taking torch apart in order would keep the GPU for another second.
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)
