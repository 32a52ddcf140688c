"""`python -m trainer`: everything comes from environment variables, see docs/variables.md."""

import sys

from trainer.run import main

if __name__ == "__main__":
    sys.exit(main())
