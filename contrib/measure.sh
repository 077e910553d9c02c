# shellcheck shell=bash
# Sourced by bench and bench-offline after node.sh: functions that measure times.

now() { echo "${EPOCHREALTIME/[.,]/}"; }
# answers PORT, gone PORT. Polling must leave the processors to the containers.
answers() { until curl -s -o /dev/null --connect-timeout 0.05 --max-time 1 "http://127.0.0.1:$1/"; do sleep 0.005; done; }
gone() { ! curl -s -o /dev/null --connect-timeout 0.05 "http://127.0.0.1:$1/"; }

# measure FILE COMMAND...: runs the command, and appends its microseconds to FILE.
measure() {
    local file=$NODE/$1 began
    shift
    began=$(now)
    "$@" || fail "$*"
    echo $(($(now) - began)) >>"$file"
}

# median FILE: prints the median in milliseconds.
median() { sort -n "$NODE/$1" | awk '{v[NR] = $1} END {print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2000}'; }

# deploy NAME IMAGE HOST-PORT, undeploy NAME: call the agent's API; see `api`.
deploy() {
    api POST '/containers/deploy?wait=running&timeout=60s' '{"name": "'"$1"'", "image": "'"$2"'", "exposed_ports": [{"container": 80, "host": '"$3"'}]}' >/dev/null
    answers "$3"
}
undeploy() { api DELETE "/containers/$1?wait=removed&timeout=60s" >/dev/null; }
