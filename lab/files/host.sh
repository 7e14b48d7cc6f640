#!/bin/sh
# Turns a fresh mount and UTS namespace into an agent host and runs a command there.
# Usage: host.sh STATE_DIR HOSTNAME COMMAND [ARGUMENT...]
set -eu
state=$1
name=$2
shift 2

echo "$name" >/proc/sys/kernel/hostname
mount -t tmpfs -o mode=755 mooring-lab /run
mkdir -p /run/sshd /run/lock
ln -s "$state/agents/$name/ovs" /run/openvswitch
ln -s "$state/docker.sock" /run/docker.sock

# sshd refuses root where the machine's own root account is locked; this host has its own account. Its home is
# its own as well, so that no start-up file of the machine's is read with every command.
printf 'root:*:19000:0:99999:7:::\n' >/run/shadow
chmod 600 /run/shadow
mount --bind /run/shadow /etc/shadow
mkdir -m 700 /run/root
sed 's#^root:.*#root:x:0:0:root:/run/root:/bin/sh#' /etc/passwd >/run/passwd
mount --bind /run/passwd /etc/passwd

exec "$@"
