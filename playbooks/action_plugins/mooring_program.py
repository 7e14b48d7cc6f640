"""The action behind the task `mooring_program`: the program's archive goes to the host, and installs itself.

It needs two transfers and one command, where modules would have to be carried over for each step.

    mooring_program:
      archive: FILE       on this side
      directory: PATH     on the host; its subdirectory of the version, and the link `current`, are made
"""

from __future__ import annotations

from ansible import constants
from ansible.plugins.action import ActionBase

_LONGEST_REASON = 2000


class ActionModule(ActionBase):
    """Installs the program."""

    TRANSFERS_FILES = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        arguments = self._task.args
        place = self._make_tmp_path()
        try:
            archive = self._connection._shell.join_path(place, "mooring-host.pyz")
            self._transfer_file(arguments["archive"], archive)
            self._fixup_perms2([place, archive])
            done = self._unpack(archive, arguments["directory"], task_vars)
        finally:
            self._remove_tmp_path(place)
        said = (done.get("stderr") or done["stdout"]).strip()[-_LONGEST_REASON:]
        if done["rc"] != 0:
            return {**result, "failed": True, "msg": said or f"it ended with {done['rc']}"}
        return {**result, "changed": True, "version": done["stdout"].strip()}

    def _unpack(self, archive, directory, task_vars):
        python = constants.config.get_config_value("INTERPRETER_PYTHON", variables=task_vars)
        quote = self._connection._shell.quote
        command = " ".join(quote(str(word)) for word in (python, "-I", archive, directory))
        return self._low_level_execute_command(command, sudoable=True)
