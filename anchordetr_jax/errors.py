"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """Something its user can mend: a file, a folder or a setting.

    The message is one sentence that names the file or setting and says what to do; scripts print it without a
    traceback and exit with status 1.
    """
