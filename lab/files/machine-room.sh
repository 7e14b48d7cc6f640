#!/bin/sh
# Holds the mount namespace in which the lab's container engine and hosts live.
# Usage (inside a fresh, private mount namespace): machine-room.sh STATE_DIR NETNS...
#
# Whatever the engine mounts (overlays, namespaces, shared memory) exists only in here, so it is gone
# with the last process of the lab and nothing is ever left to unmount.
#
# No mount is written down (-n): until /run is our own, that would leave files in the machine's.
set -eu
state=$1
shift

mkdir -p "$state/netns"
for name in "$@"; do
    : >"$state/netns/$name"
    mount -n --bind "/run/netns/$name" "$state/netns/$name"
done

# Other labs' namespaces came along as copies of their mounts; let go, or we would keep them alive.
umount -n -R -l /run/netns

# No file of the system's own engine is read or written.
mount -n -t tmpfs -o mode=755 mooring-lab /run
if [ -d /etc/docker ]; then
    mount -n -t tmpfs -o mode=700 mooring-lab /etc/docker
fi

# The hosts follow what the engine mounts: their namespaces are made as slaves of this one.
mount --make-rshared /
: >"$state/machine-room.ready"
exec sleep infinity
