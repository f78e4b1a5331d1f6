"""`python3 -m reef_site.bootstrap [test]`: make `.venv`, as the first start of `manage.py` does."""

import sys

from reef_site.install.bootstrap import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
