"""`python -m bindings`: the command line, if the script `bindings` is not on the path."""

from bindings.cli import main

if __name__ == "__main__":
    main()
