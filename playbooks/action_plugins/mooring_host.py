"""The action behind the task `mooring_host`: operations go to the program on the host, else to the module.

The program (see `roles/mooring_host`) is told which version is wanted.  Where it is missing or another one,
the module of the same name does the same work with the same code; it only has to be carried over first.

Called plainly it does the operations of its arguments.  With a `channel` it stands by instead: it connects,
asks the program for its version, and then takes one job after the other from that socket (a file descriptor
which the play has inherited), until the other end closes it.  A message is JSON behind four bytes of length.

    job      {"settings": {"epoch": ...}, "operations": [...]}
    answer   {"results": [...], "helper": VERSION, "on_host": {...}}
                                         what the program did, its version, and how long it took there
             {"results": [...], "helper": "", "last": true}
                                         what the module did; the next play may find the program
             {"unreachable": TEXT} | {"failed": TEXT}
                                         after these three the play ends
"""

from __future__ import annotations

import base64
import json
import socket
import struct

from ansible import constants
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

_LENGTH = struct.Struct("!I")
_OWN = ("channel", "helper", "helper_version", "operations", "operations_base64")
_BOOLEAN = ("clean_pipework",)
_LONGEST_REASON = 2000
# Python's own status for a script that does not exist, the program's for another version, the shell's for an
# interpreter that cannot be run (the module will say so in its own words).
_ABSENT = (2, 3, 126, 127)


class ActionModule(ActionBase):
    """Carries operations to one host."""

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        arguments = self._task.args
        self._vars = task_vars
        self._helper = None if self._task.check_mode else arguments.get("helper")
        self._version = arguments.get("helper_version", "")
        self._settings = _settings(arguments)
        if "channel" not in arguments:
            self._settings["epoch"] = int(self._settings["epoch"])
            return {**result, **self._carry(self._settings, _operations(arguments))}
        with socket.socket(fileno=int(arguments["channel"])) as channel:
            return {**result, **self._stand_by(channel)}

    def _stand_by(self, channel):
        """Take jobs until the channel closes; what ends the play otherwise has been answered already."""
        frames = _Frames(channel)
        changed = False
        try:
            if not frames.has_some():
                self._greet()
            while (job := frames.next()) is not None:
                done = self._carry({**self._settings, **job["settings"]}, job["operations"])
                frames.send(_answer(done))
                changed = changed or bool(done.get("changed"))
                if not done.get("helper"):
                    break
        except AnsibleConnectionFailure as error:
            frames.send({"unreachable": _words(error)})
            return {"unreachable": True, "msg": _words(error)}
        except AnsibleError as error:
            frames.send({"failed": _words(error)})
            return {"failed": True, "msg": _words(error)}
        return {"changed": changed}

    def _greet(self):
        """Open the connection, and find out whether the program is there, before anything has to be done."""
        if self._helper:
            self._has_helper(self._run_helper("greet"))

    def _carry(self, settings, operations):
        """Do the operations; the module's result, or one that says why there is none."""
        if self._helper:
            request = json.dumps({"settings": settings, "operations": operations})
            told = self._run_helper(data=request.encode())
            if self._has_helper(told):
                return _of_helper(told)
        packed = base64.b64encode(json.dumps(operations).encode()).decode()
        done = self._execute_module(
            module_name="mooring_host",
            module_args={**settings, "operations_base64": packed},
            task_vars=self._vars,
        )
        return {**done, "helper": ""}

    def _run_helper(self, *words, data=None):
        python = constants.config.get_config_value("INTERPRETER_PYTHON", variables=self._vars)
        argv = [str(python), "-IS", str(self._helper), str(self._version), *words]
        quoted = " ".join(self._connection._shell.quote(word) for word in argv)
        return self._low_level_execute_command(quoted, in_data=data, sudoable=True)

    def _has_helper(self, told):
        """Whether the program is there in the version wanted; if not it is not asked again."""
        if told["rc"] not in _ABSENT:
            return True
        self._helper = None
        return False


class _Frames:
    """Messages over a blocking socket."""

    def __init__(self, channel):
        self._channel = channel

    def has_some(self):
        """Whether a message waits to be read, or the other end has closed."""
        try:
            self._channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        return True

    def next(self):
        """The next message; None at the end."""
        head = self._exactly(_LENGTH.size)
        body = head and self._exactly(_LENGTH.unpack(head)[0])
        return json.loads(body) if body else None

    def send(self, message):
        body = json.dumps(message).encode()
        self._channel.sendall(_LENGTH.pack(len(body)) + body)

    def _exactly(self, count):
        data = bytearray()
        while len(data) < count:
            part = self._channel.recv(count - len(data))
            if not part:
                return None
            data += part
        return bytes(data)


def _settings(arguments):
    """What the program is told about the host; a template may have made text of what is true or false."""
    settings = {key: value for key, value in arguments.items() if key not in _OWN}
    return {key: boolean(value) if key in _BOOLEAN else value for key, value in settings.items()}


def _operations(arguments):
    packed = arguments.get("operations_base64")
    return arguments.get("operations") if packed is None else json.loads(base64.b64decode(packed))


def _report(told):
    try:
        report = json.loads(told["stdout"])
    except ValueError:
        return {}
    return report if isinstance(report, dict) else {}


def _of_helper(told):
    """The module's form of what the program said."""
    report = _report(told)
    results = report.get("results")
    if told["rc"] == 0 and isinstance(results, list):
        changed = any(result.get("changed") for result in results)
        on_host = {key: report.get(key) for key in ("took_s", "cpu_s")}
        return {
            "changed": changed,
            "results": results,
            "helper": report.get("version", ""),
            "on_host": on_host,
        }
    said = told.get("stderr") or told["stdout"] or f"ended with {told['rc']}"
    return {"failed": True, "msg": f"the program on the host failed: {said.strip()[-_LONGEST_REASON:]}"}


def _answer(done):
    """What goes back through the channel."""
    if isinstance(done.get("results"), list):
        told = {key: done[key] for key in ("results", "helper", "on_host") if key in done}
        return told if told.get("helper") else {**told, "last": True}
    said = [str(done.get(key) or "").strip() for key in ("msg", "module_stderr", "module_stdout")]
    return {"failed": "; ".join(text for text in said if text)[-_LONGEST_REASON:] or "no reason given"}


def _words(error):
    return " ".join(str(error).split())[:_LONGEST_REASON]
