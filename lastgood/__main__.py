"""`python -m lastgood`, and the entry point of the wheel's job tasks."""

from lastgood.cli.app import main

if __name__ == "__main__":
    main()
