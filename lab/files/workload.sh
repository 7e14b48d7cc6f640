#!/bin/sh
# A service that says who it is: serves the task's id as the body of / and /health.
# Usage: workload [PORT]
set -eu
if [ "${1:-}" != addressed ]; then
    exec /bin/mooring-wait "$0" addressed "$@"
fi
port=${2:-8080}

mkdir -p /tmp/www
printf '%s\n' "${MESOS_TASK_ID:-unknown}" >/tmp/www/index.html
cp /tmp/www/index.html /tmp/www/health

# The first process of a container gets no default action for signals: it must take them itself.
httpd -f -p "$port" -h /tmp/www &
trap 'kill $!; exit 0' TERM INT
wait $!
