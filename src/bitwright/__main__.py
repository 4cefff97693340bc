"""``python -m bitwright`` is the command ``bitwright``."""

from bitwright.cli.entry import main

if __name__ == "__main__":
    main()
