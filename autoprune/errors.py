"""The errors that a user can mend; the command line turns each into one message and an exit code."""


class AutopruneError(Exception):
    """Something that the user can mend; `exit_code` is what the command line ends with."""

    exit_code = 1


class InputError(AutopruneError):
    """Bad input, found before any long work starts: the message names the field or file and the fix."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration file or an `-o key=value` override is wrong."""


class DataError(InputError):
    """A data set is missing, corrupt or of the wrong shape."""


class ModelError(InputError):
    """A model cannot be built, loaded, or is no classifier of the data's shape."""


class TargetError(InputError):
    """No policy can meet the target; the message says the floor."""


class RunError(AutopruneError):
    """The run failed midway; what was done so far is kept and `--resume` goes on."""
