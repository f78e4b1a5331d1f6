"""`python -m reef_site.edge --host H --port P`: run the public port."""

from reef_site.edge.server import main

if __name__ == "__main__":
    main()
