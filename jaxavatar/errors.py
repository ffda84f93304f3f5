"""The one exception that means "the user can mend this"."""


class InputError(Exception):
    """Bad input from the user: the message is one sentence naming the input and the remedy.

    The command line prints the message without a traceback and exits with status 2. Raise it at
    the boundary where the input enters (a file, an argument), never inside numerical code.
    """
