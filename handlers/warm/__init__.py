"""Plays that are ready before they are needed.

    daemon                       server, a process of its own       a play, forked from it
    ──────                       ────────────────────────────       ──────────────────────
    WarmRunner  -- stand, fly,   imports Ansible once, forks a  --  runs host.yml for one host up to its
    (runner)       end           play when one is wanted            only task (play); the action plugin
                                 (server)                           connects, and waits for operations
                <- one answer for each flight --------------------  on its channel

Starting `ansible-playbook` costs more than everything that a play does; forking a process that has imported
Ansible costs a small part of that.  A play that stands by costs nothing but the connection that it holds, and
it takes one flight after the other until it has had nothing to do for a while.  All of it is Ansible's own:
inventory, variables, become, connection and action plugins are what they are for `ansible-playbook`, because
a play is run by the very code behind that command.

The server has one thread and no event loop of Python's, because it forks; the daemon has threads and an event
loop, which is why it does not fork plays itself.  If the server dies, so do its plays, and the daemon starts
another one with its next flight; if the daemon dies, the server ends its plays and itself.
"""
