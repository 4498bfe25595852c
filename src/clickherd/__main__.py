"""`python -m clickherd`: the command line where its script is not on the PATH."""

from clickherd.cli import main

if __name__ == "__main__":
    main()
