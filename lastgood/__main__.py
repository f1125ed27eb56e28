"""`python -m lastgood`, and the entry point of the wheel's job tasks."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C ends it without a traceback, also while it imports."""
    try:
        from lastgood.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
