"""The command line of `analysis.transfer`."""

from analysis.transfer import main

if __name__ == "__main__":
    main()
