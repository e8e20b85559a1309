"""`python -m bindings`: the command line without its script."""

from bindings.cli import main

if __name__ == "__main__":
    main()
