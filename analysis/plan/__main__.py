"""The command line of `analysis.plan`."""

from analysis.plan import main

if __name__ == "__main__":
    main()
