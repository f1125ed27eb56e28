"""The error tree: what the reader of an error must do about it.

LastgoodError
├── ConfigError     a person fixes the configuration or the input (exit code 2)
├── TransientError  try again later (exit code 3)
├── RefusedError    a guard said no, and why (exit code 4)
└── CorruptError    stop and keep the bytes (exit code 5)
"""


class LastgoodError(Exception):
    """Base of every error Lastgood raises on purpose; its text is one clear sentence."""

    exit_code = 1


class ConfigError(LastgoodError):
    """A person must fix the configuration, the command or the input named in the message."""

    exit_code = 2


class GoneError(ConfigError):
    """The thing asked for is not there: the other side said so itself."""


class DeniedError(ConfigError):
    """The other side grants no right to it; the message names the right."""


class TransientError(LastgoodError):
    """The same call may succeed later; `retry_after_s` is a hint in seconds."""

    exit_code = 3

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RefusedError(LastgoodError):
    """A guard refused the action; the message says which and why. Retrying changes nothing."""

    exit_code = 4


class CorruptError(LastgoodError):
    """Stored data is not what was written; nothing is overwritten."""

    exit_code = 5
