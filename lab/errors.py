"""The lab's errors: one tree, and every message says what to do next where that is known."""


class LabError(Exception):
    """The lab cannot do what was asked (a tool is missing, a build or a boot failed)."""


class CommandError(LabError):
    """A command ended with a status other than zero."""


class DeadlineError(LabError):
    """A command on the machine did not end before its deadline; it was killed."""


class GuestLostError(LabError):
    """The guest stopped answering while it was in use; what it was used for says nothing."""
