"""The exception for mistakes of the user."""


class UserError(Exception):
    """A mistake that the user can correct: a file, a folder or a setting.

    The message is one sentence that names the file or setting and says what to do. Commands print it without a
    traceback and exit with status 1.
    """
