#!/bin/sh
# An OCI runtime: runc, with the machine's network namespace replaced by that of an agent host.
# Usage: runc-on-host.sh DEFAULT_NETNS AGENT_NETNS RUNC_ARGUMENT...
#
# The engine writes the path of its own namespace into a bundle that asks for the host's network.
set -eu
default=$1
own=$2
shift 2

bundle=
previous=
for argument in "$@"; do
    [ "$previous" = --bundle ] && bundle=$argument
    previous=$argument
done
if [ -n "$bundle" ]; then
    sed -i "s#\"path\": *\"$default\"#\"path\":\"$own\"#" "$bundle/config.json"
fi
exec runc "$@"
