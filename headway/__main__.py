"""`python -m headway`: the command line, for where the `headway` script is not on the path (`torchrun -m headway`)."""

from headway.cli import main

if __name__ == "__main__":
    main()
