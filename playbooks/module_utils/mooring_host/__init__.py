"""What Mooring does on a host: ports in Open vSwitch, interfaces, files and probes inside containers.

The package is packed by Ansible and runs under the host's own Python (3.9 or later) with its standard library
only.  It keeps no memory between runs: every run reads the switch, the devices and the containers, compares
them with what is asked and changes the difference.  Ownership stands in the switch database (`external_ids`)
and on the devices (their alias), so the host can always be asked what is ours, even by a daemon that lost its
store.
"""
